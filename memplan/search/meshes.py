"""A search over mesh shapes: how many of the devices hold the entity table between them, how many share the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memplan.device.target import NCCL_BYTES, Target
from memplan.errors import DoesNotFitError, UsageError
from memplan.plan import Alternative, DeviceCount, Mesh, Plan
from memplan.search.sent import sent_per_step
from memplan.units import format_bytes
from memplan.workload import Workload

if TYPE_CHECKING:
    from memplan.search.planner import Search

ID_BYTES = 4
KEY_BYTES = 8
BUILDING_BYTES, BUILDING_INTERVAL_BYTES = 156, 236
"""What numpy holds at once for a fact, its copies and sorted orders, while the filter is built: a test reads it off."""


def mesh_shapes(n_devices: int, shards: int | None) -> list[tuple[int, int]]:
    """Return shards and replicas of every mesh of so many devices, or of those with ``shards`` where that is asked.

    Raises:
        UsageError: ``shards`` does not divide the devices.
    """
    if shards is not None and shards != 1 and n_devices == 1:
        raise UsageError(f"--shards {shards}: there is one device to hold the table; say how many with --devices")
    divisors = [n for n in range(1, n_devices + 1) if n_devices % n == 0]
    if shards is not None and shards not in divisors:
        known = ", ".join(map(str, divisors))
        raise UsageError(f"--shards {shards}: does not divide the devices, which are {n_devices}; use one of {known}")
    return [(n, n_devices // n) for n in (divisors if shards is None else [shards])]


class Meshes:
    """The searches for one workload's sizes in every mesh of the devices: ``Search`` over several."""

    def __init__(self, searches: list[Search]) -> None:
        self._searches = searches
        self.base = searches[0].base

    def smallest_bytes(self) -> int:
        """Return what the smallest layout of any mesh takes on a device: the smallest budget that will do."""
        return self._smallest.smallest_bytes()

    def least_seconds(self) -> float:
        """Return the predicted time of an epoch in the fastest layout of any mesh, whether it fits or not."""
        return min(search.least_seconds() for search in self._searches)

    def nothing_fits(self, *, at_any_rank: bool = False) -> DoesNotFitError:
        """Return the error that names the smallest budget that would do and the largest tensor in the way."""
        return self._smallest.nothing_fits(at_any_rank=at_any_rank)

    def plan(self) -> Plan:
        """Return the fastest plan of any mesh that fits; the other meshes are its first alternatives."""
        best = self.best()
        found, mesh = best.plan(), mesh_name(best.base.shards, best.base.replicas)
        others = [self._other(search) for search in self._searches if search is not best]
        why = f"{mesh}, the fastest mesh that fits" if others else mesh
        return found.model_copy(
            update={
                "smallest_budget_bytes": self.smallest_bytes(),
                "reason": f"{why}; {found.reason}",
                "alternatives": [*others, *found.alternatives],
            }
        )

    def fits(self) -> bool:
        """Return whether anything does, in any mesh."""
        return any(search.fits() for search in self._searches)

    def best(self) -> Search:
        """Return the search of the mesh with the fastest plan that fits, or where none does with the smallest."""
        fitting = [search for search in self._searches if search.fits()]
        if not fitting:
            return self._smallest
        return min(fitting, key=lambda search: (search.seconds(search.chosen()), search.chosen_bytes()))

    @property
    def _smallest(self) -> Search:
        return min(self._searches, key=lambda search: search.smallest_bytes())

    def _other(self, search: Search) -> Alternative:
        if search.fits():
            return search.alternative(search.chosen(), search.chosen_bytes(), "another mesh; fits")
        workload, needed = search.fastest_of_all()
        over = format_bytes(needed - search.target.budget_bytes)
        return search.alternative(workload, needed, f"another mesh, and {over} over the budget")


def mesh_name(shards: int, replicas: int) -> str:
    """Return a mesh in words: ``2 shards × 1 replica``."""
    return " × ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((shards, "shard"), (replicas, "replica")))


def count_of(search: Search | Meshes) -> DeviceCount:
    """Return what the number of devices that a search is for comes to."""
    best = search.best()
    fits = best.fits()
    return DeviceCount(
        devices=best.target.n_devices or 1,
        shards=best.base.shards,
        replicas=best.base.replicas,
        device_bytes=best.chosen_bytes() if fits else best.smallest_bytes(),
        budget_bytes=best.target.budget_bytes,
        fits=fits,
        seconds_per_epoch=best.seconds(best.chosen()) if fits else None,
    )


def mesh_of(workload: Workload, target: Target) -> Mesh | None:
    """Return what the workload's processes send and hold besides what one of them has on its device.

    None where the target is one device of which it was not said that it is.
    """
    if target.n_devices is None and workload.n_processes == 1:
        return None
    sent = sent_per_step(workload)
    return Mesh(
        devices=workload.n_processes,
        shards=workload.shards,
        replicas=workload.replicas,
        sent_bytes_per_step=sum(kind.link_bytes for kind in sent),
        collectives_per_step=sum(kind.calls for kind in sent),
        nccl_bytes=NCCL_BYTES if workload.device == "cuda" and workload.n_processes > 1 else 0,
        host_bytes=workload.n_processes * host_bytes(workload),
        host_building_bytes=workload.n_processes * host_building_bytes(workload),
        replicated_bytes=replicated_bytes(workload),
    )


def host_bytes(workload: Workload) -> int:
    """Return the host memory that a process holds of the training facts: their ids, and the filter of ranking.

    Ids are int32 columns, 4 or, over intervals, 5. The filter knows every fact and its reciprocal, at most 2 n keys
    (int64) with offsets (int64) and tails (int32); over intervals groups and begins (int64), ends and tails (int32).
    """
    columns = 5 if workload.intervals else 4
    per_example = 2 * KEY_BYTES + (2 if workload.intervals else 1) * ID_BYTES
    return workload.n_facts * columns * ID_BYTES + workload.n_examples * per_example


def host_building_bytes(workload: Workload) -> int:
    """Return the host memory that a process holds at most of them, which is while it builds the filter."""
    columns, building = (5, BUILDING_INTERVAL_BYTES) if workload.intervals else (4, BUILDING_BYTES)
    return workload.n_facts * (columns * ID_BYTES + building)


def replicated_bytes(workload: Workload) -> int:
    """Return what every device holds of the training facts however many there are.

    Examples in 4 int32 columns, 5 where the time is predicted, and in an epoch their order (int64).
    """
    columns = 5 if workload.predicts_time else 4
    return workload.n_examples * (columns * ID_BYTES + KEY_BYTES)
