"""What each kind of evidence is worth beside a model's scores: 14 weights and a scale, as a run's folder keeps them.

With s_t a candidate's score and x_t its evidence (``rules.Evidence``), candidates are ranked by s_t + θ · x_t / α.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from memplan.errors import MemplanError, reason_of
from tkbc.data.ids import Ids
from tkbc.ranking.rules import N_FEATURES, Integers, Rules

RULES_FILE = "rules.json"
"""The fitted weights in a run's folder."""


class RuleWeights(BaseModel, frozen=True, extra="forbid"):
    """The fitted weights, as rules.json holds them."""

    scale: float
    """α."""
    weights: Annotated[tuple[float, ...], Field(min_length=N_FEATURES, max_length=N_FEATURES)]
    """θ, in the order of ``Evidence.features``."""
    n_queries: int
    """The validation queries that they were fitted to."""
    loss: float
    """Mean of −log p of the right answer."""
    loss_alone: float
    """The same without rules, of the α that is best for that."""


def read_weights(run: Path) -> RuleWeights | None:
    """Return the weights in a run's folder; None where the run has none.

    Raises:
        MemplanError: rules.json is damaged.
    """
    path = run / RULES_FILE
    try:
        return RuleWeights.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = " ".join(reason_of(error).split())
        way_out = f"remove it, then memplan evaluate {run} --rules weighs the rules anew"
        raise MemplanError(f"{path}: cannot be read: {reason}; {way_out}") from None


@dataclass(frozen=True)
class FittedRules:
    """A graph's rules with weights."""

    rules: Rules
    weights: RuleWeights

    def said(self, queries: Ids) -> tuple[Integers, Integers, npt.NDArray[np.float32]]:
        """Return the candidates of ``queries``, (b, 4), that have evidence, as rows and tails, with θ · x / α."""
        theta = np.array(self.weights.weights) / self.weights.scale
        parts = [
            (row, tail, (features @ theta).astype(np.float32)) for row, tail, features in self.rules.pieces(queries)
        ]
        row, tail, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        return row, tail, values
