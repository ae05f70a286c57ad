"""What the operators for one's own model take: checked before any kernel sees it, since a kernel would not notice.

A kernel goes by one tensor's shape and reads the others by it: a query wider than the entities would have it write
beyond their gradient. Only shapes, types and devices are looked at, so the checks hold for tensors without numbers too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memplan.errors import UsageError

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_vectors(a: Tensor, w: Tensor, entities: Tensor) -> None:
    """Check that a and w are (b, d) and the entities (N, d), of one floating-point type, on one CPU or CUDA device.

    Raises:
        UsageError: they are not; the message names the tensor.
    """
    tensors = {"a": a, "w": w, "entities": entities}
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            rows = "N" if name == "entities" else "b"
            raise UsageError(f"{name} has the shape {_shape(tensor)}; it takes two dimensions, ({rows}, d)")
        if tensor.dtype not in FLOATS:
            raise UsageError(f"{name} is {_name(tensor.dtype)}; it takes {', '.join(_name(known) for known in FLOATS)}")
        if tensor.layout != torch.strided:
            raise UsageError(f"{name} is {tensor.layout}; make it dense with {name}.to_dense()")
        if tensor.dtype != a.dtype:
            raise UsageError(f"a is {_name(a.dtype)} and {name} is {_name(tensor.dtype)}; give both one type")
        if tensor.device != a.device:
            raise UsageError(f"a is on {a.device} and {name} on {tensor.device}; move them to one device")
    if a.shape[0] != w.shape[0] or a.shape[1] != w.shape[1]:
        raise UsageError(f"a has the shape {_shape(a)} and w {_shape(w)}; both take (b, d)")
    if a.shape[1] != entities.shape[1]:
        raise UsageError(f"a and w are {a.shape[1]} wide and the entities {entities.shape[1]}; all take the same d")
    if a.device.type not in ("cpu", "cuda", "meta"):
        raise UsageError(f"a is on {a.device}; there are kernels for cpu and cuda: move the tensors there")


def check_labels(labels: Tensor, a: Tensor, entities: Tensor, chunk_size: int) -> None:
    """Check that the labels are (b,) int64 on the queries' device, and that there are entities to choose from.

    Raises:
        UsageError: they are not, or the chunk size is below 1.
    """
    if labels.dim() != 1 or labels.shape[0] != a.shape[0]:
        raise UsageError(
            f"labels have the shape {_shape(labels)}; they take (b,), one for each of {a.shape[0]} queries"
        )
    if labels.dtype != torch.int64:
        raise UsageError(f"labels are {_name(labels.dtype)}; they take int64: labels.long()")
    if labels.device != a.device:
        raise UsageError(f"a is on {a.device} and labels on {labels.device}; move them to one device")
    if entities.shape[0] == 0:
        raise UsageError("there are no entities; a softmax takes one or more")
    if chunk_size < 1:
        raise UsageError(f"chunk_size {chunk_size}: it takes 1 or more entities")


def check_label_values(labels: Tensor, n_entities: int) -> None:
    """Check on the CPU that every label is a row of the entities.

    Raises:
        UsageError: one is not.
    """
    if len(labels) == 0:
        return
    lowest, highest = labels.aminmax()
    for label in (int(lowest), int(highest)):
        if not 0 <= label < n_entities:
            raise UsageError(f"labels hold {label}; they take rows of the entities, 0 to {n_entities - 1}")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a tensor of the backward has the shape that its forward's had.

    Raises:
        UsageError: it has another.
    """
    if tuple(tensor.shape) != shape:
        raise UsageError(f"{name} has the shape {_shape(tensor)}; it takes {shape}")


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(n) for n in tensor.shape)}{',' if tensor.dim() == 1 else ''})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
