"""Temporaries of a few bytes that PyTorch makes around Python numbers on the CPU, told so that small runs are exact."""

from __future__ import annotations

from memplan.ledger import Allocation, DType, Ledger

SCALAR: tuple[int, ...] = ()


def scalar_operand(ledger: Ledger) -> None:
    """Tell the Python number of an in-place operation on a float32 tensor: wrapped as float64, then cast."""
    if ledger.device == "cuda":
        return  # it travels as an argument of the kernel
    with ledger.temporary("Python number", *SCALAR, dtype="float64"):
        ledger.passing("Python number, cast", *SCALAR)


def with_integer_operand(ledger: Ledger, name: str, *shape: int, dtype: DType) -> Allocation:
    """Tell a result computed from an int64 tensor and a Python number, which is wrapped as int64 meanwhile."""
    if ledger.device == "cuda":
        return ledger.new(name, *shape, dtype=dtype)
    with ledger.temporary("Python number", *SCALAR, dtype="int64"):
        return ledger.new(name, *shape, dtype=dtype)
