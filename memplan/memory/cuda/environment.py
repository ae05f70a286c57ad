"""What the environment says of the allocator's options, and how a run comes to obey its plan's.

PyTorch reads them once, when it is loaded, from one variable: PYTORCH_CUDA_ALLOC_CONF, if it is set at all, else
PYTORCH_ALLOC_CONF (2.14, found by running it; releases before it preferred the latter, and those before 2.9 know the
former alone).
"""

from __future__ import annotations

import os
import sys

from memplan.errors import UsageError
from memplan.workload.alloc_conf import DEFAULT, AllocatorSettings, is_harmless, is_modelled, options_of

VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def from_environment() -> str:
    """Return the modelled options of the environment's own setting, which a run on this machine will obey.

    Raises:
        UsageError: both variables are set, and differ.
    """
    _, text = _setting()
    return _modelled(text)


def notice() -> str | None:
    """Return what to tell of the environment's options that predictions leave out of account; None: there are none."""
    _, text = _setting()
    names = [name for name, value in options_of(text) if not is_modelled(name) and not is_harmless(name, value)]
    if not names:
        return None
    return (
        f"{', '.join(names)} of the environment's allocator options: not modelled, so allocated and reserved bytes may "
        "differ"
    )


def obey(alloc_conf: str) -> None:
    """Have PyTorch obey a plan's allocator options in this process.

    Raises:
        UsageError: the environment says otherwise, and PyTorch would obey that; or PyTorch is loaded already.
    """
    wanted = AllocatorSettings.parse(alloc_conf)
    variable, text = _setting()
    if variable is not None:
        if AllocatorSettings.parse(_modelled(text)) != wanted:
            raise UsageError(
                f"--alloc-conf: the run is planned with {alloc_conf!r}, but {variable} is {text!r}, which PyTorch "
                f"would obey; unset {variable}, or plan with what it says"
            )
    elif wanted != DEFAULT:
        if "torch" in sys.modules:
            raise UsageError(
                f"--alloc-conf: {alloc_conf!r}: PyTorch is loaded already and reads its options but once; set "
                f"{VARIABLES[0]} before Python starts"
            )
        for name in VARIABLES:  # no release of PyTorch reads both, nor the same one
            os.environ[name] = alloc_conf


def _setting() -> tuple[str | None, str]:
    """Return the variable that PyTorch reads, None if neither is set, and what it says."""
    found = [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    if not found:
        return None, ""
    if len(found) == 2 and options_of(found[0][1]) != options_of(found[1][1]):
        both = " and ".join(f"{name}={text!r}" for name, text in found)
        raise UsageError(
            f"{both} are both set, and PyTorch reads but one of them, by its release; unset one, or on a command that "
            "plans say --alloc-conf"
        )
    return found[0]


def _modelled(text: str) -> str:
    return ",".join(f"{name}:{value}" for name, value in options_of(text) if is_modelled(name))
