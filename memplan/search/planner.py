"""The search: micro-batch, chunk, scoring and evaluation sizes for a budget; everything else stays as asked.

Micro-batch, chunk and scoring change no result. The scoring is the best that can run; micro-batches and chunks that fit
are compared by predicted time, then by memory. What the user fixed is kept, and so are batch and rank, unless the rank
is given up for search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from memplan.device.target import Target
from memplan.errors import DoesNotFitError, UsageError
from memplan.memory.estimate import estimate, peak_of
from memplan.memory.ledger import Ledger
from memplan.memory.programs.step import run, set_up
from memplan.plan import Alternative, Plan
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.units import format_bytes, format_mib_up
from memplan.workload import MAX_KERNEL_ELEMENTS, MAX_RANK, Shape, Workload, build_workload
from memplan.workload.rules import available, obstacle, preferred, require

SMALLEST_CHUNK = 128
LARGEST_EVALUATION = 1024
"""Queries ranked at once; more gain nothing once the kernels are busy."""
ALTERNATIVES = 5

Layout = tuple[int, int]
"""Queries at once (b) and entities at once (C)."""


def plan(
    shape: Shape,
    target: Target,
    *,
    n_queries: int | None = None,
    allow_rank_reduction: bool = False,
    **settings: Any,
) -> Plan:
    """Return the fastest plan, by the cost model, that fits ``target.budget_bytes``.

    ``settings`` are fields of the workload; ``micro_batch_size``, ``chunk_size``, ``scoring``, ``eval_batch_size`` and
    ``eval_chunk_size`` are searched where left out. The evaluation's batch, given or not, is no larger than
    ``n_queries`` where a split is known to hold no more. With ``allow_rank_reduction`` the rank is lowered to the
    largest that fits, where as it is nothing does. Equal inputs give equal plans.

    Raises:
        UsageError: a setting is out of range.
        DoesNotFitError: nothing fits; names the smallest budget that would do and the largest tensor in its way.
    """
    search = Search(shape, target, n_queries, settings)
    if search.smallest_bytes() <= target.budget_bytes:
        return search.plan()
    if not allow_rank_reduction:
        raise search.nothing_fits()

    def fits(rank: int) -> bool:
        return Search(shape, target, n_queries, {**settings, "rank": rank}).smallest_bytes() <= target.budget_bytes

    asked = search.base.rank
    rank = _largest(fits, asked - 1)
    if rank == 0:
        raise Search(shape, target, n_queries, {**settings, "rank": 1}).nothing_fits(at_any_rank=True)
    found = Search(shape, target, n_queries, {**settings, "rank": rank}).plan()
    return found.model_copy(update={"rank_lowered_from": asked})


def plan_largest_rank(
    shape: Shape, target: Target, seconds: float, *, n_queries: int | None = None, **settings: Any
) -> Plan:
    """Return the plan with the largest rank that fits the budget at ``seconds`` an epoch or less, by the cost model.

    Raises:
        UsageError: a setting is out of range, or even rank 1 takes longer.
        DoesNotFitError: nothing fits, whatever the rank.
    """

    def at(rank: int) -> Search:
        return Search(shape, target, n_queries, {**settings, "rank": rank})

    if at(1).smallest_bytes() > target.budget_bytes:
        raise at(1).nothing_fits(at_any_rank=True)
    rank = _largest(lambda rank: at(rank).least_seconds() <= seconds, MAX_RANK)
    rank = _largest(lambda rank: at(rank).smallest_bytes() <= target.budget_bytes, rank)
    found = at(rank).plan() if rank else None
    if found is None or found.seconds_per_epoch > seconds:
        rank = _largest(lambda rank: at(rank).plan().seconds_per_epoch <= seconds, rank)
        if rank == 0:
            least = at(1).plan().seconds_per_epoch
            raise UsageError(
                f"--epoch-seconds: {seconds:g}: an epoch takes {least:.2g} s even at rank 1, by the cost model; "
                "allow more, or take a faster device"
            )
        found = at(rank).plan()
    reason = f"rank {rank}, the largest that fits within {seconds:g} s an epoch; {found.reason}"
    return found.model_copy(update={"reason": reason})


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to ``most`` for which ``holds``, 0 if it holds for none; what holds, holds below."""
    low, high = 0, most
    if most > 0 and holds(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class Search:
    """The layouts of one workload and what each takes.

    Memory grows with micro-batch and with chunk: exactly so where tensors' own bytes count, nearly so for what a
    caching allocator reserves. A staircase over both therefore finds every layout that fits in as many looks as both
    have sizes together, each layout is looked at once more before it is taken, and where the smallest does not fit,
    none is taken. So a larger budget can only add layouts.
    """

    def __init__(self, shape: Shape, target: Target, n_queries: int | None, settings: dict[str, Any]) -> None:
        self.target = target
        self.fixed = {name: value for name, value in settings.items() if value is not None}
        self.fixed = {"workspace_bytes": target.workspace_bytes, **self.fixed, "device": target.device}
        if n_queries is not None and self.fixed.get("eval_batch_size", 0) > n_queries:
            self.fixed["eval_batch_size"] = n_queries
        base = build_workload(shape, **self.fixed)
        if "scoring" in self.fixed:
            require(base.score, base.scoring, base.device, target.capability)
        else:
            scoring = preferred(base.score, base.device, target.capability)
            base = base.model_copy(update={"scoring": scoring})
        self.base = base
        largest = min(LARGEST_EVALUATION, n_queries or LARGEST_EVALUATION)
        all_at_once = base.scoring == "materialized"
        self.batches = [base.micro_batch_size] if "micro_batch_size" in self.fixed else halvings(base.batch_size)
        self.chunks = [base.chunk_size] if "chunk_size" in self.fixed or all_at_once else _chunks(base.n_entities)
        self.eval_batches = [base.eval_batch_size] if "eval_batch_size" in self.fixed else halvings(largest)
        self.eval_chunks = (
            [base.eval_chunk_size] if "eval_chunk_size" in self.fixed or all_at_once else _chunks(base.n_entities)
        )
        self._start: Ledger | None = None
        self._bytes: dict[tuple[bool, Layout], int] = {}

    def plan(self) -> Plan:
        """Return the fastest plan that fits; ``smallest_bytes`` is known to."""
        training = self._fastest(self._fitting(self.batches, self.chunks, training=True), training=True)
        evaluation = self._fastest(self._fitting(self.eval_batches, self.eval_chunks, training=False), training=False)
        chosen = self._workload(training, evaluation)
        result = estimate(chosen, outside_bytes=self.target.outside_bytes, budget_bytes=self.target.budget_bytes)
        alternatives = list(self._alternatives(training))
        is_fastest = not any(other.reason.startswith("faster") for other in alternatives)
        return Plan(
            workload=chosen,
            batch_size=chosen.batch_size,
            micro_batch_size=chosen.micro_batch_size,
            accumulation_steps=chosen.accumulation_steps,
            rank=chosen.rank,
            chunk_size=chosen.chunk_size,
            scoring=chosen.scoring,
            precision=chosen.precision,
            eval_batch_size=chosen.eval_batch_size,
            eval_chunk_size=chosen.eval_chunk_size,
            peak=result.peak,
            phases=result.phases,
            budget_bytes=self.target.budget_bytes,
            budget_source=self.target.budget_source,
            smallest_budget_bytes=self.smallest_bytes(),
            fits=True,
            seconds_per_epoch=seconds_per_epoch(chosen, self.target.rates),
            reason=self._reason(chosen, is_fastest=is_fastest),
            alternatives=alternatives,
        )

    def smallest_bytes(self) -> int:
        """Return what the smallest layout takes on the device: the smallest budget that will do."""
        return max(self._device_bytes(*layout) for layout in self._smallest())

    def least_seconds(self) -> float:
        """Return the predicted time of an epoch in the fastest layout, whether it fits or not."""
        return min(
            seconds_per_epoch(self._training((b, c)), self.target.rates) for b, c in self._layouts(training=True)
        )

    def nothing_fits(self, *, at_any_rank: bool = False) -> DoesNotFitError:
        """Return the error that names the smallest budget that would do and the largest tensor in the way."""
        way_out = (
            "Raise the budget"
            if at_any_rank
            else ("Raise the budget, lower --rank, or let --allow-rank-reduction do so")
        )
        (_, training), (_, evaluation) = self._smallest()
        workload = self._workload(training, evaluation)
        obstacle = estimate(workload, outside_bytes=self.target.outside_bytes).tensors_at_peak[0]
        dimensions = " × ".join(str(size) for size in obstacle.shape)
        return DoesNotFitError(
            f"nothing fits {format_bytes(self.target.budget_bytes)} ({self.target.budget_source}): the smallest budget "
            f"that would do is {format_mib_up(self.smallest_bytes())} (rank {workload.rank}, micro-batch "
            f"{workload.micro_batch_size}, chunk {workload.chunk_size}, {workload.scoring} scoring); the largest "
            f"tensor then is the {obstacle.name}, {dimensions}, {format_bytes(obstacle.bytes)}. {way_out}"
        )

    def _smallest(self) -> list[tuple[bool, Layout]]:
        return [(True, (self.batches[-1], self.chunks[-1])), (False, (self.eval_batches[-1], self.eval_chunks[-1]))]

    def _training(self, layout: Layout) -> Workload:
        return self.base.model_copy(update={"micro_batch_size": layout[0], "chunk_size": layout[1]})

    def _workload(self, training: Layout, evaluation: Layout) -> Workload:
        update = {"eval_batch_size": evaluation[0], "eval_chunk_size": evaluation[1]}
        return self._training(training).model_copy(update=update)

    def _layouts(self, *, training: bool) -> Iterator[Layout]:
        batches, chunks = (self.batches, self.chunks) if training else (self.eval_batches, self.eval_chunks)
        return ((b, c) for c in chunks for b in batches if b * c <= MAX_KERNEL_ELEMENTS)

    def _device_bytes(self, training: bool, layout: Layout) -> int:
        key = (training, layout)
        if key not in self._bytes:
            if self._start is None:
                self._start = set_up(self.base)
            workload = self._training(layout) if training else self._workload(self._smallest()[0][1], layout)
            ledger = run(workload, training=training, evaluation=not training, start=self._start)
            self._bytes[key] = peak_of(ledger, workload, self.target.outside_bytes).device_bytes
        return self._bytes[key]

    def _fits(self, training: bool, layout: Layout) -> bool:
        if layout[0] * layout[1] > MAX_KERNEL_ELEMENTS:
            return False
        return self._device_bytes(training, layout) <= self.target.budget_bytes

    def _fitting(self, batches: list[int], chunks: list[int], *, training: bool) -> Iterator[Layout]:
        """Yield the layouts under the staircase: chunks from the largest down, micro-batches from the smallest up."""
        ascending = batches[::-1]
        n_fitting = 0
        for chunk in chunks:
            while n_fitting < len(ascending) and self._fits(training, (ascending[n_fitting], chunk)):
                n_fitting += 1
            for batch in ascending[:n_fitting]:
                yield batch, chunk

    def _fastest(self, layouts: Iterator[Layout], *, training: bool) -> Layout:
        ordered = sorted(layouts, key=lambda layout: self._preference(layout, training=training))
        return next(layout for layout in ordered if self._fits(training, layout))

    def _preference(self, layout: Layout, *, training: bool) -> tuple[float, int, int]:
        """Sort key: the faster first; among equals the layout that takes less memory."""
        if training:
            seconds = seconds_per_epoch(self._training(layout), self.target.rates)
        else:
            seconds = evaluation_seconds(self._workload(self._smallest()[0][1], layout), self.target.rates)
        return seconds, *layout

    def _alternatives(self, chosen: Layout) -> Iterator[Alternative]:
        """Yield what is faster but does not fit, the runners-up, and the other scorings' whole batch."""
        ordered = sorted(self._layouts(training=True), key=lambda layout: self._preference(layout, training=True))
        at = ordered.index(chosen)
        for layout in ordered[: min(at, ALTERNATIVES)]:
            yield self._alternative(layout, "faster, but ")
        for layout in ordered[at + 1 :][: max(2, ALTERNATIVES - at)]:
            yield self._alternative(layout, "not faster")
        if "scoring" in self.fixed:
            return
        for scoring in available(self.base.score, self.base.device, self.target.capability):
            if scoring == self.base.scoring:
                continue
            chunk = self.base.n_entities if scoring == "materialized" else chosen[1]
            if self.base.batch_size * chunk <= MAX_KERNEL_ELEMENTS:
                workload = self._training((self.base.batch_size, chunk)).model_copy(update={"scoring": scoring})
                ledger = run(workload, evaluation=False)
                needed = peak_of(ledger, workload, self.target.outside_bytes).device_bytes
                yield self._told(workload, needed, "another scoring")

    def _alternative(self, layout: Layout, why: str) -> Alternative:
        needed = self._device_bytes(True, layout)
        return self._told(self._training(layout), needed, why)

    def _told(self, workload: Workload, needed: int, why: str) -> Alternative:
        over = needed - self.target.budget_bytes
        if why.startswith("faster"):
            # A caching allocator can reserve less for a larger layout; the staircase does not count on it.
            reason = why + (f"{format_bytes(over)} over the budget" if over > 0 else "not every smaller layout fits")
        elif over > 0:
            reason = f"{why}, and {format_bytes(over)} over the budget"
        else:
            reason = f"{why}; fits"
        return Alternative(
            micro_batch_size=workload.micro_batch_size,
            chunk_size=workload.chunk_size,
            scoring=workload.scoring,
            device_bytes=needed,
            seconds_per_epoch=seconds_per_epoch(workload, self.target.rates),
            reason=reason,
        )

    def _reason(self, chosen: Workload, *, is_fastest: bool) -> str:
        if chosen.accumulation_steps > 1:
            batch = f"{chosen.accumulation_steps} micro-batches of {chosen.micro_batch_size} a step"
        else:
            batch = "the whole batch at once"
        if chosen.chunk_size < chosen.n_entities:
            entities = f"entities scored {chosen.chunk_size} at a time"
        else:
            entities = "all entities scored at once"
        why = "the fastest of all, and it fits" if is_fastest else "the fastest that fits"
        fallback = obstacle(chosen.score, "fused", chosen.device, self.target.capability)
        note = f" ({fallback})" if fallback is not None else ""
        return f"{batch}, {entities}, {chosen.scoring} scoring{note}: {why}"


def halvings(size: int, smallest: int = 1) -> list[int]:
    """Return ``size`` and what follows by halving, rounded up, down to ``smallest``: 10 gives 10, 5, 3, 2, 1."""
    sizes = [size]
    while sizes[-1] > smallest:
        sizes.append(max(smallest, -(-sizes[-1] // 2)))
    return sizes


def _chunks(n_entities: int) -> list[int]:
    """Return all entities at once, then powers of two below."""
    powers = [2**k for k in range(SMALLEST_CHUNK.bit_length() - 1, n_entities.bit_length() + 1) if 2**k < n_entities]
    return [n_entities, *reversed(powers)]
