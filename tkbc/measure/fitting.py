"""From measured steps to the seconds of each kind of work: least squares of relative errors, none negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memplan.search.work import Work

Floats = NDArray[np.float64]
SWEEPS = 2000
FOLDS = 5
WEIGHTINGS = 9
SMALL_ERROR = 0.03


def fitted(
    work: Sequence[Work], seconds: Sequence[float], prior: Mapping[str, float], trust: float
) -> dict[str, float]:
    """Return the seconds x of each kind of work k that make this least, none of them negative.

    Σ_i (Σ_k c_ik x_k / t_i − 1)² + trust · Σ_k (x_k / (s p_k) − 1)²

    c_ik: units of kind k in step i, which took t_i ``seconds``; p_k: the ``prior``, whose kinds are those fitted; s:
    how many times longer than by the prior the median step took. What the steps hardly tell stays near s p_k.
    """
    kinds = list(prior)
    start = np.array([prior[kind] for kind in kinds])
    shares = np.array([[step.get(kind, 0.0) for kind in kinds] for step in work]) * start / np.array(seconds)[:, None]
    times = 1 / float(np.median(shares.sum(1)))
    factors = times * _nonnegative(times * shares, np.ones(len(seconds)), trust, np.ones(len(kinds)))
    return dict(zip(kinds, (start * factors).tolist(), strict=True))


def robustly_fitted(work: Sequence[Work], seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each kind of work without a prior; steps that do not go with the rest count less.

    Least squares again and again, each step weighted by one over its last relative error (at least ``SMALL_ERROR``).
    """
    kinds = sorted({kind for step in work for kind in step})
    counts = np.array([[step.get(kind, 0.0) for kind in kinds] for step in work]) / np.array(seconds)[:, None]
    scale = np.sqrt((counts**2).sum(0))
    shares = counts / np.where(scale > 0, scale, 1)
    weights = np.ones(len(seconds))
    x = np.zeros(len(kinds))
    for _ in range(WEIGHTINGS):
        roots = np.sqrt(weights)
        x = _nonnegative(shares * roots[:, None], roots, 0.0, x)
        weights = 1 / np.maximum(np.abs(shares @ x - 1), SMALL_ERROR)
    return dict(zip(kinds, (x / np.where(scale > 0, scale, 1)).tolist(), strict=True))


def error_on_others(work: Sequence[Work], seconds: Sequence[float], prior: Mapping[str, float], trust: float) -> float:
    """Return the relative error that nine of ten steps stay within where the fit is made to the others."""
    errors: list[float] = []
    for fold in range(FOLDS):
        inside = [i for i in range(len(seconds)) if i % FOLDS != fold]
        rates = fitted([work[i] for i in inside], [seconds[i] for i in inside], prior, trust)
        for i in range(fold, len(seconds), FOLDS):
            predicted = sum(count * rates.get(kind, 0.0) for kind, count in work[i].items())
            errors.append(abs(predicted / seconds[i] - 1))
    return float(np.quantile(errors, 0.9))


def _nonnegative(matrix: Floats, target: Floats, trust: float, start: Floats) -> Floats:
    """Return the x ≥ 0 that makes ‖matrix · x − target‖² + trust · ‖x − 1‖² least, one x_k after the other."""
    normal = matrix.T @ matrix + trust * np.eye(matrix.shape[1])
    towards = matrix.T @ target + trust
    x = start.copy()
    for _ in range(SWEEPS):
        before = x.copy()
        for k in range(len(x)):
            if normal[k, k] > 0:
                x[k] = max(0.0, x[k] - (normal[k] @ x - towards[k]) / normal[k, k])
        if np.abs(x - before).max() < 1e-7:
            break
    return x
