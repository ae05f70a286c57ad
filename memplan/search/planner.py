"""The search: micro-batch, chunk, scoring and evaluation sizes for a budget; everything else stays as asked.

Micro-batch, chunk and scoring change no result. The scoring is the best that can run; micro-batches and chunks that fit
are compared by predicted time, then by memory. What the user fixed is kept, and so are batch and rank, unless the rank
is given up for search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memplan.device.rates import StepRates
from memplan.device.target import Target
from memplan.errors import DoesNotFitError, UsageError
from memplan.plan import Alternative, Plan
from memplan.prediction.estimate import estimate, peak_of
from memplan.prediction.rehearsal import rehearsal
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.search.meshes import Meshes, mesh_of, mesh_shapes
from memplan.search.sent import sending_seconds
from memplan.search.side import Layout, Side, chunk_choices, halvings
from memplan.units import format_bytes, format_mib_up
from memplan.workload import MAX_RANK, Shape, Workload, build_workload
from memplan.workload.rules import available, obstacle, preferred, require

if TYPE_CHECKING:
    from tkbc.rehearsal import Rehearsal

LARGEST_EVALUATION = 1024
"""Queries ranked at once; more gain nothing once the kernels are busy."""
ALTERNATIVES = 5
OF_A_SHARD = "all of a shard's"


def plan(
    shape: Shape,
    target: Target,
    *,
    n_queries: int | None = None,
    allow_rank_reduction: bool = False,
    **settings: Any,
) -> Plan:
    """Return the fastest plan, by the cost model, that fits ``target.budget_bytes``.

    Where the target is one of several devices, over every mesh of them, or those with as many ``shards`` as are given.
    ``settings`` are fields of the workload; ``micro_batch_size``, ``chunk_size``, ``scoring``, ``eval_batch_size`` and
    ``eval_chunk_size`` are searched where left out. The evaluation's batch, given or not, is no larger than
    ``n_queries`` where a split is known to hold no more. With ``allow_rank_reduction`` the rank is lowered to the
    largest that fits, where as it is nothing does. Equal inputs give equal plans.

    Raises:
        UsageError: a setting is out of range.
        DoesNotFitError: nothing fits; names the smallest budget that would do and the largest tensor in its way.
    """
    search = search_of(shape, target, n_queries, settings)
    if search.smallest_bytes() <= target.budget_bytes:
        return search.plan()
    if not allow_rank_reduction:
        raise search.nothing_fits()

    asked = search.base.rank
    rank = largest_rank(shape, target, most=asked - 1, n_queries=n_queries, **settings)
    if rank == 0:
        raise search_of(shape, target, n_queries, {**settings, "rank": 1}).nothing_fits(at_any_rank=True)
    found = search_of(shape, target, n_queries, {**settings, "rank": rank}).plan()
    return found.model_copy(update={"rank_lowered_from": asked})


def plan_largest_rank(
    shape: Shape,
    target: Target,
    seconds: float | None = None,
    *,
    most: int = MAX_RANK,
    n_queries: int | None = None,
    **settings: Any,
) -> Plan:
    """Return the plan with the largest rank, up to ``most``, that fits the budget.

    ``seconds``: what an epoch may take, by the cost model; None: as long as it takes.

    Raises:
        UsageError: a setting is out of range, or even rank 1 takes longer.
        DoesNotFitError: nothing fits, whatever the rank.
    """

    def at(rank: int) -> Search | Meshes:
        return search_of(shape, target, n_queries, {**settings, "rank": rank})

    if at(1).smallest_bytes() > target.budget_bytes:
        raise at(1).nothing_fits(at_any_rank=True)
    limit = math.inf if seconds is None else seconds
    rank = _largest(lambda rank: at(rank).least_seconds() <= limit, most)
    rank = largest_rank(shape, target, most=rank, n_queries=n_queries, **settings)
    found = at(rank).plan() if rank else None
    if found is None or found.seconds_per_epoch > limit:
        rank = _largest(lambda rank: at(rank).plan().seconds_per_epoch <= limit, rank)
        if rank == 0:
            least = at(1).plan().seconds_per_epoch
            raise UsageError(
                f"--epoch-seconds: {limit:g}: an epoch takes {least:.2g} s even at rank 1, by the cost model; "
                "allow more, or take a faster device"
            )
        found = at(rank).plan()
    within = "" if seconds is None else f" within {seconds:g} s an epoch"
    return found.model_copy(update={"reason": f"rank {rank}, the largest that fits{within}; {found.reason}"})


def largest_rank(
    shape: Shape, target: Target, *, most: int = MAX_RANK, n_queries: int | None = None, **settings: Any
) -> int:
    """Return the largest rank, up to ``most``, that fits the budget, however long it takes; 0 where none does."""

    def fits(rank: int) -> bool:
        return search_of(shape, target, n_queries, {**settings, "rank": rank}).smallest_bytes() <= target.budget_bytes

    return _largest(fits, most)


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to ``most`` for which ``holds``, 0 if it holds for none; what holds, holds below."""
    low, high = 0, most
    if most > 0 and holds(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def search_of(shape: Shape, target: Target, n_queries: int | None, settings: dict[str, Any]) -> Search | Meshes:
    """Return the search for a workload's sizes, over every mesh that can be where the target has several devices.

    Raises:
        UsageError: a setting is out of range, in every mesh.
    """
    shards, replicas = settings.get("shards"), settings.get("replicas")
    if replicas is not None or (target.n_devices in (None, 1) and shards is None):
        return Search(shape, target, n_queries, settings)
    found, problems = [], []
    for n_shards, n_replicas in mesh_shapes(target.n_devices or 1, shards):
        try:
            of_mesh = {**settings, "shards": n_shards, "replicas": n_replicas}
            found.append(Search(shape, target, n_queries, of_mesh))
        except UsageError as error:  # more replicas than a batch has examples, or than leave a micro-batch as asked for
            problems.append(error)
    if not found:
        raise problems[0]
    return Meshes(found)


class Search:
    """The search for one workload's sizes: two sides, training and evaluation, within one budget."""

    def __init__(self, shape: Shape, target: Target, n_queries: int | None, settings: dict[str, Any]) -> None:
        self.target = target
        fixed = {name: value for name, value in settings.items() if value is not None}
        fixed = {"workspace_bytes": target.workspace_bytes, **fixed, "device": target.device}
        if n_queries is not None and fixed.get("eval_batch_size", 0) > n_queries:
            fixed["eval_batch_size"] = n_queries
        base = build_workload(shape, **fixed)
        self.scoring_is_fixed = "scoring" in fixed
        if self.scoring_is_fixed:
            require(base.score, base.scoring, base.device, target.capability)
        else:
            base = base.model_copy(update={"scoring": preferred(base.score, base.device, target.capability)})
        self.base = base

        def choices(name: str, all_of_them: list[int]) -> list[int]:
            return [getattr(base, name)] if name in fixed else all_of_them

        def chunks(n: int) -> list[int]:
            return [n] if base.scoring == "materialized" else chunk_choices(n)

        largest = min(LARGEST_EVALUATION, n_queries or LARGEST_EVALUATION)
        n_trained = base.n_candidates if base.scoring != "materialized" else base.negatives or base.n_entities
        n_ranked = len(base.own_entities) if base.scoring != "materialized" else base.n_entities
        self.training = Side(
            choices("micro_batch_size", halvings(base.replica_batch_size)),
            choices("chunk_size", chunks(n_trained)),
            workload_of=self._trained,
            bytes_of=lambda workload: self.device_bytes(workload, evaluation=False),
            seconds_of=self.seconds,
            budget_bytes=target.budget_bytes,
        )
        self.evaluation = Side(
            choices("eval_batch_size", halvings(largest)),
            choices("eval_chunk_size", chunks(n_ranked)),
            workload_of=lambda layout: self._workload(self.training.smallest, layout),
            bytes_of=lambda workload: self.device_bytes(workload, training=False),
            seconds_of=lambda workload: evaluation_seconds(workload, target.rates),
            budget_bytes=target.budget_bytes,
        )

    def seconds(self, workload: Workload) -> float:
        """Return the predicted time of an epoch, computing and sending."""
        computing = seconds_per_epoch(workload, self.target.rates)
        return computing if workload.n_processes == 1 else computing + sending_seconds(workload, self.target.link)

    def best(self) -> Search:
        """Return this: there is no other mesh."""
        return self

    def fits(self) -> bool:
        """Return whether anything does."""
        return self.smallest_bytes() <= self.target.budget_bytes

    def smallest(self) -> Workload:
        """Return the workload that takes least."""
        return self._workload(self.training.smallest, self.evaluation.smallest)

    def fastest_of_all(self) -> tuple[Workload, int]:
        """Return the fastest workload, whether it fits or not, and what its training takes on the device."""
        layout = self.training.by_preference(self.training.layouts())[0]
        return self._trained(layout), self.training.device_bytes(layout)

    @cached_property
    def _fastest(self) -> tuple[Layout, Layout]:
        return self.training.fastest(), self.evaluation.fastest()

    def chosen(self) -> Workload:
        """Return the fastest workload that fits; the smallest is known to."""
        return self._workload(*self._fastest)

    def chosen_bytes(self) -> int:
        """Return what the fastest workload that fits takes on the device."""
        training, evaluation = self._fastest
        return max(self.training.device_bytes(training), self.evaluation.device_bytes(evaluation))

    def plan(self) -> Plan:
        """Return the fastest plan that fits; ``smallest_bytes`` is known to."""
        (layout, _), chosen = self._fastest, self.chosen()
        result = estimate(chosen, outside_bytes=self.target.outside_bytes, budget_bytes=self.target.budget_bytes)
        ordered = self.training.by_preference(self.training.layouts())
        place = ordered.index(layout)
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
            seconds_per_epoch=self.seconds(chosen),
            seconds_error=self.target.rates.error if isinstance(self.target.rates, StepRates) else None,
            reason=self._reason(chosen, is_fastest=place == 0),
            alternatives=[*self._other_layouts(ordered, place), *self._other_scorings(layout.chunk)],
            mesh=mesh_of(chosen, self.target),
        )

    def smallest_bytes(self) -> int:
        """Return what the smallest layout takes on the device: the smallest budget that will do."""
        return max(side.device_bytes(side.smallest) for side in (self.training, self.evaluation))

    def least_seconds(self) -> float:
        """Return the predicted time of an epoch in the fastest layout, whether it fits or not."""
        side = self.training
        return min(side.seconds_of(side.workload_of(layout)) for layout in side.layouts())

    def nothing_fits(self, *, at_any_rank: bool = False) -> DoesNotFitError:
        """Return the error that names the smallest budget that would do and the largest tensor in the way."""
        workload = self.smallest()
        obstacle = estimate(workload, outside_bytes=self.target.outside_bytes).tensors_at_peak[0]
        way_out, on_each = "Raise the budget", ""
        if workload.n_processes > 1:
            on_each = f" on each of {workload.n_processes} devices"
            is_whole = obstacle.kind == "data"
            way_out += ", take devices with more memory (it is whole on each)" if is_whole else ", take more devices"
        if not at_any_rank:
            way_out += ", lower --rank, or let --allow-rank-reduction do so"
        dimensions = " × ".join(str(size) for size in obstacle.shape)
        return DoesNotFitError(
            f"nothing fits {format_bytes(self.target.budget_bytes)} ({self.target.budget_source}){on_each}: the "
            f"smallest budget that would do is {format_mib_up(self.smallest_bytes())} (rank {workload.rank}, "
            f"micro-batch {workload.micro_batch_size}, chunk {workload.chunk_size}, {workload.scoring} scoring); the "
            f"largest tensor then is the {obstacle.name}, {dimensions}, {format_bytes(obstacle.bytes)}. {way_out}"
        )

    def _trained(self, layout: Layout) -> Workload:
        return self.base.model_copy(update={"micro_batch_size": layout.batch, "chunk_size": layout.chunk})

    def _workload(self, training: Layout, evaluation: Layout) -> Workload:
        update = {"eval_batch_size": evaluation.batch, "eval_chunk_size": evaluation.chunk}
        return self._trained(training).model_copy(update=update)

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        """The setup without numbers, which is the same for every layout."""
        return rehearsal(self.base)

    def device_bytes(self, workload: Workload, *, training: bool = True, evaluation: bool = True) -> int:
        """Return what a workload of this search, or a part of it, takes on the device."""
        ledger = self._rehearsal.run(workload, training=training, evaluation=evaluation)
        return peak_of(ledger, workload, self.target.outside_bytes).device_bytes

    def _other_layouts(self, ordered: list[Layout], place: int) -> Iterator[Alternative]:
        """Yield what is faster than the layout in this ``place`` but does not fit, then the runners-up."""
        side, budget = self.training, self.target.budget_bytes
        for layout in ordered[: min(place, ALTERNATIVES)]:
            over = side.device_bytes(layout) - budget
            # A caching allocator can reserve less for a larger layout; the staircase does not count on it.
            why = f"{format_bytes(over)} over the budget" if over > 0 else "not every smaller layout fits"
            yield self.alternative(side.workload_of(layout), side.device_bytes(layout), f"faster, but {why}")
        for layout in ordered[place + 1 :][: max(2, ALTERNATIVES - place)]:
            needed = side.device_bytes(layout)
            yield self.alternative(side.workload_of(layout), needed, f"not faster{self._verdict(needed)}")

    def _other_scorings(self, chunk: int) -> Iterator[Alternative]:
        """Yield the whole batch at once in each other scoring that can run here."""
        if self.scoring_is_fixed:
            return
        for scoring in available(self.base.score, self.base.device, self.target.capability):
            whole = self.base.negatives or self.base.n_entities
            layout = Layout(self.base.replica_batch_size, whole if scoring == "materialized" else chunk)
            if scoring != self.base.scoring and layout.is_addressable:
                workload = self._trained(layout).model_copy(update={"scoring": scoring})
                needed = self.device_bytes(workload, evaluation=False)
                yield self.alternative(workload, needed, f"another scoring{self._verdict(needed)}")

    def _verdict(self, needed_bytes: int) -> str:
        over = needed_bytes - self.target.budget_bytes
        return f", and {format_bytes(over)} over the budget" if over > 0 else "; fits"

    def alternative(self, workload: Workload, needed_bytes: int, reason: str) -> Alternative:
        """Return a workload as one that was not taken."""
        return Alternative(
            micro_batch_size=workload.micro_batch_size,
            chunk_size=workload.chunk_size,
            scoring=workload.scoring,
            shards=workload.shards,
            replicas=workload.replicas,
            device_bytes=needed_bytes,
            seconds_per_epoch=self.seconds(workload),
            reason=reason,
        )

    def _reason(self, chosen: Workload, *, is_fastest: bool) -> str:
        if chosen.accumulation_steps > 1:
            batch = f"{chosen.accumulation_steps} micro-batches of {chosen.micro_batch_size} a step"
        else:
            batch = "the whole batch at once"
        candidates = "entities" if chosen.negatives is None else "negatives"
        if chosen.chunk_size < chosen.n_candidates:
            entities = f"{candidates} scored {chosen.chunk_size} at a time"
        else:
            entities = f"{'all' if chosen.shards == 1 else OF_A_SHARD} {candidates} scored at once"
        why = "the fastest of all, and it fits" if is_fastest else "the fastest that fits"
        fallback = obstacle(chosen.score, "fused", chosen.device, self.target.capability)
        note = f" ({fallback})" if fallback is not None else ""
        return f"{batch}, {entities}, {chosen.scoring} scoring{note}: {why}"
