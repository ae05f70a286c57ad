"""The stand-in device itself: what it says it is, what it counts, and what its driver and allocator do."""

from __future__ import annotations

import pytest
import torch

from memplan.device.present import present_gpus
from tests.cuda_standin import device

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not device.is_here(), reason="runs on the stand-in device: tests/cuda_standin/README.md"),
]

MIB = 2**20


def test_runtime_driver_and_nvml_name_the_same_device() -> None:
    properties = torch.cuda.get_device_properties(0)
    (gpu,) = present_gpus()
    assert gpu.name == properties.name
    assert gpu.capability == (properties.major, properties.minor)
    assert gpu.total_bytes >= properties.total_memory, "NVML counts what the driver keeps too"
    known = {"T4": (40, 7), "RTX3060": (28, 8), "A100-40GB": (108, 8), "A100-80GB": (108, 8), "H100": (132, 9)}
    assert (properties.multi_processor_count, properties.major) in known.values()


def test_launches_and_waits_are_counted() -> None:
    numbers = torch.zeros(1000, device="cuda")
    device.reset()
    numbers.add_(1)
    assert device.read()["cudaLaunchKernel"] == 1
    assert device.stalls() == {}
    numbers.cpu()
    assert device.stalls() == {"cudaMemcpyAsync to pageable memory": 1, "cudaStreamSynchronize": 1}
    torch.cuda.synchronize()
    assert device.stalls()["cudaDeviceSynchronize"] == 1


def test_a_copy_to_pinned_memory_does_not_wait() -> None:
    numbers = torch.zeros(1000, device="cuda")
    pinned = torch.empty(1000, pin_memory=True)
    device.reset()
    pinned.copy_(numbers, non_blocking=True)
    assert device.stalls() == {}
    assert device.read()["cudaMemcpyAsync with pinned memory"] == 1
    numbers.copy_(torch.ones(1000), non_blocking=True)
    assert device.read()["cudaMemcpyAsync from pageable memory"] == 1


def test_copies_carry_numbers_and_kernels_do_not_compute() -> None:
    numbers = torch.arange(100.0).cuda()
    assert numbers.cpu().tolist() == list(range(100))
    computed = numbers + 1
    assert computed.cpu().tolist() != list(range(1, 101))


def test_memory_counts_and_runs_out() -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    device.reset()
    block = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.mem_get_info() == (free - 64 * MIB, total)
    assert device.read()["cudaMalloc"] == 1
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total, dtype=torch.uint8, device="cuda")
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info() == (free, total)
