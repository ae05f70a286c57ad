"""The models that can be trained and what decides their tables and scores: each said in the model's own file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from memplan.catalog.recipes import Recipe

Score = Literal["dot", "l1", "l2"]
ModelName = str
"""A name in ``TRAITS``."""
HOME = "tkbc.models"
"""Where models are defined, a file each or a family a file. Its modules need no PyTorch to be imported."""


class ModelTraits(NamedTuple):
    """What decides a model's tables and scores."""

    is_complex: bool
    """The ComplEx family: rows of 2d floats, the dot score. Else the PairRE family: rows of d floats, any score."""
    is_static: bool
    """Relations have a part that does not change with time."""
    is_temporal: bool
    """Relations have a part that is multiplied by the timestamp's row."""
    is_continuous: bool = False
    """The score has the timestamp itself in it, as a number."""

    @property
    def knows_time(self) -> bool:
        """Whether a fact's score depends on when."""
        return self.is_temporal or self.is_continuous

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores that the model can be trained with, its own first."""
        return ("dot",) if self.is_complex else ("l1", "l2", "dot")


def _models() -> Mapping[ModelName, Any]:
    """Return the classes of the models, by name."""
    found: Mapping[ModelName, Any] = importlib.import_module(HOME).MODELS
    return found


def recipes_of(model: ModelName) -> tuple[Recipe, ...]:
    """Return the recipes that a model's file has, in its order."""
    found: tuple[Recipe, ...] = _models()[model].recipes
    return found


class _Registered(Mapping[ModelName, ModelTraits]):
    """The traits of every model, by name, read from the models' files when somebody asks."""

    @cached_property
    def _traits(self) -> dict[ModelName, ModelTraits]:
        return {name: model.traits for name, model in _models().items()}

    def __getitem__(self, name: ModelName) -> ModelTraits:
        return self._traits[name]

    def __iter__(self) -> Iterator[ModelName]:
        return iter(self._traits)

    def __len__(self) -> int:
        return len(self._traits)


TRAITS: Mapping[ModelName, ModelTraits] = _Registered()
"""The traits of every model that a file in ``tkbc/models`` defines."""
