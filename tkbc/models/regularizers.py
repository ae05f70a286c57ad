# Its bytes are told by memplan/memory/programs/regularizers.py.
"""Regularizers as sums with their gradients: N3 on a batch's factors, smoothness on consecutive timestamps."""

from __future__ import annotations

import torch
from torch import Tensor


def n3(factor: Tensor, weight: float, *, is_complex: bool) -> tuple[Tensor, Tensor]:
    """Return weight · Σ |f|³ and its gradient 3 · weight · |f| · f (Lacroix et al., ICML 2018, arXiv 1806.07297).

    A sum over the micro-batch, not a mean: the step divides by the examples of the batch. ``|f|`` is the modulus where
    ``is_complex`` (rows hold real parts, then imaginary parts), else the absolute value. Written without the derivative
    of a square root, so it is finite at 0.

    Shapes:
        factor: (b, width); returns a scalar and (b, width).
    """
    modulus = _modulus(factor) if is_complex else factor.abs()
    gradient = torch.zeros_like(factor)
    for part, to in zip(_parts(factor, is_complex), _parts(gradient, is_complex), strict=True):
        to.addcmul_(modulus, part, value=3 * weight)
    # |f|³ = f · (|f| f): a dot product of what is there, where a 3-norm would take a power of every element.
    value = torch.dot(gradient.view(-1), factor.view(-1)).div_(3)
    return value, gradient


def smoothness(times: Tensor, grad_times: Tensor, weight: float, *, is_complex: bool) -> Tensor:
    """Return the time regularizer over consecutive rows of ``times`` and add its gradient to ``grad_times``.

    With D_l = τ_{l+1} − τ_l over the n rows given: ``is_complex`` gives Lambda3, weight · Σ |D_l|³ / (n − 1) with
    moduli (Lacroix et al., ICLR 2020, arXiv 2004.04926); otherwise weight · Σ D_l² / (n − 1). 0 for a single row.

    Shapes:
        times, grad_times: (n, width). To keep "no time" out of it, pass the tables without their last row.
    """
    n = len(times)
    if n < 2:
        return times.new_zeros(())
    difference = times[1:] - times[:-1]
    scale = weight / (n - 1)
    if is_complex:
        value, gradient = n3(difference, scale, is_complex=True)
    else:
        # A dot product: on CUDA a sum of all would take scratch by size and number of multiprocessors.
        flat = difference.view(-1)
        value = torch.dot(flat, flat).mul_(scale)
        gradient = difference.mul_(2 * scale)
    grad_times[1:].add_(gradient)
    grad_times[:-1].sub_(gradient)
    return value


def _parts(tensor: Tensor, is_complex: bool) -> tuple[Tensor, ...]:
    half = tensor.shape[1] // 2
    return (tensor[:, :half], tensor[:, half:]) if is_complex else (tensor,)


def _modulus(factor: Tensor) -> Tensor:
    real, imaginary = _parts(factor, is_complex=True)
    return torch.hypot(real, imaginary)
