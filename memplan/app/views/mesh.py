"""How several processes train together, in a few lines: how they divide the work, what they send and hold besides."""

from __future__ import annotations

from memplan.device.target import Target
from memplan.plan import Mesh
from memplan.search.meshes import mesh_name
from memplan.units import format_bytes, format_count
from memplan.workload import Workload


def mesh_lines(mesh: Mesh, workload: Workload, target: Target) -> list[str]:
    """Return how the processes divide the work, what they send, and what they take outside PyTorch's allocator."""
    each = f"{format_bytes(mesh.host_bytes // mesh.devices)} of ids and filter in each process"
    while_built = f"{format_bytes(mesh.host_building_bytes)} while the filter is built"
    facts = [
        f"host  {each}, {format_bytes(mesh.host_bytes)} in all, {while_built}",
        f"facts {format_bytes(mesh.replicated_bytes)} of examples and their order, whole on each device",
    ]
    if mesh.devices == 1:
        return facts
    rows = f"{format_count(len(workload.own_entities))} of {format_count(workload.n_entities)} entities"
    examples = f"{workload.replica_batch_size} of {workload.batch_size} examples"
    link = f"{target.link.bytes_per_second / 1e9:.3g} GB/s"
    sent = f"{format_bytes(mesh.sent_bytes_per_step)} a step by each, in {mesh.collectives_per_step} all-reduces"
    lines = [
        f"mesh  {mesh_name(mesh.shards, mesh.replicas)}: each has up to {rows}, {examples}",
        f"sent  {sent}, at {link} ({'stated' if workload.device == 'cuda' else 'gloo between two'})",
    ]
    if mesh.nccl_bytes:
        lines.append(
            f"NCCL  {format_bytes(mesh.nccl_bytes)} on each device outside the allocator (stated, not measured)"
        )
    return lines + facts
