"""What CUDA's sums take inside: partial results of several blocks, in global memory.

The configuration is that of PyTorch's aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig): a sum that leaves a
thread more than 256 numbers is shared by several blocks, and each of their threads keeps a partial result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from memplan.device.target import Target

MOST_THREADS = 512
WARP = 32
LEAST_VALUES, MOST_VALUES = 16, 256
"""Numbers that a thread sums, at least where a sum is shared and at most where it is not."""
INPUT_VECTOR = OUTPUT_VECTOR = 4
MULTIPROCESSORS = {
    "GTX 1050 Ti": 6, "GTX 1060": 10, "GTX 1070": 15, "GTX 1080": 20, "GTX 1080 Ti": 28, "GTX 1650": 14,
    "GTX 1660 Ti": 24, "RTX 2060": 30, "RTX 2070": 36, "RTX 2080": 46, "RTX 2080 Ti": 68, "RTX 3050": 20,
    "RTX 3060": 28, "RTX 3070": 46, "RTX 3080": 68, "RTX 3090": 82, "RTX 4060": 24, "RTX 4060 Ti 16GB": 34,
    "RTX 4070": 46, "RTX 4080": 76, "RTX 4090": 128, "RTX 5060": 30, "RTX 5070": 48, "RTX 5080": 84, "RTX 5090": 170,
    "P100": 56, "V100": 80, "V100 32GB": 80, "T4": 40, "A10": 72, "A10G": 80, "L4": 58, "L40S": 142, "RTX A4000": 48,
    "RTX A6000": 84, "RTX 6000 Ada": 142, "A100 40GB": 108, "A100 80GB": 108, "H100": 132, "H100 PCIe": 114,
    "H200": 132,
}  # fmt: skip
"""By the catalog's names; a GPU that is not there counts as the largest. Not looked up one by one: checked against the
catalog's peak rates, which with the lanes of a multiprocessor give each GPU a clock between 1.3 and 2.7 GHz."""
THREADS_OF = {(7, 5): 1024, (8, 6): 1536, (8, 9): 1536, (12, 0): 1536}
"""Threads of a multiprocessor by compute capability: CUDA programming guide; 2,048 for all others."""


class Processor(NamedTuple):
    """What decides how a sum is shared."""

    multiprocessors: int
    threads: int
    """Of one multiprocessor."""

    @classmethod
    def of(cls, target: Target) -> Processor:
        """Return a target's."""
        from memplan.catalog.gpus import recognize

        known = recognize(target.name, target.total_bytes or 0)
        name = target.name if known is None else known.name
        count = MULTIPROCESSORS.get(name, max(MULTIPROCESSORS.values()))
        return cls(count, THREADS_OF.get(target.capability or (0, 0), 2048))


def sum_scratch_bytes(tensor: Tensor, dims: list[int] | None, item_bytes: int, processor: Processor) -> int:
    """Return what summing ``tensor`` over ``dims`` (None: all) takes inside; ``item_bytes``: of a partial result."""
    reduced, kept = _dimensions(tensor, dims)
    if tensor.numel() == 0:
        return 0
    inputs = math.prod(size for size, _ in reduced)
    outputs = math.prod(size for size, _ in kept)
    along_input = not kept or (bool(reduced) and reduced[0][1] < kept[0][1])
    fastest = (reduced or kept or [(1, 1)])[0][1] if along_input else kept[0][1]
    width, height = (inputs, outputs) if along_input else (outputs, inputs)
    vector = 1
    if fastest == 1 and along_input and width > 128 and not kept and len(reduced) == 1:
        width //= INPUT_VECTOR
    elif fastest == 1 and not along_input:
        vector = _vector_of(kept, reduced)
        width //= vector
    block_width, block_height = _block(width, height, MOST_THREADS // vector)
    step_input = block_width if along_input else 1
    step_output = 1 if along_input else block_width
    values = -(-inputs // step_input)
    splits_height = values >= block_height * LEAST_VALUES or values >= MOST_VALUES
    if splits_height:
        step_input *= block_height
        values = -(-inputs // step_input)
    else:
        step_output *= block_height
    grid = -(-(outputs // vector) // step_output)
    room = processor.multiprocessors * (processor.threads // (block_width * block_height))
    if not splits_height or values < MOST_VALUES or grid > room:
        return 0
    blocks = max(min(-(-room // grid), -(-values // LEAST_VALUES)), -(-values // MOST_VALUES))
    if blocks <= 1:
        return 0
    partial = item_bytes * outputs * blocks
    return partial if along_input else partial * block_width * vector


def _dimensions(tensor: Tensor, dims: list[int] | None) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (size, stride) of the reduced and of the kept dimensions, each by stride and merged where they are one."""
    chosen = set(range(tensor.dim())) if not dims else {d % tensor.dim() for d in dims}
    groups: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for i, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1:
            groups[0 if i in chosen else 1].append((size, stride))
    return _merged(groups[0]), _merged(groups[1])


def _merged(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for size, stride in sorted(dims, key=lambda d: d[1]):
        if found and found[-1][0] * found[-1][1] == stride:
            found[-1] = (found[-1][0] * size, found[-1][1])
        else:
            found.append((size, stride))
    return found


def _vector_of(kept: list[tuple[int, int]], reduced: list[tuple[int, int]]) -> int:
    """Return how many results a thread makes at once: what divides the row and every other stride."""
    vector = OUTPUT_VECTOR
    for n in (kept[0][0], *(stride for _, stride in kept[1:]), *(stride for _, stride in reduced)):
        vector = math.gcd(vector, n) if n else vector
    return vector


def _block(width: int, height: int, most: int) -> tuple[int, int]:
    wide = _power_of_two(width) if width < most else most
    high = _power_of_two(height) if height < most else most
    block_width = min(wide, WARP)
    block_height = min(high, most // block_width)
    return min(wide, most // block_height), block_height


def _power_of_two(n: int) -> int:
    """Return the largest power of two that is no larger than n; 1 for 0."""
    return 1 << max(0, n.bit_length() - 1)
