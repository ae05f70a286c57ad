"""What the planner knows of a model: its tables and the allocations of its encoder. One entry a model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from memplan.memory.ledger import Allocation, Ledger
from memplan.workload import Workload


class Encoding(NamedTuple):
    """The tensors that an encoder returns."""

    query: tuple[Allocation, ...]
    saved: tuple[Allocation, ...]


class ModelProgram(Protocol):
    """The functions that a model's file in this folder offers."""

    def tables(self, workload: Workload) -> dict[str, int]:
        """Return the rows of each embedding table, by name."""

    def encode(self, ledger: Ledger, workload: Workload, b: int) -> Encoding:
        """Tell the encoder on b examples."""

    def encode_backward(self, ledger: Ledger, workload: Workload, b: int) -> None:
        """Tell the encoder's backward; its arguments are freed by the caller."""

    def encode_time(self, ledger: Ledger, workload: Workload, b: int) -> Encoding:
        """Tell the encoder of the query for the time, on b examples."""

    def encode_time_backward(self, ledger: Ledger, workload: Workload, b: int) -> None:
        """Tell its backward; its arguments are freed by the caller."""

    def regularize(self, ledger: Ledger, workload: Workload, b: int) -> Allocation:
        """Tell the embedding regularizer; return the penalty, which lives on."""
