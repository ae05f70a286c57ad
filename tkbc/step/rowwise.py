"""Row-wise steps: of the entity table the rows alone that a step used change, and their optimizer state with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkbc.models.used import UsedRows
from tkbc.tensors import in_any_order, named

if TYPE_CHECKING:
    from torch import Tensor


class RowWise:
    """Adagrad or SGD, of all tables but the entities' as it is, of those row by row; state and rates are its own.

    What a dense step with the same gradient would do: a row without a gradient stays as it is in both, so no row is
    behind. (Adam's moments fade in every step, with a gradient or without one: it has no row-wise step that is the
    same.)
    """

    def __init__(self, inner: Any, table: Tensor, used: UsedRows) -> None:
        """``inner``: the optimizer with the state of all tables."""
        self._inner, self._table, self._used = inner, table, used
        self.param_groups: list[dict[str, Any]] = inner.param_groups
        self.state: dict[Tensor, dict[str, Tensor]] = inner.state
        (group,) = self.param_groups
        group["params"] = [parameter for parameter in group["params"] if parameter is not table]
        self._done = 0
        """Of the step under way: 1 where all other tables have changed, 2 where the used rows have too."""

    @property
    def has_begun(self) -> bool:
        """Whether a step was given up after its first change to a table: it can only be gone on with."""
        return self._done > 0

    def step(self) -> None:
        """Take a step, p −= learning rate · g for SGD, sum += g², p −= learning rate · g / (√sum + ε) for Adagrad.

        What it needs is allocated before the first table changes; one that failed all the same goes on from there.
        """
        ids, state = self._used.ids, self.state[self._table]
        change, squares = self._change(state.get("sum"))
        if self._done == 0:
            if "step" in state:
                state["step"].add_(1)
            self._inner.step()
            self._done = 1
        # Where an entity comes twice, one row has its gradient and the other is 0: sums in any order are the same.
        with in_any_order(self._table):
            if self._done == 1:
                self._table.index_add_(0, ids, change)
                self._done = 2
            if squares is not None:
                state["sum"].index_add_(0, ids, squares)
        self._done = 0

    def _change(self, sums: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what to add to the used rows, and to their sums of squares, (n, width) each."""
        gradient, (group,) = self._used.gradient, self.param_groups
        if sums is None:
            return named("change of used rows", gradient * -group["lr"]), None
        squares = named("squares of the gradient", gradient.square())
        root = named("roots of the sums of squares", sums.index_select(0, self._used.ids))
        root.add_(squares).sqrt_().add_(group["eps"])
        return root.reciprocal_().mul_(gradient).mul_(-group["lr"]), squares
