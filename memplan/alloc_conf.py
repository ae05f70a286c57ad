"""The options of PyTorch's CUDA caching allocator that change what it reserves, as PYTORCH_CUDA_ALLOC_CONF writes them.

Source: PyTorch's documentation, "CUDA semantics", section "Optimizing memory usage with PYTORCH_CUDA_ALLOC_CONF".
"""

from __future__ import annotations

import os
from typing import NamedTuple

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Read in this order; the first is the name since PyTorch 2.9."""
SMALLEST_SPLIT_MIB = 20
"""PyTorch refuses a max_split_size_mb that is not above its 20 MiB segments."""
MODELLED = ("max_split_size_mb", "expandable_segments")


class AllocatorSettings(NamedTuple):
    """What the replay of the allocator depends on."""

    max_split_size_bytes: int | None = None
    """Blocks of at least this size are never split; None: all may be."""
    expandable_segments: bool = False
    """Each pool is one growing segment, mapped page by page."""

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Return the settings in text such as ``max_split_size_mb:128,expandable_segments:True``.

        Raises:
            ValueError: an option or a value that is unknown or not modelled.
        """
        found = cls()
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in part.partition(":"))
            if name == "max_split_size_mb":
                if not (value.isascii() and value.isdigit() and SMALLEST_SPLIT_MIB < int(value) < 2**40):
                    raise ValueError(
                        f"alloc_conf: max_split_size_mb: {value!r}: PyTorch takes a whole number of MiB above "
                        f"{SMALLEST_SPLIT_MIB}"
                    )
                found = found._replace(max_split_size_bytes=int(value) * 2**20)
            elif name == "expandable_segments":
                if value.lower() not in ("true", "false"):
                    raise ValueError(f"alloc_conf: expandable_segments: {value!r}: True or False")
                found = found._replace(expandable_segments=value.lower() == "true")
            else:
                raise ValueError(f"alloc_conf: {name!r} is not modelled; {' and '.join(MODELLED)} are")
        return found


DEFAULT = AllocatorSettings()


def from_environment() -> str:
    """Return the modelled options of the environment's own setting, which a run on this machine will obey."""
    return ",".join(part for name, part in _environment() if name in MODELLED)


def notice() -> str | None:
    """Return what to tell of the environment's options that predictions leave out of account; None: there are none."""
    names = [name for name, _ in _environment() if name not in MODELLED]
    if not names:
        return None
    return (
        f"{', '.join(names)} of the environment's allocator options: not modelled, so allocated and reserved bytes may "
        "differ; --alloc-conf '' plans without any"
    )


def _environment() -> list[tuple[str, str]]:
    text = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    return [(part.partition(":")[0].strip(), part.strip()) for part in text.split(",") if part.strip()]
