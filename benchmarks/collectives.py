"""How long gloo's all-reduce takes between processes of this machine: a small one, and bytes a second of large ones.

Prints, for each size, the time of a call and what the link carries by the ring's count, 2 (W − 1) / W of the bytes a
process. ``memplan/device/links.py`` states what it showed for two processes.

    python benchmarks/collectives.py [PROCESSES]
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SIZES = (1, 1_000, 100_000, 1_000_000, 10_000_000)
"""Float32 numbers."""
ROUNDS = 15


def _measure(rank: int, n_processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=n_processes)
    for size in SIZES:
        tensor = torch.zeros(size)
        calls = 200 if size <= 1_000 else 5
        seconds = []
        for _ in range(ROUNDS):
            dist.barrier()
            start = time.perf_counter()
            for _ in range(calls):
                dist.all_reduce(tensor)
            seconds.append((time.perf_counter() - start) / calls)
        if rank == 0:
            one = statistics.median(seconds)
            carried = 2 * (n_processes - 1) / n_processes * tensor.nbytes / one
            print(f"{tensor.nbytes:>12,} B  {one * 1e6:>10,.1f} µs a call  {carried / 1e9:>6.2f} GB/s")
    dist.destroy_process_group()


def main() -> None:
    """Start the processes and print what the first of them measured."""
    n_processes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"})
    print(f"gloo, {n_processes} processes, {os.cpu_count()} cores, torch {torch.__version__}")
    mp.spawn(_measure, args=(n_processes,), nprocs=n_processes)


if __name__ == "__main__":
    main()
