"""The rows of the entity table that a step uses: drawn candidates, heads and tails, each with a place in one gradient.

The step's memory is that of the places, however many entities there are, and does not depend on which are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memplan.workload import Workload
from tkbc.tensors import in_any_order, named, torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class UsedRows:
    """K drawn entities, then the heads and the tails of a step's examples: K + 2B places, each with a gradient row.

    The drawn ones differ, so each has the place that it is drawn to. An entity that comes more than once is at home in
    one of its places: all that is added for it is added there, and the rows of its other places stay 0. Which place
    it is, no result depends on.
    """

    def __init__(self, entity: Tensor, workload: Workload, library: Any) -> None:
        """Allocate what lives as long as training does. ``library``: ``torch``, or that of ghosts."""
        assert workload.negatives is not None
        self._entity = entity
        self._n = n = workload.negatives + 2 * workload.batch_size
        n_entities, width = entity.shape
        at = {"device": workload.device}
        self._ids: Tensor = named("ids of used rows", library.zeros((n,), dtype=library.int64, **at), "data")
        self._places: Tensor = named("places", library.arange(n, dtype=library.int32, **at), "data")
        homes = library.zeros((n_entities,), dtype=library.int32, **at)
        self._homes: Tensor = named("place of each entity", homes, "data")
        self._gradient: Tensor = named("gradient of used rows", entity.new_zeros((n, width)), "gradients")
        self.drawn: Tensor = named("drawn rows", entity.new_empty((workload.negatives, width)), "data")
        """The drawn entities' rows, (K, width), as the step found them."""

    @property
    def drawn_ids(self) -> Tensor:
        """The drawn entities, (K,) int64, all different; for whoever draws them to write."""
        return self._ids[: len(self.drawn)]

    @property
    def drawn_gradient(self) -> Tensor:
        """The gradient rows of the drawn entities, (K, width)."""
        return self._gradient[: len(self.drawn)]

    @property
    def ids(self) -> Tensor:
        """The entities in the step's places, (n,) int64; some come more than once."""
        return self._ids[: self._n]

    @property
    def gradient(self) -> Tensor:
        """The gradient of the step's places, (n, width)."""
        return self._gradient[: self._n]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all that lives as long as training does."""
        yield from (self._ids, self._places, self._homes, self._gradient, self.drawn)

    def use(self, heads: Tensor, tails: Tensor) -> None:
        """Give the drawn entities and those of a step's examples, each (B,), their places; forget those of before."""
        k, b = len(self.drawn), len(heads)
        self._n = n = k + 2 * b
        self._ids[k : k + b].copy_(heads)
        self._ids[k + b : n].copy_(tails)
        with in_any_order(self._homes):
            self._homes.index_copy_(0, self._ids[k:n], self._places[k:n])
            # The drawn ones last, over the others: they are at home where they were drawn to.
            self._homes.index_copy_(0, self._ids[:k], self._places[:k])
        torch.index_select(self._entity, 0, self._ids[:k], out=self.drawn)

    def places_of(self, ids: Tensor) -> Tensor:
        """Return where entities of the step are at home, (b,) int32: below K exactly those that are drawn."""
        return named("places of entities", self._homes.index_select(0, ids))

    def add(self, ids: Tensor, values: Tensor) -> None:
        """Add ``values``, (b, width), to the gradient of the entities that ``ids`` names; repeats add up."""
        self._gradient.index_add_(0, self.places_of(ids), values)
