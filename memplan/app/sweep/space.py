"""What a sweep searches over, as text: ``emb_reg=1e-3..1e-1``, ``unit_norm=true,false``, ``rank=100..300``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from memplan.app.request import find_model
from memplan.app.views.repeat import SWITCHES as SWITCH_FLAGS
from memplan.errors import UsageError, unknown_name
from memplan.workload import TRAITS, ModelName

NUMBERS = ("learning_rate", "cooldown", "init_scale", "emb_reg", "time_reg")
COUNTS = ("rank", "batch_size", "negatives")
SWITCHES = ("unit_norm", "no_time_emb", "n3_parts")
CHOICES = ("model", "score", "optimizer")
SEARCHABLE = (*NUMBERS, *COUNTS, *SWITCHES, *CHOICES)
LOG_RATIO = 10.0
"""A range whose ends differ by at least this factor is searched on a logarithmic scale."""

Value = float | int | bool | str


class Range(BaseModel, frozen=True, extra="forbid"):
    """Every number from ``low`` to ``high``, both included."""

    kind: Literal["range"] = "range"
    name: str
    low: float
    high: float
    is_whole: bool

    @property
    def is_log(self) -> bool:
        """Whether it is searched on a logarithmic scale."""
        return self.low > 0 and self.high / self.low >= LOG_RATIO

    def __str__(self) -> str:
        return f"{self.name}={self.low:g}..{self.high:g}"


class Choice(BaseModel, frozen=True, extra="forbid"):
    """A few values."""

    kind: Literal["choice"] = "choice"
    name: str
    values: tuple[bool | int | float | str, ...]

    def __str__(self) -> str:
        return f"{self.name}={','.join(as_typed(value) for value in self.values)}"


Dimension = Annotated[Range | Choice, Field(discriminator="kind")]


def default_space(model: ModelName, but: Collection[str] = ()) -> list[Dimension]:
    """Return what is searched where nothing is said: rate, regularizers and, for the PairRE family, unit norm.

    Settings named in ``but`` are left out.

    Raises:
        UsageError: nothing is left.
    """
    texts = ["learning_rate=0.02..0.5", "emb_reg=1e-3..1e-1"]
    if TRAITS[model].is_temporal:
        texts.append("time_reg=1e-3..1")
    if not TRAITS[model].is_complex:
        texts.append("unit_norm=true,false")
    left = [text for text in texts if text.partition("=")[0] not in but]
    if not left:
        raise UsageError("all that is searched by default is given; say what to search with --over")
    return parse_space(left)


def parse_space(texts: Iterable[str]) -> list[Dimension]:
    """Return the dimensions that ``texts`` describe: ``name=low..high`` or ``name=one,another``.

    Raises:
        UsageError: an unknown name, one named twice, or values that are none for it.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        name, sign, values = (part.strip() for part in text.partition("="))
        name = name.removeprefix("--").replace("-", "_")
        if not sign or not values:
            raise UsageError(f"--over {text!r}: write name=low..high or name=one,another, such as emb_reg=1e-3..1e-1")
        if name not in SEARCHABLE:
            raise unknown_name("setting to search over", name, SEARCHABLE)
        if name in found:
            raise UsageError(f"--over {text!r}: {name} is given twice")
        found[name] = _dimension(text, name, values)
    return list(found.values())


def _dimension(text: str, name: str, values: str) -> Dimension:
    low, dots, high = values.partition("..")
    if dots:
        if name not in NUMBERS + COUNTS:
            raise UsageError(f"--over {text!r}: {name} has no order; list its values, such as {name}=one,another")
        ends = (_value(text, name, low), _value(text, name, high))
        if not ends[0] < ends[1]:  # type: ignore[operator]
            raise UsageError(f"--over {text!r}: {low} is not below {high}")
        return Range(name=name, low=float(ends[0]), high=float(ends[1]), is_whole=name in COUNTS)
    chosen = tuple(_value(text, name, part) for part in values.split(","))
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--over {text!r}: a value is listed twice")
    return Choice(name=name, values=chosen)


def _value(text: str, name: str, part: str) -> Value:
    """Return one value as its setting's type; whether the workload can have it is for its validation to say."""
    part = part.strip()
    wrong = UsageError(f"--over {text!r}: {part!r} is no value for {name}")
    if name in SWITCHES:
        if part.lower() not in ("true", "false"):
            raise UsageError(f"{wrong}; write true or false")
        return part.lower() == "true"
    if name in CHOICES:
        if not part:
            raise wrong
        return find_model(part) if name == "model" else part
    try:
        value = int(part) if name in COUNTS else float(part)
    except ValueError:
        raise wrong from None
    if not (math.isfinite(value) and value >= 0):
        raise wrong
    return value


def combinations(space: Iterable[Dimension], at_most: int) -> Iterator[dict[str, Value]]:
    """Return every combination of a space's values, the first ``at_most``; none where a range has no end of them."""
    names: list[str] = []
    values: list[Sequence[Value]] = []
    for dimension in space:
        if isinstance(dimension, Choice):
            values.append(dimension.values)
        elif dimension.is_whole:
            values.append(range(int(dimension.low), int(dimension.high) + 1))
        else:
            return iter(())
        names.append(dimension.name)
    return (dict(zip(names, chosen, strict=True)) for chosen in islice(product(*values), at_most))


def flags(values: dict[str, Any]) -> str:
    """Return settings as ``memplan train`` takes them."""
    parts = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            on, off = SWITCH_FLAGS.get(name, (flag, f"--no-{flag[2:]}"))
            parts.append(on if value else off)
        else:
            parts.append(f"{flag} {shlex.quote(as_typed(value))}")
    return " ".join(parts)


def as_typed(value: Value) -> str:
    """Return a value as it is typed, with every digit that it has."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
