"""The catalog's GPUs for a terminal: what each has, and why some are out."""

from __future__ import annotations

from rich.console import Console, RenderableType

from memplan.app.views.terminal import fits_width, listing
from memplan.catalog.gpus import GPUS
from memplan.units import format_bytes
from memplan.workload.rules import OLDEST_FOR_TRITON, obstacle

WHY_NO_FUSED = (
    f"Triton, which compiles the fused L1 kernel, needs compute capability {OLDEST_FOR_TRITON[0]}.0 (Volta), and they "
    "are older"
)


def gpu_listing(console: Console) -> RenderableType:
    """Return the catalog's GPUs, each with the source of its figures where the terminal is wide enough."""
    columns = ("plan for", "memory>", "TFLOP/s fp32>", "GB/s>", "CUDA>", "fused L1", "source")
    rows = [
        (
            gpu.name,
            format_bytes(gpu.memory_bytes),
            f"{gpu.flops_per_second / 1e12:.1f}",
            f"{gpu.bytes_per_second / 1e9:,.0f}",
            ".".join(map(str, gpu.capability)),
            "yes" if obstacle("l1", "fused", "cuda", gpu.capability) is None else "no",
            gpu.source,
        )
        for gpu in GPUS.values()
    ]
    whole = listing(columns, rows)
    return whole if fits_width(console, whole) else listing(columns[:-1], [row[:-1] for row in rows])


def without_fused() -> list[str]:
    """Return the names of the GPUs that have no fused L1 kernel."""
    return [name for name, gpu in GPUS.items() if obstacle("l1", "fused", "cuda", gpu.capability) is not None]
