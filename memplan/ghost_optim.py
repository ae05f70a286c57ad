"""What PyTorch's optimizers keep for each table and take in a step, on ghosts; their names are ``torch.optim``'s."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from memplan.ghost import Ghost, Ghosts
from memplan.operators import passes


class SGD:
    """``torch.optim.SGD``, fused: nothing is kept and nothing taken."""

    def __init__(self, library: Ghosts, parameters: Sequence[Ghost], lr: float, *, fused: bool) -> None:
        del fused
        self.library = library
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr, "eps": 0.0}]
        self.state: dict[Ghost, dict[str, Any]] = {parameter: {} for parameter in parameters}

    def step(self) -> None:
        """Take a step; where step counts are kept, they go up by one."""
        if any(self.state.values()):
            passes(self.library.ledger, "with a Python number")


class Adagrad(SGD):
    """``torch.optim.Adagrad``: a sum of squares for each table; step counts beside it where it is fused, else on the host."""

    def __init__(
        self, library: Ghosts, parameters: Sequence[Ghost], lr: float, *, fused: bool, foreach: bool = False
    ) -> None:
        del foreach
        super().__init__(library, parameters, lr, fused=fused)
        for parameter, state in self.state.items():
            counts = library if fused else Ghosts("cpu")
            state["step"] = counts.zeros((), device=counts.device)
            state["sum"] = library.zeros_like(parameter)


class Adam(SGD):
    """``torch.optim.Adam``, fused: what it keeps it would make in its first step; the trainer makes it before."""


def library_of_optimizers(library: Ghosts) -> Any:
    """Return what ``torch.optim`` is to the library."""
    return SimpleNamespace(**{kind.__name__: partial(kind, library) for kind in (SGD, Adagrad, Adam)})
