"""``memplan train --auto-fit-gpu --device cuda`` on the demo graph, end to end, and its memory check."""

from __future__ import annotations

import pytest

from tests.cuda_standin import device
from tests.cuda_standin.train_grid import Cell, trained

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not device.is_here(), reason="runs on the stand-in device: tests/cuda_standin/README.md"),
]

CELLS = (
    Cell("TNTPairRE", "l1", "fused", "fp32"),
    Cell("TNTPairRE", "l2", "fused", "bf16"),
    Cell("PairRE", "l1", "chunked", "fp16"),
    Cell("TPairRE", "l2", "materialized", "fp32"),
    Cell("TNTComplEx", "dot", "fused", "fp16"),
    Cell("ComplEx", "dot", "chunked", "bf16"),
)


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_training_ends_well_and_its_memory_check_is_exact(cell: Cell) -> None:
    found = trained(cell)
    assert found.status == 0, found.last_words
    assert found.differences == {}
