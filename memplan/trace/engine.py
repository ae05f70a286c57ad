"""What autograd does in place, and does otherwise under a dispatch mode, which it cannot see through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
ADD, ADD_IN_PLACE = aten.add.Tensor, aten.add_.Tensor
ALIAS = aten.alias.default
PRODUCT_OF_LINEAR = (aten.mm.default, aten._unsafe_view.default, aten.view.default, aten.bmm.default)
DEVICE = torch.ops.prim.device.default
LONE_TENSOR, LONE_STORAGE = 4, 2
"""References to a tensor that nobody but the engine holds, and to its storage, as they are seen from a mode."""
IN_PLACE = {
    aten.index_add.default: aten.index_add_.default,
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.index_put.default: aten.index_put_.default,
    aten.masked_scatter.default: aten.masked_scatter_.default,
    aten.index_copy.default: aten.index_copy_.default,
}
"""Operators onto a gradient made of zeros: in derivative formulas in place, unless ``areAnyTensorSubclassLike``."""


def without_a_mode(func: Any, before: Any, args: tuple[Any, ...]) -> Any:
    """Return the operator that runs in place of ``func`` where no mode is active; ``before``: the operator before it.

    - A second gradient of one tensor is added to the first in place if nobody else holds that
      (torch/csrc/autograd/input_buffer.cpp). The engine's checks of devices go right before.
    - Derivatives of look-ups scatter into zeros in place (torch/csrc/autograd/FunctionsManual.cpp).
    """
    if torch._C._current_graph_task_id() == -1 or torch.is_grad_enabled():
        return func
    if func is ADD and before is DEVICE and isinstance(args[1], Tensor) and _is_lone(args[0]):
        return ADD_IN_PLACE
    in_place = IN_PLACE.get(func)
    if in_place is not None and _is_lone(args[0], within_a_formula=1):
        node = torch._C._current_autograd_node()
        if node is not None and node.name().endswith("Backward0"):
            return in_place
    return func


def is_bias_of_linear(func: Any, before: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator adds a bias to the product before it, as ``linear`` of inputs that are not contiguous does.

    It does so in place where no mode is active (aten/src/ATen/native/Linear.cpp: isTensorSubclassLike). A sum that the
    user writes looks the same but for its call, which the caller must compare.
    """
    return (
        func is ADD
        and before in PRODUCT_OF_LINEAR
        and isinstance(args[1], Tensor)
        and args[1].dim() == 1
        and args[0].dtype is args[1].dtype
    )


def _is_lone(tensor: Tensor, within_a_formula: int = 0) -> bool:
    owners = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    held = tensor._use_count()  # type: ignore[attr-defined]
    return bool(held <= LONE_TENSOR + within_a_formula and owners <= LONE_STORAGE)
