"""Embedding tables with their labels as one file for other programs: NumPy's npz, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memplan.errors import MemplanError, UsageError, reason_of
from memplan.files import replace_file
from tkbc.data.dataset import Dataset
from tkbc.models import Model
from tkbc.use.trained import labels_of

SUFFIXES = (".npz", ".parquet")
LABELS = {"entity": "entity_labels", "time": "time_labels"}
"""The npz file's array with a table's labels; every other table is of relations."""
RELATION_LABELS = "relation_labels"


def check_file(path: Path, *, force: bool) -> None:
    """Check that an export may go to ``path``, before anything is loaded for it.

    Raises:
        UsageError: another ending than those known.
        MemplanError: the file is there and ``force`` is not set, or pyarrow is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: an export ends in {' or '.join(SUFFIXES)}")
    if path.exists() and not force:
        raise MemplanError(f"{path}: there is a file already; write over it with --force, or name another")
    if path.suffix.lower() == ".parquet":
        _require_pyarrow(path)


def export(model: Model, data: Dataset, about: dict[str, Any], path: Path) -> None:
    """Write every embedding table with its labels to ``path``, whole or not at all; its ending says in which format.

    npz: an array (rows, width) float32 a table; ``entity_labels``, ``relation_labels`` and ``time_labels``, each the
    UTF-8 bytes of a JSON list, since an array of text is as wide as its longest; and ``about``, JSON text. Parquet: a
    row for each embedding with the columns ``table``, ``id``, ``label`` and ``embedding``, the same JSON in the
    schema's metadata under ``about``. ``about`` is what to say of the model.

    Raises:
        MemplanError: it cannot be written, or pyarrow is missing.
    """
    tables = {name: table.detach().numpy() for name, table in model.named_parameters()}
    text = json.dumps({**about, **_layout(model)}, ensure_ascii=False)
    write = _write_npz if path.suffix.lower() == ".npz" else _write_parquet
    with _replacing(path) as file:
        write(file, tables, data, text)


def _layout(model: Model) -> dict[str, Any]:
    workload = model.workload
    n_relations = workload.n_relations
    complex_rows = f"{workload.rank} real parts, then {workload.rank} imaginary parts"
    return {
        "row": complex_rows if workload.traits.is_complex else f"{workload.rank} real numbers",
        "relations": f"rows {n_relations} and on are the reciprocals, of (t, r + {n_relations}, h, time)",
        "tables": {name: LABELS.get(name, RELATION_LABELS) for name in model.tables(workload)},
    }


def _write_npz(file: IO[bytes], tables: dict[str, npt.NDArray[np.float32]], data: Dataset, about: str) -> None:
    labels = {LABELS.get(name, RELATION_LABELS): _as_bytes(labels_of(name, data)) for name in tables}
    np.savez(file, **tables, **labels, about=np.array(about))  # type: ignore[arg-type]


def _as_bytes(labels: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(labels, ensure_ascii=False).encode(), dtype=np.uint8)


def _write_parquet(file: IO[bytes], tables: dict[str, npt.NDArray[np.float32]], data: Dataset, about: str) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    width = tables["entity"].shape[1]
    columns = {"table": pa.string(), "id": pa.int32(), "label": pa.string(), "embedding": pa.list_(pa.float32(), width)}
    schema = pa.schema(list(columns.items()), metadata={"about": about})
    with ParquetWriter(file, schema) as writer:
        for name, table in tables.items():  # a row group each, so that a reader may take one table alone
            values = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), width)
            ids = pa.array(np.arange(len(table), dtype=np.int32))
            rows = [pa.array([name] * len(table)), ids, pa.array(labels_of(name, data), pa.string()), values]
            writer.write_table(pa.Table.from_arrays(rows, schema=schema))


def _require_pyarrow(path: Path) -> None:
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError:
        needs = "Parquet needs pyarrow: pip install 'memplan-tkbc[parquet]', or export to .npz"
        raise MemplanError(f"{path}: {needs}") from None


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of ``path`` once it is whole; where anything goes wrong nothing is left."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        replace_file(unfinished, path)
    except OSError as error:
        raise MemplanError(f"{path}: cannot be written: {reason_of(error)}") from None
    finally:
        with suppress(OSError):  # the first error is the one to tell
            unfinished.unlink(missing_ok=True)
