"""Calling the L1 kernels for whatever tensors an operator is given, of any size, layout, type and device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from tkbc.scoring.choosing import PairwiseScore, make_score
from tkbc.scoring.chunks import chunk_view
from tkbc.scoring.rounded import HALF_TYPES
from tkbc.scoring.sliced import SlicedL1

Three = tuple[Tensor, Tensor, Tensor]


@contextmanager
def kernels(device: torch.device, dtype: torch.dtype) -> Iterator[PairwiseScore]:
    """Yield the kernels for tensors of this device and type; CUDA's are started on this very device."""
    if device.type == "cpu":
        # Threads do not outlive a fork, so a process has kernels of its own.
        yield _on_cpu(torch.get_num_threads(), os.getpid())
    else:
        with torch.cuda.device(device):
            yield SlicedL1() if dtype == torch.float64 else _on_cuda(device, dtype)


@lru_cache(maxsize=4)
def _on_cpu(threads: int, process: int) -> PairwiseScore:
    del process
    return make_score("l1", "fused", "cpu", threads)


@lru_cache(maxsize=64)
def _on_cuda(device: torch.device, dtype: torch.dtype) -> PairwiseScore:
    del device  # compiled and checked once on each
    by_type = {getattr(torch, name): precision for precision, name in HALF_TYPES.items()}
    return make_score("l1", "fused", "cuda", precision=by_type.get(dtype, "fp32"))


def ready(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors as the kernels read them: contiguous, and on the CPU no half precision."""
    halves = (torch.bfloat16, torch.float16)
    as_float = tensors[0].device.type == "cpu" and tensors[0].dtype in halves
    return tuple((tensor.float() if as_float else tensor).contiguous() for tensor in tensors)


def result_type(tensor: Tensor) -> torch.dtype:
    """Return the type of scores and losses: float32, or float64 where the inputs are."""
    return torch.promote_types(tensor.dtype, torch.float32)


def zeros(*tensors: Tensor) -> Three:
    """Return tables for gradients, in the type that the kernels add up in."""
    a, w, entities = (torch.zeros(t.shape, dtype=result_type(t), device=t.device) for t in tensors)
    return a, w, entities


def as_type(dtype: torch.dtype, grads: Three) -> Three:
    """Return the gradients in the inputs' type."""
    a, w, entities = (grad.to(dtype) for grad in grads)
    return a, w, entities


def alike(*tensors: Tensor) -> Three:
    """Return new tensors of the same shapes and types, for PyTorch to trace with."""
    a, w, entities = (tensor.new_empty(tensor.shape) for tensor in tensors)
    return a, w, entities


def chunks(entities: Tensor, chunk_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each chunk of entities, with the row that it begins at."""
    for start in range(0, len(entities), chunk_size):
        yield start, entities[start : start + chunk_size]


def view(buffer: Tensor, b: int, width: int) -> Tensor:
    """Return the start of the buffer as a contiguous (b, width)."""
    start = chunk_view(buffer, b, width)
    assert start is not None
    return start


def scores_into(score: PairwiseScore, query: tuple[Tensor, ...], entities: Tensor, out: Tensor) -> Tensor:
    """Write the scores into ``out``, (b, c), and return it."""
    if query[0].numel() == 0 or len(entities) == 0:
        return out.zero_()
    return score.forward(query, entities, out, grad=False)


def add_gradients(
    score: PairwiseScore, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor, grads: Three
) -> None:
    """Add the gradients of Σ grad_scores · scores to ``grads``, those of a, w and the entities."""
    if query[0].numel() > 0 and len(entities) > 0:
        score.backward(query, entities, grad_scores, grads[:2], grads[2])


def log_sum_exp_of(score: PairwiseScore, scores: Tensor) -> Tensor:
    """Return each row's log-sum-exp, (b,); the scores stay."""
    if len(scores) == 0:
        return scores.new_empty(0)
    return score.log_sum_exp_(scores) if score.keeps_scores else scores.logsumexp(1)
