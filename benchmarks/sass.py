"""Count what the CUDA kernels became: instructions a term, registers, occupancy, and the time that they bound.

    python benchmarks/sass.py benchmarks/results/sass.json

Compiles the fused L1 kernels ahead of time for four GPUs, none of which need be there, disassembles them with the tools
that come with Triton, and counts the instructions of their inner loops. Nothing is timed. The time given is a lower
bound: the inner loops' instructions over all tiles, those that reach over the edge included, at the rate at which the
GPU issues them, or at the rate of the busiest unit where that is less. Prologues, memory and idle lanes come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"  # read when a kernel is declared

import triton

from memplan.catalog.gpus import find_gpu
from memplan.memory.programs.l1_cuda import DIMENSIONS, TILE
from memplan.workload import PRECISIONS, Precision
from tkbc.scoring.kernels.ahead import KERNELS, compile_for

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHAPES = [(1000, 7128, 100), (1000, 7128, 64)]
"""Queries, entities and dimensions: a step at ICEWS14's shape."""
TERM_FFMA = {"forward": 1, "backward to queries": 2, "backward to entities": 2}
"""Multiply-adds that the formula takes a term: they tell how many terms a turn of the loop computes."""
FLOOR = {"forward": 2, "backward to queries": 4, "backward to entities": 3}
"""Instructions that the formula takes a term: multiply-adds, additions, and the sign's flip."""
LANES = 128
"""Lane instructions that a multiprocessor issues a clock: four schedulers, a warp of 32 each."""


class Multiprocessors(NamedTuple):
    """A GPU's multiprocessors and what one of them holds and does."""

    capability: int
    count: int
    lanes: dict[str, int]
    """Results a clock by kind of instruction."""
    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


# Counts of multiprocessors: NVIDIA T4 datasheet (2,560 cores, 64 each), GeForce RTX 3060 specifications (3,584, 128
# each), A100 and H100 whitepapers. Results a clock: CUDA C++ Programming Guide, "Arithmetic Instructions", by compute
# capability; loads: 16 load and store units a multiprocessor in the Turing and GA102 whitepapers, 32 in those of A100
# and H100. Limits of occupancy: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
_KB = 1024
GPUS: dict[str, Multiprocessors] = {
    "T4": Multiprocessors(
        75, 40, {"fp32": 64, "integer": 64, "memory": 16, "shuffle": 32, "conversion": 16}, 1024, 16, 64 * _KB
    ),
    "RTX 3060": Multiprocessors(
        86, 28, {"fp32": 128, "integer": 64, "memory": 16, "shuffle": 32, "conversion": 64}, 1536, 16, 100 * _KB
    ),
    "A100 40GB": Multiprocessors(
        80, 108, {"fp32": 64, "integer": 64, "memory": 32, "shuffle": 32, "conversion": 16}, 2048, 32, 164 * _KB
    ),
    "H100": Multiprocessors(
        90, 132, {"fp32": 128, "integer": 64, "memory": 32, "shuffle": 32, "conversion": 64}, 2048, 32, 228 * _KB
    ),
}
KINDS: dict[str, tuple[str, ...]] = {
    "fp32": ("FFMA", "FADD", "FMUL"),
    "integer": ("LOP3", "IADD3", "IADD", "VIADD", "IMAD", "LEA", "SHF", "ISETP", "PRMT", "MOV", "SEL", "IMNMX", "CS2R"),
    "memory": ("LDG", "STG", "LDS", "STS", "STSM", "LDSM", "LDL", "STL", "LDC"),
    "shuffle": ("SHFL",),
    "conversion": ("F2F", "F2FP", "HADD2", "I2F", "F2I"),
}
"""Instructions by the unit that runs them, where it matters; all others only take their turn to be issued."""

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_LABEL = re.compile(r"\s*\.(L_\w+):")


def main() -> None:
    """Write what was counted, and print a table of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="else all")
    options = parser.parse_args()
    rows = [
        count(gpu, kernel, precision)
        for gpu in GPUS
        for kernel in TERM_FFMA
        for precision in options.precision or PRECISIONS
    ]
    found = {
        "about": {
            "what": "instructions counted in compiled code; no time measured",
            "triton": triton.__version__,
            "ptxas": _run("ptxas", "--version").strip().splitlines()[-1],
            "tile": {"queries or entities": TILE, "dimensions of gradients": DIMENSIONS},
        },
        "rows": rows,
        "bounds": [bounds(gpu, shape, rows) for gpu in GPUS for shape in SHAPES],
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(
            f"{row['gpu']:10} {row['kernel']:21} {row['precision']}  {row['instructions_a_term']:5.2f} a term "
            f"({FLOOR[row['kernel']]} by the formula), {row['shuffles_in_loops']} shuffles, {row['spills']} spills, "
            f"{row['registers']} registers, {row['occupancy']:.0%} occupied"
        )
    for row in found["bounds"]:
        total, products = row["total_seconds"], row["products_seconds"]
        print(f"{row['gpu']:10} {row['shape']}: at least {1e6 * total:,.0f} us; products {1e6 * products:,.0f} us")


def count(gpu: str, kernel: str, precision: Precision) -> dict[str, Any]:
    """Return what the inner loop of ``kernel`` takes on ``gpu``, a term."""
    limits = GPUS[gpu]
    compiled = compile_for(kernel, precision, limits.capability)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        listing = _run("nvdisasm", "-c", str(cubin))
        usage = _run("cuobjdump", "-res-usage", str(cubin))
    registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index] - cuobjdump always says so
    instructions, loops = read(listing)
    turn = max(loops, key=len)
    names = Counter(turn)
    terms = names["FFMA"] / TERM_FFMA[kernel]
    by_kind = {kind: sum(names[name] for name in of_kind) / terms for kind, of_kind in KINDS.items()}
    everything = len(turn) / terms
    return {
        "gpu": gpu,
        "capability": limits.capability,
        "kernel": kernel,
        "precision": precision,
        "terms_a_turn": terms,
        "instructions_a_term": everything,
        "by_kind": {**by_kind, "other": everything - sum(by_kind.values())},
        "floor": FLOOR[kernel],
        "shuffles_in_loops": sum(name == "SHFL" for loop in loops for name in loop),
        "spills": sum(name in ("LDL", "STL") for name in instructions),
        "registers": registers,
        "shared_bytes": compiled.metadata.shared,
        "occupancy": occupancy(limits, registers, compiled.metadata.shared, 32 * KERNELS[kernel].warps),
        "turn": dict(names.most_common()),
    }


def read(listing: str) -> tuple[list[str], list[list[str]]]:
    """Return the instructions' names, without their modifiers, and those of each loop (a branch back and its body)."""
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[list[str]] = []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(names)
        elif instruction := _INSTRUCTION.search(line):
            names.append(instruction[1].split(".")[0])
            target = re.search(r"\.(L_\w+)", instruction[2]) if names[-1] == "BRA" else None
            # A branch to itself ends every program.
            if target is not None and labels.get(target[1], len(names)) < len(names) - 1:
                loops.append(names[labels[target[1]] :])
    return names, loops


def occupancy(limits: Multiprocessors, registers: int, shared_bytes: int, threads: int) -> float:
    """Return the share of a multiprocessor's threads that can be there at once.

    A warp gets registers in units of 256; from 8.0 on a block takes 1 KiB of shared memory besides its own.
    """
    a_warp = -(-32 * registers // 256) * 256
    reserved = 1024 if limits.capability >= 80 else 0
    blocks = min(limits.blocks, limits.registers // (a_warp * threads // 32), limits.threads // threads)
    if shared_bytes + reserved:
        blocks = min(blocks, limits.shared_bytes // (shared_bytes + reserved))
    return blocks * threads / limits.threads


def bounds(gpu: str, shape: tuple[int, int, int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the least seconds of each kernel at a shape, fp32, and of the ComplEx family's three products."""
    limits, known = GPUS[gpu], find_gpu(gpu)
    b, n, d = shape
    clock = known.flops_per_second / (2 * limits.count * limits.lanes["fp32"])
    whole = {"forward": _up(b, TILE) * _up(n, TILE) * d}
    whole["backward to queries"] = _up(b, TILE) * n * _up(d, DIMENSIONS)
    whole["backward to entities"] = b * _up(n, TILE) * _up(d, DIMENSIONS)
    seconds: dict[str, float] = {}
    bound_by: dict[str, str] = {}
    for row in rows:
        if row["gpu"] != gpu or row["precision"] != "fp32":
            continue
        clocks = {kind: row["by_kind"][kind] / lanes for kind, lanes in limits.lanes.items()}
        clocks["issue"] = row["instructions_a_term"] / LANES
        slowest = max(clocks, key=lambda kind: clocks[kind])
        seconds[row["kernel"]] = whole[row["kernel"]] * clocks[slowest] / (limits.count * clock)
        bound_by[row["kernel"]] = slowest
    return {
        "gpu": gpu,
        "multiprocessors": limits.count,
        "clock_hz": clock,
        "clock_from": f"the peak in memplan/catalog/gpus.py: {known.source}",
        "shape": shape,
        "seconds": seconds,
        "bound_by": bound_by,
        "total_seconds": sum(seconds.values()),
        "products_seconds": 3 * 2 * b * n * 2 * d / known.flops_per_second,
    }


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
