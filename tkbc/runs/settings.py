"""What a run needs besides its plan."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator


class TrainSettings(BaseModel, frozen=True, extra="forbid"):
    """A run's settings besides its plan; nothing here changes memory."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max_epochs: Annotated[int, Field(ge=1, le=10**9)]
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """End after the step that spends this much time, all sittings together; None: never. Shapes no learning rate."""
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the epochs, the last ones, in which the learning rate falls linearly to 0."""
    init_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Standard deviation of the initial embeddings; None: the model's own."""
    valid_freq: Annotated[int, Field(ge=1, le=10**9)] = 5
    """Validate after every this many epochs, and after the last."""
    patience: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Stop after this many validations in a row without a better MRR; None: never."""
    checkpoint_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Write a checkpoint at least this often, besides one at every validation; 0: after every step."""
    strict_memory: bool = False
    """Stop where measured memory drifts from the plan."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""
    rank_test: bool = True
    """Rank the test split at the end; a search for settings must not."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="before")
    @classmethod
    def _without_what_moved(cls, values: object) -> object:
        """Leave out what older runs kept here and their plan does not: it changes memory, so it is the workload's."""
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if name != "deterministic"}
        return values

    def rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0: η · min(1, (S − step) / (cooldown · S)).

        S is the steps of all epochs, so the rate is η until the cooldown begins, and the last step's is above 0 (the
        constant rate with a cooldown of Hägele et al., NeurIPS 2024, arXiv 2405.18392).
        """
        total = self.max_epochs * steps_per_epoch
        left, falling = total - step, self.cooldown * total
        return self.learning_rate if left >= falling else self.learning_rate * left / falling
