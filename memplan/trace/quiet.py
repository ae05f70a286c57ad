"""Operators that were measured to take nothing inside.

By the profiler's memory events on the CPU, torch 2.13: over one step each of nn.Transformer, nn.TransformerEncoder,
nn.GRU, GPT-2, BERT, Llama, ViT, ConvNeXt, ResNet, GCN, GIN, GraphSAGE, and PyKEEN's TransE, TuckER and ConvE (as in
 benchmarks/trace_workloads.py), no call held more than 64 bytes beside its operands and results. On CUDA the same
holds for those of them that benchmarks/trace.py meets in steps whose requested bytes it finds exact.
"""

from __future__ import annotations

QUIET = frozenset({
    "_foreach_add_", "_foreach_addcdiv_", "_foreach_addcmul_", "_foreach_div_", "_foreach_lerp_", "_foreach_mul_",
    "_foreach_sqrt", "_fused_adam_", "_fused_adamw_", "_local_scalar_dense", "_record_function_enter_new",
    "_record_function_exit", "_reshape_alias", "_to_copy", "_unsafe_view", "abs", "add_", "addcdiv_", "addcmul_",
    "addmm", "alias", "all", "any", "arange", "as_strided", "as_strided_", "bernoulli_", "binary_cross_entropy",
    "binary_cross_entropy_backward", "bitwise_or", "bmm", "cat", "clamp", "clamp_min", "clone", "constant_pad_nd",
    "copy_", "cos", "detach", "detach_", "device", "div", "div_", "empty", "empty_like", "empty_strided", "eq",
    "expand", "fill_", "full_like", "gather", "ge", "gelu", "gelu_backward", "gt", "lerp_", "lift_fresh",
    "linalg_vector_norm", "linspace", "lt", "masked_fill_", "max_pool2d_with_indices",
    "max_pool2d_with_indices_backward", "mm", "mul_", "ne", "neg", "new_empty", "new_empty_strided", "new_ones",
    "new_zeros", "nll_loss_backward", "nll_loss_forward", "nonzero", "normal_", "ones", "ones_like", "permute",
    "pow", "pow_", "randint", "randn", "random_", "randperm", "reciprocal", "relu", "repeat", "resize_",
    "resize_as_", "rsqrt", "scalar_tensor", "select", "select_backward", "sgn", "sigmoid", "sigmoid_",
    "sigmoid_backward", "silu", "silu_backward", "sin", "slice", "slice_backward", "split", "split_with_sizes",
    "sqrt", "squeeze", "stack", "sub", "t", "tanh", "tanh_", "tanh_backward", "threshold_backward", "transpose",
    "transpose_", "tril", "unbind", "unfold", "uniform_", "unsafe_chunk", "unsafe_split", "unsqueeze", "view",
    "where", "zero_", "zeros", "zeros_like",
})  # fmt: skip
