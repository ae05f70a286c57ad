"""One setup without numbers serves every layout of a search: each run from it is one of its own, event for event."""

from __future__ import annotations

import pytest

from memplan.memory.ledger import Ledger
from memplan.prediction.rehearsal import rehearsal, run
from memplan.workload import DeviceType, Shape, build_workload

SHAPE = Shape(n_entities=100, n_relations=3, n_timestamps=5, n_facts=60)


def events(ledger: Ledger) -> list[tuple[int, bool]]:
    return [(0 if event.allocation is None else event.allocation.n_bytes, event.is_birth) for event in ledger.events]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shards", [1, 3])
def test_runs_from_one_setup_do_not_see_each_other(device: DeviceType, shards: int) -> None:
    sizes = [(50, 100), (25, 30), (10, 30), (50, 100)]
    layouts = [
        build_workload(
            SHAPE,
            model="TNTPairRE",
            rank=8,
            batch_size=50,
            micro_batch_size=micro_batch,
            chunk_size=chunk,
            device=device,
            shards=shards,
        )
        for micro_batch, chunk in sizes
    ]
    from_one = rehearsal(layouts[0])
    for layout in layouts:
        found, alone = from_one.run(layout), run(layout)
        assert events(found) == events(alone)
        assert found.phase_peaks == alone.phase_peaks
