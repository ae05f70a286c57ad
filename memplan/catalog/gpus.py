"""GPUs by name: memory and rates as their maker states them, and which of them a name means.

Rates are peaks at boost clock, fp32 outside tensor cores; they order plans and promise nothing. Checked against public
tables of the same figures; ``memplan calibrate`` replaces them by what a GPU at hand really does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from memplan.catalog.gpu_figures import FIGURES
from memplan.errors import UsageError, unknown_name

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

    @property
    def memory_gib(self) -> int:
        """Nominal memory in GiB: what a name such as "A100 40GB" holds as GB."""
        return self.memory_bytes // GIB


def _gpu(name: str, memory_gib: int, tflops: float, gb_per_second: float, capability: str, source: str) -> Gpu:
    major, minor = capability.split(".")
    return Gpu(name, memory_gib * GIB, tflops * 1e12, gb_per_second * 1e9, (int(major), int(minor)), source)


GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in (_gpu(*row) for row in FIGURES)}


class _Name(NamedTuple):
    """What a GPU's name says: its chip, whether a laptop's, how it is mounted, its memory."""

    chip: str
    is_laptop: bool
    mount: str | None
    gib: int | None


_NOISE = {
    "nvidia", "geforce", "tesla", "graphics", "gpu", "generation", "with", "max", "q", "design", "hbm2", "hbm2e",
    "hbm3", "hbm3e", "vram",
}  # fmt: skip
_SIZE = re.compile(r"\b(\d+)\s*gi?b\b")
_MOUNT = re.compile(r"\b(pcie|sxm)\d?\b")
_LAPTOP = re.compile(r"\b(laptop|mobile|notebook)\b")


def _parse(name: str) -> _Name:
    # A part of a GPU, as MIG names it, is that GPU's; the part's own size says nothing about the whole.
    text = re.sub(r"[-_/,()\s]+", " ", name.lower()).split(" mig ")[0]
    size, mount = _SIZE.search(text), _MOUNT.search(text)
    rest = _LAPTOP.sub(" ", _MOUNT.sub(" ", _SIZE.sub(" ", text)))
    return _Name(
        chip="".join(word for word in rest.split() if word not in _NOISE),
        is_laptop=_LAPTOP.search(text) is not None,
        mount=mount[1] if mount else None,
        gib=int(size[1]) if size else None,
    )


def find_gpu(name: str) -> Gpu:
    """Return the catalog's GPU that ``name`` means, as people write it or as nvidia-smi prints it.

    Case, blanks, dashes, words such as NVIDIA and the way it is mounted do not matter; "Laptop" does, for a laptop's
    chip is another one than the card's. Where memory comes in two sizes and neither is the usual one, both are named.

    Raises:
        UsageError: there is none, or more than one; the message lists the nearest names.
    """
    wanted = _parse(name)
    alike = _named_alike(wanted)
    if wanted.gib is not None:
        alike = [gpu for gpu in alike if gpu.memory_gib == wanted.gib]
    elif len(alike) > 1:
        # "V100" is the catalog's name of one of the two; "A100" is of none.
        alike = [gpu for gpu in alike if _parse(gpu.name).gib is None] or alike
    if len(alike) > 1:
        names = [gpu.name for gpu in alike]
        raise UsageError(f"--device {name}: there is more than one; say which: {' or '.join(map(repr, names))}")
    if not alike:
        namesakes = [
            gpu for is_laptop in (False, True) for gpu in _named_alike(wanted._replace(is_laptop=is_laptop, gib=None))
        ]
        if namesakes:
            known = ", ".join(f"{gpu.name!r} has {gpu.memory_gib} GiB" for gpu in namesakes)
            raise UsageError(f"--device {name}: there is none; {known}")
        raise unknown_name("device", name, [*GPUS, "cpu", "cuda"])
    return alike[0]


def recognize(name: str, total_bytes: int) -> Gpu | None:
    """Return the catalog's GPU for the name and memory that NVML gives, such as "NVIDIA A100-SXM4-80GB"; None: unknown.

    Of several with that name the one whose nominal memory is nearest is meant.
    """
    found = _named_alike(_parse(name))
    return min(found, key=lambda gpu: abs(gpu.memory_bytes - total_bytes), default=None)


def _named_alike(wanted: _Name) -> list[Gpu]:
    """Return the GPUs of a name whatever their memory; mounted so, where the catalog tells that apart."""
    same = list(_of_chip(wanted.chip, wanted)) or [
        gpu for series in ("rtx", "gtx") for gpu in _of_chip(series + wanted.chip, wanted)
    ]
    mounted = [gpu for gpu in same if _parse(gpu.name).mount == wanted.mount]
    return mounted or [gpu for gpu in same if _parse(gpu.name).mount is None]


def _of_chip(chip: str, wanted: _Name) -> Iterable[Gpu]:
    for gpu in GPUS.values():
        named = _parse(gpu.name)
        if (named.chip, named.is_laptop) == (chip, wanted.is_laptop):
            yield gpu
