"""The options of PyTorch's CUDA caching allocator, as PYTORCH_ALLOC_CONF and PYTORCH_CUDA_ALLOC_CONF write them.

Sources: PyTorch's documentation, "CUDA semantics", section "Optimizing memory usage with PYTORCH_CUDA_ALLOC_CONF", and
its c10/core/AllocatorConfig.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

MIB = 2**20
ROUNDING = 512
"""Requests are rounded up to a multiple of this, and more only where the options say so."""
INTERVALS = 16
"""roundup_power2_divisions tells requests apart by their power of two: below 2 MiB, 2 to 4 MiB, … from 32 GiB on."""
SMALLEST_LARGE_SEGMENT_MIB = 11


class AllocatorSettings(NamedTuple):
    """What the replay of the allocator depends on."""

    max_split_size_bytes: int | None = None
    """Blocks of at least this size are never split; None: all may be."""
    max_non_split_rounding_bytes: int | None = None
    """An unsplit block serves a request only where less than this is wasted; None: than a large segment."""
    large_segment_bytes: int = 20 * MIB
    """The segment that serves a request between 1 and 10 MiB, and the page of the large pool's expandable segments."""
    expandable_segments: bool = False
    """Each pool is one growing segment, mapped page by page."""
    roundup_divisions: tuple[int, ...] = ()
    """By interval: the parts of equal size into which the way to the next power of two is divided; a request is rounded
    up to a whole part. Below 2: not. Empty: in no interval."""
    garbage_collection_threshold: float = 0.0
    """Share of what the process may reserve beyond which cached segments go back before more is taken; 0: never."""
    memory_fraction: float = 1.0
    """Share of the device's memory that the process may reserve; 1: all that the driver gives."""

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Return the settings in text such as ``max_split_size_mb:128,expandable_segments:True``.

        Raises:
            ValueError: an option or a value that is unknown or not modelled.
        """
        found = cls()
        for name, value in options_of(text):
            if is_harmless(name, value):
                continue
            if not is_modelled(name):
                raise ValueError(f"alloc_conf: {name!r} is not modelled; {', '.join(MODELLED)} are")
            field, read = MODELLED[name]
            found = found._replace(**{field: read(name, value)})
        least = found.large_segment_bytes // MIB
        for name, n_bytes in (
            ("max_split_size_mb", found.max_split_size_bytes),
            ("max_non_split_rounding_mb", found.max_non_split_rounding_bytes),
        ):
            if n_bytes is not None and n_bytes < least * MIB:
                raise ValueError(
                    f"alloc_conf: {name}: {n_bytes // MIB}: PyTorch takes no less than a large segment's {least} MiB"
                )
        return found

    def rounded(self, n_bytes: int) -> int:
        """Return the size of the block that serves a request of so many bytes, above 0."""
        if self.roundup_divisions and n_bytes > ROUNDING:
            power = n_bytes.bit_length() - 1
            divisions = self.roundup_divisions[min(max(power - 20, 0), INTERVALS - 1)]
            if divisions > 1 and n_bytes > ROUNDING * divisions:
                part: int = (1 << power) // divisions
                return -(-n_bytes // part) * part
        return -(-n_bytes // ROUNDING) * ROUNDING

    @property
    def go_by_total(self) -> bool:
        """Whether the replay depends on the device's memory: on a share of it, or on the addresses it makes for."""
        return self.memory_fraction < 1 or self.expandable_segments

    def allowed_bytes(self, total_bytes: int | None) -> int | None:
        """Return what a process may reserve on a device with that much memory; None: no bound is known."""
        if self.memory_fraction == 1 or total_bytes is None:
            return None
        return math.floor(self.memory_fraction * total_bytes + 0.5)


def _number_of_mib(name: str, value: str) -> int:
    """Return the bytes of an option in MiB."""
    least = SMALLEST_LARGE_SEGMENT_MIB if name == "large_segment_size_mb" else 1
    if not (value.isascii() and value.isdigit() and least <= int(value) < 2**40):
        raise ValueError(f"alloc_conf: {name}: {value!r}: PyTorch takes a whole number of MiB from {least} on")
    return int(value) * MIB


def _true_or_false(name: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise ValueError(f"alloc_conf: {name}: {value!r}: True or False")
    return value == "True"


def _share(name: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not (0 <= share <= 1) or (name == "garbage_collection_threshold" and share in (0, 1)):
        between = "between 0 and 1" if name == "garbage_collection_threshold" else "from 0 to 1"
        raise ValueError(f"alloc_conf: {name}: {value!r}: a number {between}")
    return share


def _divisions(name: str, value: str) -> tuple[int, ...]:
    """Return the divisions of every interval: of one number, or of a list such as ``[256:1,512:2,>:8]``.

    A list names intervals by their MiB. What lies below the first takes its divisions, ``>`` is what lies above the one
    before it, and an interval that is not named is not divided.
    """
    found = [0] * INTERVALS
    if not value.startswith("["):
        return (_power_of_two(name, value),) * INTERVALS
    last = 0
    for number, entry in enumerate(filter(None, value.strip("[]").split(","))):
        boundary, _, text = entry.partition(":")
        divisions = 0 if text == "0" else _power_of_two(name, text)
        if boundary == ">":
            found[last + 1 :] = [divisions] * (INTERVALS - last - 1)
            continue
        last = min(_power_of_two(name, boundary).bit_length() - 1, INTERVALS - 1)
        if number == 0:
            found[:last] = [divisions] * last
        found[last] = divisions
    return tuple(found)


def _power_of_two(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text).bit_count() == 1 and int(text) < 2**40):
        raise ValueError(f"alloc_conf: {name}: {text!r}: a power of two, or a list such as [256:1,512:2,>:8]")
    return int(text)


MODELLED: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "max_split_size_mb": ("max_split_size_bytes", _number_of_mib),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _number_of_mib),
    "large_segment_size_mb": ("large_segment_bytes", _number_of_mib),
    "expandable_segments": ("expandable_segments", _true_or_false),
    "roundup_power2_divisions": ("roundup_divisions", _divisions),
    "garbage_collection_threshold": ("garbage_collection_threshold", _share),
    "per_process_memory_fraction": ("memory_fraction", _share),
}
"""The options that change what the device's memory holds: the field of each, and what reads its value."""
HARMLESS = {
    "release_lock_on_cudamalloc": "a lock that other threads wait for; it moves no byte",
    "pinned_use_cuda_host_register": "pinned memory of the host",
    "pinned_num_register_threads": "pinned memory of the host",
    "pinned_use_background_threads": "pinned memory of the host",
    "pinned_reserve_segment_size_mb": "pinned memory of the host",
    "pinned_max_round_threshold_mb": "pinned memory of the host",
    "pinned_max_cached_size_mb": "pinned memory of the host",
    "pinned_free_catch_all": "pinned memory of the host",
    "graph_capture_record_stream_reuse": "CUDA graphs, of which a run captures none",
}
"""The options that change no byte of the device, each with the reason."""


def is_modelled(name: str) -> bool:
    """Return whether the replay follows an option."""
    return name in MODELLED


def is_harmless(name: str, value: str) -> bool:
    """Return whether an option changes no byte of the device."""
    return name in HARMLESS or (name, value) == ("backend", "native")


def options_of(text: str) -> list[tuple[str, str]]:
    """Return the options in text by name and value, spaces left out; commas in brackets belong to the value."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\]?)+", "".join(text.split()))
    return [(name, value) for name, _, value in (part.partition(":") for part in parts)]


DEFAULT = AllocatorSettings()
