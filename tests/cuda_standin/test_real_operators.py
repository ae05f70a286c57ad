"""The table of what operators take inside, row by row against PyTorch's caching allocator; on a real GPU too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cuda_standin import device
from tests.support.operator_calls import CALLS, deterministic
from tkbc.scoring.plain import sum_over

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: tests/cuda_standin/README.md"),
]


def peak_bytes(run: Callable[[], object]) -> int:
    """Return what a call takes at its peak above what was there, cuBLAS's workspace being there already."""
    run()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    run()
    return int(torch.cuda.memory_stats()["requested_bytes.all.peak"]) - before


@pytest.mark.parametrize("name", [name for name in CALLS if name != "permutation"])
def test_each_row_is_what_the_allocator_measures(name: str) -> None:
    call = CALLS[name]
    with deterministic(call.deterministic):
        measured = peak_bytes(call.make("cuda"))
    expected = call.expected_bytes("cuda")
    if name.startswith("many") and torch.cuda.get_device_capability() >= (8, 0):
        assert 0.99 * expected <= measured <= expected, "a sort's tiles are larger there"
    else:
        assert measured == expected


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sum_over_a_middle_dimension_takes_its_result_and_a_row_of_ones(dim: int, dtype: torch.dtype) -> None:
    """At ICEWS14's shape, where PyTorch's own sum takes 30 MB and more."""
    terms = torch.empty((250, 7128, 100), dtype=dtype, device="cuda")
    item = terms.element_size()
    results, n = (7128, 250) if dim == 0 else (250, 7128)
    assert peak_bytes(lambda: sum_over(terms, dim)) == item * (results * 100 + n)
    if dim == 1:
        assert peak_bytes(lambda: terms.sum(dim)) > 20e6, "or the product is not needed any more"


@pytest.mark.skipif(not device.is_here(), reason="by the stand-in's device")
def test_the_workspace_is_the_table_s() -> None:
    from memplan.memory.operators import workspace_bytes

    one = torch.ones((1, 1), device="cuda")
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    product = torch.mm(one, one)
    taken = torch.cuda.memory_stats()["requested_bytes.all.current"] - before - product.untyped_storage().nbytes()
    assert taken == workspace_bytes(torch.cuda.get_device_capability(), None)
