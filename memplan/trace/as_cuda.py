"""Without a CUDA device the CPU's tensors stand for CUDA's: here they take CUDA's ways where PyTorch chooses by device.

- dropout is one operator that keeps a mask of bytes, not a product with a mask of the input's type;
- attention is one operator where CUDA has such a kernel (flash, memory-efficient), chosen by type and shape;
- ``torch.autocast("cuda")`` casts by CUDA's list.

They are kernels of these operators for as long as a trace runs. Rules as in PyTorch 2.14 (aten/src/ATen: native/
Dropout.cpp, native/transformers/cuda/sdp_utils.cpp, autocast_mode.h). Not emulated: convolutions, recurrent layers,
cuDNN's attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.amp import autocast_mode
from torch.library import _scoped_library

from memplan.trace.attention import AMPERE, Capability

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
MASK_MULTIPLE = 16
"""Rows of a mask are padded to a multiple of it."""
MOST_FLASH_WIDTH = 256
IN_FLOAT32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm",
    "group_norm", "cosine_similarity", "nll_loss", "nll_loss2d", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss",
    "mse_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss",
    "multi_margin_loss", "binary_cross_entropy_with_logits", "dist", "cdist", "renorm", "logsumexp",
)  # fmt: skip
"""Operators whose operands CUDA's autocast casts to float32."""
RESULT_IN_FLOAT32 = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "sum", "sum.dim_IntList"
)  # fmt: skip
"""Operators of which CUDA's autocast asks a float32 result, where the caller asks no type."""


@contextmanager
def cuda_ways(capability: Capability | None) -> Iterator[None]:
    """Let tensors of the CPU take CUDA's ways; ``capability``: of the GPU that is traced for."""
    before = autocast_mode.autocast.__init__

    def for_cpu(self: Any, device_type: str, dtype: Any = None, *args: Any, **settings: Any) -> None:
        if device_type == "cuda":
            device_type, dtype = "cpu", dtype or torch.get_autocast_dtype("cuda")
        before(self, device_type, dtype, *args, **settings)

    with _scoped_library("aten", "IMPL") as library:
        library.impl("dropout", _dropout, "AutogradCPU")
        library.impl("scaled_dot_product_attention", _attention_on(capability or (7, 5)), "AutogradCPU")
        for name in IN_FLOAT32:
            library.impl(name, _cast_first(_operator(name)), "AutocastCPU", allow_override=True)
        for name in RESULT_IN_FLOAT32:
            library.impl(name, _result_in_float32(_operator(name)), "AutocastCPU", allow_override=True)
        library.impl(
            "cross_entropy_loss", _in_parts(aten.cross_entropy_loss.default), "AutocastCPU", allow_override=True
        )
        autocast_mode.autocast.__init__ = for_cpu  # type: ignore[method-assign]
        try:
            yield
        finally:
            autocast_mode.autocast.__init__ = before  # type: ignore[method-assign]


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _dropout(tensor: Tensor, p: float, train: bool) -> Tensor:
    if not train or p == 0 or tensor.numel() == 0:
        return tensor
    if p == 1:
        return tensor * 0.0
    kept: Tensor = torch.native_dropout(tensor, p, True)[0]
    return kept


def _attention_on(capability: Capability) -> Callable[..., Tensor]:
    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        way = attention_way(capability, query, key, value, attn_mask, enable_gqa)
        if way == "flash" or way == "efficient":
            mask = None if attn_mask is None else _as_kernels_want(attn_mask, query, key)
            if way == "flash":
                return _flash(query, key, value, dropout_p, is_causal, scale)
            keeps = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
            found = aten._scaled_dot_product_efficient_attention.default(
                query, key, value, mask, keeps, dropout_p, is_causal, scale=scale
            )
            return found[0]  # type: ignore[no-any-return]
        found = aten._scaled_dot_product_attention_math.default(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return found[0]  # type: ignore[no-any-return]

    return attention


def attention_way(
    capability: Capability, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, enable_gqa: bool
) -> str:
    """Return which of CUDA's kernels takes an attention: flash, efficient, or none: math."""
    if any(t.dim() != 4 or 0 in t.shape for t in (query, key, value)):
        return "math"
    heads, fewer = query.shape[1], key.shape[1]
    is_even = key.shape[:2] == value.shape[:2] and (heads == fewer or (enable_gqa and heads % fewer == 0))
    width, is_half, is_new = query.shape[-1], query.dtype in HALF, capability >= AMPERE
    of_one_width = width == key.shape[-1] == value.shape[-1]
    if is_new and is_half and mask is None and of_one_width and width <= MOST_FLASH_WIDTH and is_even:
        return "flash"
    fits_type = is_half or query.dtype is torch.float32
    if not is_even or not fits_type or (query.dtype is torch.bfloat16 and not is_new):
        return "math"
    multiple = 8 if is_half else 4 if is_new else 1
    return "math" if width % multiple or value.shape[-1] % multiple else "efficient"


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float, causal: bool, scale: float | None) -> Tensor:
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    padding = -width % 8
    if padding:
        query, key, value = (torch.nn.functional.pad(t, (0, padding)) for t in (query, key, value))
    found = aten._scaled_dot_product_flash_attention.default(query, key, value, dropout, causal, False, scale=scale)[0]
    return found[..., :width] if padding else found  # type: ignore[no-any-return]


def _as_kernels_want(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return a mask as numbers to add, its rows padded in memory, for every batch and head."""
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    n = mask.shape[-1]
    if n % MASK_MULTIPLE:
        mask = torch.nn.functional.pad(mask, (0, -n % MASK_MULTIPLE))[..., :n]
    return mask.expand(*query.shape[:3], key.shape[2])


def _cast_first(operator: Any) -> Callable[..., Any]:
    def cast(value: Any) -> Any:
        is_floating = isinstance(value, Tensor) and value.is_floating_point() and value.dtype is not torch.float64
        return value.to(torch.float32) if is_floating else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return operator(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return kernel


def _in_parts(operator: Any) -> Callable[..., Any]:
    """Return the operator's own parts, each cast by itself: CUDA's list does not name it, the CPU's does."""
    return lambda *args, **kwargs: operator.decompose(*args, **kwargs)


def _result_in_float32(operator: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        is_half = isinstance(args[0], Tensor) and args[0].dtype in HALF
        asked = kwargs.get("dtype", args[-1] if isinstance(args[-1], torch.dtype) else None)
        with torch.autocast("cpu", enabled=False):
            if is_half and asked is None:
                names = [argument.name for argument in operator._schema.arguments]
                return operator(*args[: names.index("dtype")], **{**kwargs, "dtype": torch.float32})
            return operator(*args, **kwargs)

    return kernel
