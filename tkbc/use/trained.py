"""A trained model, taken from a checkpoint onto the CPU whatever it was trained on; labels and neighbours of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from memplan.errors import DoesNotFitError, UsageError
from memplan.workload import Workload
from tkbc.data.dataset import Dataset
from tkbc.models import MODELS, Model
from tkbc.runs.checkpoint import load_model
from tkbc.runs.recovery import is_out_of_memory

Things = Literal["entity", "relation", "time"]


def load_trained(checkpoint: Path, workload: Workload) -> Model:
    """Return the model whose tables lie in the folder ``checkpoint``, on the CPU.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the checkpoint cannot be read or is of another model.
    """
    try:
        model = MODELS[workload.model](workload.alone.model_copy(update={"device": "cpu"}))
        load_model(checkpoint, model)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(f"{checkpoint}: out of memory while loading it: {error}; free memory") from None
    return model


def labels_of(table: str, data: Dataset) -> tuple[str, ...]:
    """Return the label of each row of the embedding table ``table``; a relation's reciprocal is marked as such.

    Rows of a table that is of no entities, relations or times have none.
    """
    if table == "entity":
        return data.entities
    if table == "time":
        return data.timestamps
    if not table.startswith("relation"):
        return ()
    return (*data.relations, *(f"{name} (reciprocal)" for name in data.relations))


def nearest(model: Model, of: Things, row: int, top: int) -> list[tuple[int, float]]:
    """Return the ``top`` rows nearest to ``row`` by cosine, itself left out, as (id, cosine), the highest first.

    cos(x, y) = x · y / (‖x‖ ‖y‖) over whole rows; a complex row counts as its 2d real numbers, so the product is
    Re⟨x, conj(y)⟩. Of a relation the rows of all its tables are joined; reciprocals are not among the candidates. A row
    of zeros has the cosine 0 to all.

    Raises:
        UsageError: the model has no such table.
    """
    table = _table_of(model, of)
    products = table @ table[row]
    norms = torch.linalg.vector_norm(table, dim=1)
    cosines = products.div_((norms * norms[row]).clamp_min_(1e-30))
    cosines[row] = -torch.inf
    order = torch.argsort(cosines, descending=True, stable=True)[: min(top, len(table) - 1)]
    return [(i, cosines[i].item()) for i in order.tolist()]


def _table_of(model: Model, of: Things) -> Tensor:
    if of == "entity":
        return model.entity.detach()
    names = [name for name in model.tables(model.workload) if name.startswith(of)]
    if not names:
        raise UsageError(f"--of {of}: {model.workload.model} has no embeddings of timestamps; entity or relation")
    tables = [model.table(name).detach() for name in names]
    return tables[0] if of == "time" else torch.cat(tables, dim=1)[: model.workload.n_relations]
