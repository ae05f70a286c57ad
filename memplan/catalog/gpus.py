"""GPUs by name: memory and rates as their maker states them, each with the document that holds the figures.

Rates are peaks at boost clock, fp32 outside tensor cores; they order plans and promise nothing. Checked against public
tables of the same figures; ``memplan calibrate`` replaces them by what a GPU at hand really does.
"""

from __future__ import annotations

from typing import NamedTuple

from memplan.errors import unknown_name

GIB = 2**30


class Gpu(NamedTuple):
    """A GPU's memory and rates."""

    name: str
    memory_bytes: int
    """Nominal; a program sees less."""
    flops_per_second: float
    bytes_per_second: float
    capability: tuple[int, int]
    """CUDA compute capability."""
    source: str


def _gpu(name: str, memory_gib: int, tflops: float, gb_per_second: float, capability: str, source: str) -> Gpu:
    major, minor = capability.split(".")
    return Gpu(name, memory_gib * GIB, tflops * 1e12, gb_per_second * 1e9, (int(major), int(minor)), source)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("GTX 1050 Ti", 4, 2.1, 112, "6.1", "NVIDIA GeForce GTX 1050 Ti product specifications page"),
        _gpu("GTX 1060", 6, 4.4, 192, "6.1", "NVIDIA GeForce GTX 1060 product specifications page (6 GB card)"),
        _gpu(
            "GTX 1070",
            8,
            6.5,
            256,
            "6.1",
            "NVIDIA GeForce GTX 1070 product specifications page (boost clock times cores)",
        ),
        _gpu("GTX 1080", 8, 8.9, 320, "6.1", "NVIDIA GeForce GTX 1080 whitepaper"),
        _gpu("GTX 1080 Ti", 11, 11.3, 484, "6.1", "NVIDIA GeForce GTX 1080 Ti product specifications page"),
        _gpu("GTX 1650", 4, 3.0, 128, "7.5", "NVIDIA GeForce GTX 1650 product specifications page (GDDR5 card)"),
        _gpu("GTX 1660 Ti", 6, 5.4, 288, "7.5", "NVIDIA GeForce GTX 1660 Ti product specifications page"),
        _gpu("RTX 2060", 6, 6.5, 336, "7.5", "NVIDIA GeForce RTX 2060 product specifications page (6 GB card)"),
        _gpu("RTX 2070", 8, 7.5, 448, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
        _gpu("RTX 2080", 8, 10.1, 448, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
        _gpu("RTX 2080 Ti", 11, 13.4, 616, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
        _gpu("RTX 3050", 8, 9.1, 224, "8.6", "NVIDIA GeForce RTX 3050 product specifications page (8 GB card)"),
        _gpu("RTX 3060", 12, 12.7, 360, "8.6", "NVIDIA GeForce RTX 3060 product specifications page (12 GB card)"),
        _gpu("RTX 3070", 8, 20.3, 448, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper"),
        _gpu("RTX 3080", 10, 29.8, 760, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper (10 GB card)"),
        _gpu("RTX 3090", 24, 35.6, 936, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper"),
        _gpu("RTX 4060", 8, 15.1, 272, "8.9", "NVIDIA GeForce RTX 4060 product specifications page"),
        _gpu(
            "RTX 4060 Ti 16GB",
            16,
            22.1,
            288,
            "8.9",
            "NVIDIA GeForce RTX 4060 Ti product specifications page (boost clock times cores)",
        ),
        _gpu("RTX 4070", 12, 29.1, 504, "8.9", "NVIDIA GeForce RTX 4070 product specifications page (GDDR6X card)"),
        _gpu("RTX 4080", 16, 48.7, 717, "8.9", "NVIDIA Ada GPU Architecture whitepaper"),
        _gpu("RTX 4090", 24, 82.6, 1008, "8.9", "NVIDIA Ada GPU Architecture whitepaper"),
        _gpu("RTX 5060", 8, 19.2, 448, "12.0", "NVIDIA GeForce RTX 5060 product specifications page"),
        _gpu("RTX 5070", 12, 30.9, 672, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
        _gpu("RTX 5080", 16, 56.3, 960, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
        _gpu("RTX 5090", 32, 104.8, 1792, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
        _gpu("P100", 16, 9.3, 732, "6.0", "NVIDIA Tesla P100 PCIe datasheet (PCIe)"),
        _gpu("V100", 16, 15.7, 900, "7.0", "NVIDIA V100 datasheet (SXM2)"),
        _gpu("V100 32GB", 32, 15.7, 900, "7.0", "NVIDIA V100 datasheet (SXM2)"),
        _gpu("T4", 16, 8.1, 320, "7.5", "NVIDIA T4 datasheet (256 bits at 10 Gbps)"),
        _gpu("A10", 24, 31.2, 600, "8.6", "NVIDIA A10 product page"),
        _gpu("A10G", 24, 35.0, 600, "8.6", "NVIDIA A10G datasheet (published by AWS)"),
        _gpu("L4", 24, 30.3, 300, "8.9", "NVIDIA L4 product page"),
        _gpu("L40S", 48, 91.6, 864, "8.9", "NVIDIA L40S product page"),
        _gpu("RTX A4000", 16, 19.2, 448, "8.6", "NVIDIA RTX A4000 datasheet"),
        _gpu("RTX A6000", 48, 38.7, 768, "8.6", "NVIDIA RTX A6000 datasheet"),
        _gpu("RTX 6000 Ada", 48, 91.1, 960, "8.9", "NVIDIA RTX 6000 Ada Generation datasheet"),
        _gpu("A100 40GB", 40, 19.5, 1555, "8.0", "NVIDIA A100 datasheet (SXM4)"),
        _gpu("A100 80GB", 80, 19.5, 2039, "8.0", "NVIDIA A100 datasheet (SXM4)"),
        _gpu("H100", 80, 66.9, 3350, "9.0", "NVIDIA H100 Tensor Core GPU Architecture whitepaper (SXM5)"),
        _gpu(
            "H100 PCIe", 80, 51.2, 2000, "9.0", "NVIDIA H100 PCIe GPU product brief PB-11133-001 (bandwidth at least)"
        ),
        _gpu("H200", 141, 66.9, 4800, "9.0", "NVIDIA H200 product page (SXM, nominal GB)"),
    )
}


def find_gpu(name: str) -> Gpu:
    """Return the catalog's GPU for ``name``: case, blanks, dashes and words such as NVIDIA or PCIe do not matter.

    Raises:
        UsageError: there is none; the message lists the nearest names.
    """
    wanted = _key(name)
    for gpu in GPUS.values():
        if _key(gpu.name) == wanted:
            return gpu
    raise unknown_name("device", name, [*GPUS, "cpu", "cuda"])


def recognize(name: str, total_bytes: int) -> Gpu | None:
    """Return the catalog's GPU for the name and memory that NVML gives, such as "NVIDIA A100-SXM4-80GB"; None: unknown.

    Of several with that name the one whose nominal memory is nearest is meant.
    """
    found = _key(name)
    alike = [gpu for gpu in GPUS.values() if found.startswith(_key(gpu.name)) or _key(gpu.name).startswith(found)]
    longest = max((len(_key(gpu.name)) for gpu in alike), default=0)
    alike = [gpu for gpu in alike if len(_key(gpu.name)) == longest or _key(gpu.name).startswith(found)]
    return min(alike, key=lambda gpu: abs(gpu.memory_bytes - total_bytes), default=None)


def _key(text: str) -> str:
    words = text.lower().replace("-", " ").split()
    noise = (
        "nvidia",
        "geforce",
        "tesla",
        "graphics",
        "sxm",
        "sxm2",
        "sxm4",
        "sxm5",
        "generation",
        "laptop",
        "gpu",
        "hbm3",
    )
    return "".join(word for word in words if word not in noise)
