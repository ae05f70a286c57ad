"""Compiling the CUDA kernels ahead of time, for a GPU that need not be there.

Triton's interpreter takes what its compiler refuses, so only this shows that a kernel compiles. It does not run where
TRITON_INTERPRET is set: a kernel is declared for one of the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from memplan.memory.programs.l1_cuda import DIMENSIONS, TILE
from memplan.workload import Precision
from tkbc.scoring.kernels.forward import forward
from tkbc.scoring.kernels.softmax import exp_rows, log_sum_exp_rows, softmax_rows
from tkbc.scoring.kernels.to_entities import to_entities
from tkbc.scoring.kernels.to_queries import add_others, to_queries
from tkbc.scoring.l1_triton import ADD_BLOCK, UNROLL, WARPS
from tkbc.scoring.softmax_triton import ROW_BLOCK, ROW_WARPS

POINTERS: dict[Precision, str] = {"fp32": "*fp32", "bf16": "*bf16", "fp16": "*fp16"}
INPUTS = ("a_ptr", "w_ptr", "negative_w_ptr", "e_ptr")
"""What comes in the precision asked for; all else is float32."""


class Kernel(NamedTuple):
    """A kernel with the constants that it is launched with."""

    function: Any
    constants: dict[str, int]
    warps: int

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments, constants among them."""
        return list(self.function.arg_names)

    @property
    def takes_inputs(self) -> bool:
        """Whether it is compiled for each precision."""
        return any(name in INPUTS for name in self.arguments)


_TILE_OF_GRADIENTS = {"DIMENSIONS": DIMENSIONS, "UNROLL": UNROLL}
_ROW = {"BLOCK": ROW_BLOCK}
KERNELS: dict[str, Kernel] = {
    "forward": Kernel(forward, {"QUERIES": TILE, "ENTITIES": TILE, "UNROLL": UNROLL}, WARPS),
    "backward to queries": Kernel(to_queries, {"QUERIES": TILE, **_TILE_OF_GRADIENTS}, WARPS),
    "sum over parts": Kernel(add_others, {"BLOCK": ADD_BLOCK}, WARPS),
    "backward to entities": Kernel(to_entities, {"ENTITIES": TILE, **_TILE_OF_GRADIENTS}, WARPS),
    "softmax": Kernel(softmax_rows, _ROW, ROW_WARPS),
    "log-sum-exp": Kernel(log_sum_exp_rows, _ROW, ROW_WARPS),
    "exp": Kernel(exp_rows, _ROW, ROW_WARPS),
}


def compile_for(name: str, precision: Precision, capability: int) -> Any:
    """Return the kernel ``name`` as Triton compiles it for compute capability ``capability`` (75 is 7.5).

    Pointers are taken for aligned to 16 bytes where a launch finds them so, and no size is known.
    """
    kernel = KERNELS[name]
    unaligned = kernel.function.do_not_specialize_on_alignment or ()
    signature, alignment = {}, {}
    for position, argument in enumerate(kernel.arguments):
        if argument in kernel.constants:
            signature[argument] = "constexpr"
        elif not argument.endswith("_ptr"):
            signature[argument] = "i32"
        else:
            signature[argument] = POINTERS[precision] if argument in INPUTS else "*fp32"
            if argument not in unaligned:
                alignment[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel.function, signature, kernel.constants, alignment)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernel.warps})
