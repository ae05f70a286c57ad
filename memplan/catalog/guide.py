"""What the TNTPairRE memory guide says, to be compared with what is so: its settings and its trade-off table.

The guide is a Vietnamese text that users of the model pass on; README.md and docs/guide-figures.md answer it.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A configuration of TNTPairRE and the memory that the guide gives for it."""

    place: str
    dataset: str
    rank: int
    batch_size: int
    says: str
    """As the guide writes it."""
    says_bytes: int | None
    """The same in bytes, 1 GB = 10^9; None for "OOM"."""
    code_bytes: int
    """Requested bytes at the peak of a step that scores as the guide's own code does: 2,000 entities at a time, all
    graphs kept until the backward. By benchmarks/guide_figures.py, on the CPU."""


def _claim(place: str, dataset: str, rank: int, batch_size: int, says: str, code_bytes: int) -> Claim:
    number = says.removesuffix(" GB")
    return Claim(
        place, dataset, rank, batch_size, says, None if number == says else round(float(number) * 1e9), code_bytes
    )


CLAIMS: tuple[Claim, ...] = (
    _claim("the problem: one tensor", "ICEWS14", 100, 1000, "2.7 GB", 4_051_121_248),
    _claim("solution 1: smaller batch", "ICEWS14", 100, 200, "0.54 GB", 816_791_648),
    _claim("recommended", "ICEWS14", 64, 256, "0.6 GB", 671_009_584),
    _claim("recommended", "ICEWS05-15", 64, 200, "0.8 GB", 738_245_680),
    _claim("recommended", "YAGO15K", 64, 128, "0.9 GB", 613_964_080),
    _claim("trade-off", "ICEWS14", 100, 1000, "OOM", 4_051_121_248),
    _claim("trade-off", "ICEWS14", 100, 256, "0.7 GB", 1_043_194_720),
    _claim("trade-off", "ICEWS14", 64, 512, "0.8 GB", 1_336_765_232),
    _claim("trade-off", "ICEWS14", 50, 256, "0.4 GB", 526_270_920),
)
