"""Compiling the CUDA kernels ahead of time, for a GPU that need not be there.

Triton's interpreter takes what its compiler refuses, so only this shows that a kernel compiles. It does not run where
TRITON_INTERPRET is set: kernels are declared for one of the two.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from memplan.workload import Precision
from tkbc.scoring import l1_triton
from tkbc.scoring.tuning import DEFAULT

TYPES: dict[Precision, str] = {"fp32": "*fp32", "bf16": "*bf16", "fp16": "*fp16"}
SIZES = {"n_queries": "i32", "n_entities": "i32", "rank": "i32"}
KERNELS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "forward": (l1_triton._forward, ("a_ptr", "w_ptr", "e_ptr"), ("out_ptr",)),
    "backward to queries": (
        l1_triton._backward_query,
        ("a_ptr", "w_ptr", "e_ptr"),
        ("g_ptr", "grad_a_ptr", "grad_w_ptr"),
    ),
    "backward to entities": (l1_triton._backward_entities, ("a_ptr", "w_ptr", "e_ptr"), ("g_ptr", "grad_e_ptr")),
}
"""Kernel, its pointers to inputs of the precision asked for, its pointers to float32."""


def compile_for(name: str, precision: Precision, capability: int) -> Any:
    """Return the kernel ``name`` compiled for compute capability ``capability`` (75 is 7.5)."""
    kernel, inputs, floats = KERNELS[name]
    constants = {"B": DEFAULT.queries, "N": DEFAULT.entities, "K": DEFAULT.dimensions}
    signature = {
        **dict.fromkeys(inputs, TYPES[precision]),
        **dict.fromkeys(floats, "*fp32"),
        **SIZES,
        **dict.fromkeys(constants, "constexpr"),
    }
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": DEFAULT.warps})
