"""Builds the stand-in device's libraries for the PyTorch of the Python that runs this.

    python tests/cuda_standin/build.py

Needs gcc and a CUDA build of PyTorch from a wheel: the headers come with its NVIDIA packages and with Triton. Prints
the folder of the libraries, one for each version of PyTorch and of the sources; if it is there, nothing is built.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
PACKAGES = Path(sysconfig.get_paths()["purelib"])
DRIVER = ["device.c", "memory.c", "counters.c", "driver.c"]


class BuildError(Exception):
    """The libraries cannot be built here; the message says why."""


def built() -> Path:
    """Return the folder of the libraries for this Python's PyTorch, built first if need be.

    Raises:
        BuildError: no CUDA build of PyTorch, no compiler, or sources that do not compile.
    """
    folder = HERE / "build" / f"torch-{_torch_version()}-{_fingerprint()}"
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "libraries"
            made.mkdir()
            _Builder(made, Path(scratch)).build()
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def runtime_library(folder: Path) -> Path:
    """Return the CUDA runtime among the built libraries; its name carries CUDA's major version."""
    return next(folder.glob("libcudart.so.*"))


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("this Python has no PyTorch: install a CUDA build of it") from None


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(SOURCES.iterdir())]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class _Imported(NamedTuple):
    """A function that PyTorch's libraries import, and the version that they ask for."""

    name: str
    version: str


def _imported(pattern: str) -> set[_Imported]:
    """Return the versioned functions with names like ``pattern`` that PyTorch and its NVIDIA packages import."""
    found = set()
    for folder in [PACKAGES / "torch/lib", *sorted((PACKAGES / "nvidia").glob("*/lib"))]:
        for library in folder.glob("*.so*"):
            symbols = _output(["nm", "-D", "--undefined-only", str(library)])
            found |= {_Imported(*match) for match in re.findall(rf"\b({pattern}\w*)@@?(\S+)", symbols)}
    return found


class _Builder:
    """Compiles the sources in a scratch folder and links the libraries in another."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self.out, self.scratch = out, scratch
        headers = [*sorted((PACKAGES / "nvidia").glob("*/include")), PACKAGES / "triton/backends/nvidia/include"]
        if not any((folder / "cuda_runtime_api.h").is_file() for folder in headers[:-1]):
            raise BuildError(
                f"PyTorch {_torch_version()} of this Python is no CUDA build from a wheel: no CUDA headers under "
                f"{PACKAGES / 'nvidia'}"
            )
        includes = [f"-I{folder}" for folder in (SOURCES, *headers)]
        self.compiler = ["gcc", "-std=gnu11", "-O1", "-g", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter"]
        self.compiler += includes

    def build(self) -> None:
        """Build the four libraries."""
        self._link("libcuda.so.1", DRIVER)
        self._link("libnvidia-ml.so.1", ["nvml.c"], "-l:libcuda.so.1")
        runtime = {f for f in _imported("(?:__)?cuda") if f.version.startswith("libcudart")}
        name = max(f.version for f in runtime)  # the versions are called libcudart.so.12 or libcudart.so.13
        not_there = 'int standin_not_there(const char *); int NAME(void) { return standin_not_there("NAME"); }'
        self._link(name, ["runtime.c"], "-l:libcuda.so.1", replaces=runtime, missing=not_there)
        products = {f for f in _imported("cublas") if f.version.startswith("libcublas")}
        self._link("libstandinblas.so", ["blas.c"], replaces=products, missing="int NAME(void) { return 0; }")

    def _link(
        self, name: str, files: list[str], *libraries: str, replaces: set[_Imported] = frozenset(), missing: str = ""
    ) -> None:
        """Link one library under its soname; imported functions that its sources lack are written by ``missing``."""
        objects = [self._compiled(SOURCES / file) for file in files]
        flags = [f"-Wl,-soname,{name}", f"-L{self.out}", "-Wl,-rpath,$ORIGIN", *libraries, "-ldl", "-lpthread"]
        if replaces:
            symbols = _output(["nm", "--defined-only", *map(str, objects)])
            here = {line.split()[-1] for line in symbols.splitlines() if line}
            lacking = sorted({function.name for function in replaces} - here)
            stubs = self.scratch / "missing.c"
            stubs.write_text("\n".join(missing.replace("NAME", function) for function in lacking) + "\n")
            objects.append(self._compiled(stubs))
            script = self.scratch / "versions"
            script.write_text(_version_script(replaces))
            flags.append(f"-Wl,--version-script={script}")
            told = f"{name}: {len(replaces)} functions imported by PyTorch, {len(lacking)} of them not there"
            print(told, file=sys.stderr)
        _output([*self.compiler, "-shared", "-o", str(self.out / name), *map(str, objects), *flags])

    def _compiled(self, source: Path) -> Path:
        made = self.scratch / f"{source.stem}.o"
        _output([*self.compiler, "-c", "-o", str(made), str(source)])
        return made


def _version_script(functions: set[_Imported]) -> str:
    """Return the linker's script that gives each function its version, and shows no other."""
    versions: dict[str, list[str]] = {}
    for function in sorted(functions):
        versions.setdefault(function.version, []).append(function.name)
    return "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items())


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{command[0]} was not found; install gcc and binutils") from None
    if done.returncode and command[0] == "gcc":
        raise BuildError(done.stderr)
    return done.stdout


if __name__ == "__main__":
    try:
        print(built())
    except BuildError as error:
        sys.exit(f"stand-in CUDA: {error}")
