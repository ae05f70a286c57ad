"""What the optimizers hold and what their step allocates. The code whose bytes this tells: tkbc/step/optimizers.py."""

from __future__ import annotations

from memplan.memory.ledger import Ledger
from memplan.memory.operators import SCALAR, passes
from memplan.workload import OptimizerName, Workload

MOMENTS: dict[OptimizerName, tuple[str, ...]] = {
    "adagrad": ("sum of squares",),
    "adam": ("first moment", "second moment"),
    "sgd": (),
}
"""What an optimizer keeps for each table, as large as the table."""


def state(ledger: Ledger, workload: Workload, tables: dict[str, int]) -> None:
    """Tell the optimizer's state, one table after another."""
    moments = MOMENTS[workload.optimizer]
    if not moments:
        return
    for name, rows in tables.items():
        if not _is_single_tensor_adagrad(workload):
            ledger.new(f"{workload.optimizer} step count of {name}", *SCALAR, kind="optimizer")
        for moment in moments:
            ledger.new(f"{workload.optimizer} {moment} of {name}", rows, workload.width, kind="optimizer")


def step(ledger: Ledger, workload: Workload, tables: dict[str, int]) -> None:
    """Tell an optimizer step."""
    if _is_single_tensor_adagrad(workload):
        ledger.passing("root of a sum of squares", max(tables.values()) * workload.width)
    elif MOMENTS[workload.optimizer]:
        passes(ledger, "with a Python number")  # the step counts go up by one


def _is_single_tensor_adagrad(workload: Workload) -> bool:
    """Return whether Adagrad runs as PyTorch's single-tensor one: on CUDA, with its step counts on the CPU."""
    return workload.optimizer == "adagrad" and workload.device == "cuda"
