"""Runs a command on the stand-in CUDA device, with the Python that runs this:

    python tests/cuda_standin/run.py --gpu T4 python -c 'import torch; print(torch.cuda.get_device_name())'
    python tests/cuda_standin/run.py --gpu H100 pytest tests/cuda_standin

Builds the device's libraries first where they are not there. README.md names the environment's variables.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build import BuildError, built, runtime_library

ROOT = Path(__file__).resolve().parents[2]


def environment(libraries: Path) -> dict[str, str]:
    """Return this process's environment with the stand-in's libraries before all others, and the project importable.

    Caches and settings are kept apart from the user's own: block sizes timed here, or a calibration, mean nothing.
    """
    found = dict(os.environ)
    found["LD_LIBRARY_PATH"] = _before(str(libraries), found.get("LD_LIBRARY_PATH"))
    found["LD_PRELOAD"] = f"{runtime_library(libraries)}:{libraries / 'libstandinblas.so'}"
    found["TRITON_LIBCUDA_PATH"] = str(libraries)
    found["PYTHONPATH"] = _before(str(ROOT), found.get("PYTHONPATH"))
    for name, folder in (("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("TRITON_CACHE_DIR", "triton")):
        found[name] = str(libraries / folder)
    found["PATH"] = _before(str(Path(sys.executable).parent), found.get("PATH"))
    found["TRITON_INTERPRET"] = "0"  # the tests' own setting would interpret the kernels on the CPU
    # Otherwise autograd's thread may wake when the interpreter is gone, and ends the process with SIGABRT.
    found["TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT"] = "0"
    return found


def _before(path: str, others: str | None) -> str:
    return f"{path}:{others}" if others else path


def main() -> None:
    """Become the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", help="T4, RTX3060, A100-40GB, A100-80GB or H100; by default STANDIN_GPU, or T4")
    parser.add_argument("--bytes", help="the device's memory, in place of its own")
    parser.add_argument("--context", help="bytes that are gone before the first allocation")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("no command is given")
    try:
        variables = environment(built())
    except BuildError as error:
        sys.exit(f"stand-in CUDA: {error}")
    asked = {"STANDIN_GPU": given.gpu, "STANDIN_BYTES": given.bytes, "STANDIN_CONTEXT": given.context}
    variables |= {name: value for name, value in asked.items() if value is not None}
    os.execvpe(given.command[0], given.command, variables)


if __name__ == "__main__":
    main()
