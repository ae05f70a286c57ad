"""How fast the devices of one machine talk to each other: as stated for GPUs, as measured between CPU processes."""

from __future__ import annotations

from typing import NamedTuple

from memplan.catalog.gpus import Gpu


class Link(NamedTuple):
    """What a collective meets on its way between two devices."""

    bytes_per_second: float
    """That a device can send, and receive at the same time."""
    call_seconds: float
    """What a collective takes however little it carries."""


NVLINK_BYTES_PER_SECOND = {
    "V100": 150e9,
    "V100 32GB": 150e9,
    "A100 40GB": 300e9,
    "A100 80GB": 300e9,
    "H100": 450e9,
    "H200": 450e9,
}
"""One way, half of what the data sheets named in the catalog give for both. Boards with NVLink of their own alone: a
bridge between two cards is bought apart."""
PCIE_BYTES_PER_SECOND = {3: 15.75e9, 4: 31.5e9, 5: 63e9}
"""One way over 16 lanes, by generation (PCI-SIG)."""
LINK_EFFICIENCY = 0.75
"""Share of a link that NCCL's all-reduce reaches. Stated, not measured here: its maintainers name 350 GB/s of an H100's
450 and 12 of PCIe 3's 15.75 (github.com/NVIDIA/nccl, issue 986)."""
NCCL_CALL_SECONDS = 20e-6
"""Stated, not measured: the order of a small all-reduce between GPUs of one machine."""
GLOO = Link(0.8e9, 600e-6)
"""Between two processes on two cores: ``python benchmarks/collectives.py``."""


def gpu_link(gpu: Gpu) -> Link:
    """Return the link between GPUs of a kind in one machine: NVLink where the board has it, else PCI Express."""
    generation = 5 if gpu.capability >= (9, 0) else 4 if gpu.capability >= (8, 0) else 3
    nominal = NVLINK_BYTES_PER_SECOND.get(gpu.name, PCIE_BYTES_PER_SECOND[generation])
    return Link(nominal * LINK_EFFICIENCY, NCCL_CALL_SECONDS)
