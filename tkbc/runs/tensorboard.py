"""The metrics for TensorBoard: an optional extra, asked for with ``--tensorboard``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from memplan.errors import MemplanError
from tkbc.ranking.evaluation import Evaluation
from tkbc.runs.reporter import EpochReport


def require_tensorboard() -> None:
    """Check that the package is there.

    Raises:
        MemplanError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MemplanError(
            "--tensorboard needs the package tensorboard: pip install tensorboard, or leave the option out"
        )


class Board:
    """Writes scalars to ``folder``, where ``tensorboard --logdir`` finds them.

    ``epoch``: the first that will be written; what a run that was cut short wrote from there on is taken back.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=epoch)
        self._epoch = epoch

    def add(self, report: EpochReport, memory: dict[str, int | None]) -> None:
        """Write an epoch."""
        self._epoch = report.epoch
        values: dict[str, float] = {
            "train/loss": report.loss,
            "train/n3_penalty": report.n3_penalty,
            "train/examples_per_second": report.examples_per_second,
        }
        values |= {f"memory/{name}": value for name, value in memory.items() if value is not None}
        if report.valid is not None:
            values |= {f"valid/{name}": value for name, value in report.valid.both._asdict().items()}
        self._add(values)

    def close(self, test: Evaluation | None) -> None:
        """Write the test metrics where there are any, and everything that is still to be written."""
        if test is not None:
            self._add({f"test/{name}": value for name, value in test.both._asdict().items()})
        self._writer.close()

    def _add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._epoch)
        self._writer.flush()
