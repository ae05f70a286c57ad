"""A process of a mesh that talks to the others, through PyTorch's collectives: NCCL on CUDA, gloo on the CPU."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from memplan.workload import Workload
from tkbc.sharded.processes import Processes


class Connected(Processes):
    """One process of the workload's mesh; PyTorch's process group is up already. All make theirs at the same time.

    Every sum is PyTorch's all-reduce, in place: nothing is allocated by PyTorch's allocator. A shard's neighbours have
    ranks in a row, so that on machines with several GPUs they are on the same one.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        mesh = init_device_mesh(
            workload.device, (workload.replicas, workload.shards), mesh_dim_names=("replica", "shard")
        )
        self._of_shards, self._of_replicas = mesh.get_group("shard"), mesh.get_group("replica")
        self._device = workload.device

    def sum_over_shards_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that hold the entity table between them."""
        if self.shards > 1:
            dist.all_reduce(tensor, group=self._of_shards)

    def largest_of_shards_(self, tensor: Tensor) -> None:
        """Replace each element of ``tensor`` by the largest over those processes."""
        if self.shards > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._of_shards)

    def sum_over_replicas_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that own the same rows."""
        if self.replicas > 1:
            dist.all_reduce(tensor, group=self._of_replicas)

    def any(self, here: bool) -> bool:
        """Return whether ``here`` holds in any process: all ask at the same point of their work."""
        told = torch.tensor(float(here), device=self._device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())
