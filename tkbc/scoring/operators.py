"""The fused L1 score and the softmax over it as differentiable operators, for a model of one's own.

``weighted_l1`` and ``softmax_cross_entropy`` are ``torch.library`` custom operators: autograd, ``torch.compile`` (also
with ``fullgraph=True``) and fake tensors know them. No (b, N, d) tensor is built, forward or backward. On the CPU they
run the numba kernels with ``torch.get_num_threads()`` threads, on CUDA the Triton kernels. What they compute with:

    float32             the fused kernels
    float64             on the CPU the same kernels in float64; on CUDA plain PyTorch, a chunk of entities at a time
    bfloat16, float16   on the CPU as float32; on CUDA the kernels for rounded inputs. Scores and losses are float32,
                        gradients come back in the inputs' type

Where a_k = w_k e_k the gradient takes the sign as +1, a valid subgradient; PyTorch's abs takes 0. There is no second
derivative. Inside ``torch.autocast`` inputs are taken as float32.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from memplan.errors import UsageError
from tkbc.scoring.calling import (
    Three,
    add_gradients,
    alike,
    as_type,
    chunks,
    kernels,
    log_sum_exp_of,
    ready,
    result_type,
    scores_into,
    view,
    zeros,
)
from tkbc.scoring.chunks import collect_label_scores
from tkbc.scoring.inputs import check_label_values, check_labels, check_shape, check_vectors
from tkbc.tensors import positions_in

Reduction = Literal["mean", "sum", "none"]


def weighted_l1(a: Tensor, w: Tensor, entities: Tensor) -> Tensor:
    """Return the scores s_in = −Σ_k |a_ik − w_ik e_nk|, differentiable in all three.

    The distance of PairRE (arXiv 2011.03798). The plain formula is ``tkbc.scoring.reference.weighted_l1``, which builds
    (b, N, d) tensors; here memory is that of the scores.

    Shapes:
        a, w: (b, d); entities: (N, d), all of one floating-point type; returns (b, N), float32 (float64 for float64).

    Raises:
        UsageError: shapes, types or devices that do not go together; the message names the tensor.
    """
    scores: Tensor = scores_operator(a, w, entities)
    return scores


def softmax_cross_entropy(
    a: Tensor,
    w: Tensor,
    entities: Tensor,
    labels: Tensor,
    *,
    chunk_size: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean over i of log Σ_n exp s_in − s_i,label_i with the scores of ``weighted_l1``.

    As ``torch.nn.functional.cross_entropy(weighted_l1(a, w, entities), labels)``. All entities at once (the default)
    keep the (b, N) scores for backward. With ``chunk_size`` below N no more than (b, chunk_size) of them exist at a
    time; backward computes them again.

    Args:
        a: (b, d).
        w: (b, d).
        entities: (N, d), of the same type.
        labels: (b,) int64, a row of the entities each. One out of range is an error on the CPU; on CUDA, where a look
            at the values would wait for the device, its loss is NaN.
        chunk_size: entities scored at a time; None: all.
        reduction: ``mean``, ``sum``, or ``none`` for the (b,) losses.

    Raises:
        UsageError: shapes, types or devices that do not go together; the message names the tensor.
    """
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f"reduction {reduction!r}: mean, sum or none")
    if chunk_size is None:
        chunk_size = max(1, entities.shape[0]) if entities.dim() else 1
    losses: Tensor = loss_operator(a, w, entities, labels, chunk_size)[0]
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


@torch.library.custom_op("tkbc::weighted_l1", mutates_args=())
def scores_operator(a: Tensor, w: Tensor, entities: Tensor) -> Tensor:
    """Compute the scores."""
    check_vectors(a, w, entities)
    query, entities = ready(a, w), ready(entities)[0]
    with kernels(a.device, a.dtype) as score:
        return scores_into(score, query, entities, entities.new_empty((len(a), len(entities)), dtype=result_type(a)))


@torch.library.custom_op("tkbc::weighted_l1_backward", mutates_args=())
def scores_backward_operator(grad_scores: Tensor, a: Tensor, w: Tensor, entities: Tensor) -> Three:
    """Compute the gradients of a, w and entities."""
    check_vectors(a, w, entities)
    check_shape("grad_scores", grad_scores, (len(a), len(entities)))
    query, entities = ready(a, w), ready(entities)[0]
    grads = zeros(a, w, entities)
    with kernels(a.device, a.dtype) as score:
        add_gradients(score, query, entities, grad_scores.contiguous(), grads)
    return as_type(a.dtype, grads)


@torch.library.custom_op("tkbc::l1_cross_entropy", mutates_args=())
def loss_operator(a: Tensor, w: Tensor, entities: Tensor, labels: Tensor, chunk_size: int) -> Three:
    """Compute the losses, (b,), their log-sum-exp, (b,), and the scores where all were scored at once (else (0, 0))."""
    check_vectors(a, w, entities)
    check_labels(labels, a, entities, chunk_size)
    if a.device.type == "cpu":
        check_label_values(labels, len(entities))
    query, entities = ready(a, w), ready(entities)[0]
    b, n_entities = len(a), len(entities)
    log_sum_exp = entities.new_full((b,), -torch.inf, dtype=result_type(a))
    label_score = torch.full_like(log_sum_exp, torch.nan)  # where no chunk holds the label
    buffer = log_sum_exp.new_empty((b, min(chunk_size, n_entities)))
    with kernels(a.device, a.dtype) as score:
        for start, chunk in chunks(entities, chunk_size):
            scores = scores_into(score, query, chunk, view(buffer, b, len(chunk)))
            collect_label_scores(scores, labels, start, label_score)
            torch.logaddexp(log_sum_exp, log_sum_exp_of(score, scores), out=log_sum_exp)
    return log_sum_exp - label_score, log_sum_exp, buffer if chunk_size >= n_entities else buffer.new_empty((0, 0))


@torch.library.custom_op("tkbc::l1_cross_entropy_backward", mutates_args=())
def loss_backward_operator(
    grad_losses: Tensor,
    a: Tensor,
    w: Tensor,
    entities: Tensor,
    labels: Tensor,
    log_sum_exp: Tensor,
    kept: Tensor,
    chunk_size: int,
) -> Three:
    """Compute the gradients of a, w and entities: those of the scores are the losses' times (p_in − [n = label_i])."""
    check_vectors(a, w, entities)
    check_labels(labels, a, entities, chunk_size)
    for name, tensor in (("grad_losses", grad_losses), ("log_sum_exp", log_sum_exp)):
        check_shape(name, tensor, (len(a),))
    if chunk_size >= len(entities):
        check_shape("kept", kept, (len(a), len(entities)))
    query, entities = ready(a, w), ready(entities)[0]
    grads, b = zeros(a, w, entities), len(a)
    one_chunk = chunk_size >= len(entities)
    buffer = kept.clone() if one_chunk else log_sum_exp.new_empty((b, chunk_size))
    if b == 0:
        return as_type(a.dtype, grads)
    with kernels(a.device, a.dtype) as score:
        for start, chunk in chunks(entities, chunk_size):
            scores = view(buffer, b, len(chunk))
            if not one_chunk:
                scores_into(score, query, chunk, scores)
            score.exp_(scores, log_sum_exp)
            position, inside = positions_in(labels, start, len(chunk))
            scores.scatter_add_(1, position[:, None], inside.to(scores.dtype).neg_()[:, None])
            scores.mul_(grad_losses[:, None])
            of_chunk = grads[2][start : start + len(chunk)]
            add_gradients(score, query, chunk, scores, (grads[0], grads[1], of_chunk))
    return as_type(a.dtype, grads)


@scores_operator.register_fake
def _(a: Tensor, w: Tensor, entities: Tensor) -> Tensor:
    check_vectors(a, w, entities)
    return a.new_empty((a.shape[0], entities.shape[0]), dtype=result_type(a))


@scores_backward_operator.register_fake
def _(grad_scores: Tensor, a: Tensor, w: Tensor, entities: Tensor) -> Three:
    del grad_scores
    check_vectors(a, w, entities)
    return alike(a, w, entities)


@loss_operator.register_fake
def _(a: Tensor, w: Tensor, entities: Tensor, labels: Tensor, chunk_size: int) -> Three:
    check_vectors(a, w, entities)
    check_labels(labels, a, entities, chunk_size)
    b, n_entities = a.shape[0], entities.shape[0]
    losses = a.new_empty((b,), dtype=result_type(a))
    kept = losses.new_empty((b, n_entities) if chunk_size >= n_entities else (0, 0))
    return losses, torch.empty_like(losses), kept


@loss_backward_operator.register_fake
def _(
    grad_losses: Tensor,
    a: Tensor,
    w: Tensor,
    entities: Tensor,
    labels: Tensor,
    log_sum_exp: Tensor,
    kept: Tensor,
    chunk_size: int,
) -> Three:
    del grad_losses, labels, log_sum_exp, kept, chunk_size
    check_vectors(a, w, entities)
    return alike(a, w, entities)


def _keep_vectors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _scores_backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
    grads = scores_backward_operator(grad_scores, *ctx.saved_tensors)
    return _where_needed(ctx, grads)


def _keep_for_loss(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    *tensors, ctx.chunk_size = inputs
    _, log_sum_exp, kept = output
    ctx.mark_non_differentiable(log_sum_exp, kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, log_sum_exp, kept)


def _loss_backward(ctx: Any, grad_losses: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_losses is None:
        return None, None, None, None, None
    grads = loss_backward_operator(grad_losses, *ctx.saved_tensors, ctx.chunk_size)
    return *_where_needed(ctx, grads), None, None


scores_operator.register_autograd(_scores_backward, setup_context=_keep_vectors)
loss_operator.register_autograd(_loss_backward, setup_context=_keep_for_loss)
for _operator in (scores_operator, loss_operator):
    for _device in ("cpu", "cuda"):
        _operator.register_autocast(_device, torch.float32)


def _where_needed(ctx: Any, grads: Three) -> tuple[Tensor | None, ...]:
    return tuple(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad[:3], strict=True))
