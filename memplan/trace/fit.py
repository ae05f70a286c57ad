"""The largest size that fits, from few traces.

A step that is the same but for one size asks for the same tensors in the same order, and each one's bytes are a
polynomial of the size, of degree two at most in practice (attention). So traces at three sizes give the ledger at any
size in between and beyond, to be replayed by the allocator; as long as the order does not change, which is checked by
tracing the answer and its neighbour. Where they differ, their traces take the place of the farthest, and again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from memplan.device.target import Target
from memplan.errors import DoesNotFitError, UsageError
from memplan.memory.ledger import Allocation, Ledger
from memplan.trace.loading import MakeStep
from memplan.trace.result import Fit, Trace
from memplan.trace.tracing import Recorded, peak_of, record, result_of
from memplan.units import format_bytes

RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)\.\.(\d+)")
MOST_TRACES = 40
FIRST_SIZES = (2, 3, 5)
"""Times the lowest: small, so that the first traces are quick. A dimension of 1 alone would be treated otherwise."""


class Range(NamedTuple):
    """A size and its bounds, both included."""

    name: str
    lowest: int
    highest: int

    @classmethod
    def parse(cls, text: str) -> Range:
        """Return the range in text such as ``batch_size=1..4096``.

        Raises:
            UsageError: it is none.
        """
        match = RANGE.fullmatch(text.replace(" ", ""))
        if match is None or not 1 <= int(match[2]) <= int(match[3]):
            raise UsageError(f"--fit {text}: write a size and its bounds, such as batch_size=1..4096")
        return cls(match[1], int(match[2]), int(match[3]))


def fit(
    make_step: MakeStep,
    bounds: Range,
    sizes: dict[str, int],
    target: Target,
    alloc_conf: str | None = None,
    effective: int | None = None,
) -> tuple[Fit, Recorded]:
    """Return the largest size within ``bounds`` whose step fits the target's budget.

    ``effective``: the size to keep over a step's accumulated micro-batches; the answer is then the largest share of it
    that fits, in as few micro-batches as that allows, which is the fastest way.

    Raises:
        DoesNotFitError: not even the smallest fits.
        MemplanError: the step cannot be traced.
    """
    search = _Search(make_step, bounds, sizes, target, alloc_conf)
    highest = bounds.highest if effective is None else min(bounds.highest, effective)
    value = search.largest(bounds.lowest, highest)
    steps = None
    if effective is not None:
        steps = -(-effective // value)
        value = max(bounds.lowest, -(-effective // steps))  # equal shares take less than full ones and a short one
    found = search.trace(value)
    after = None if value == highest and effective is None else search.device_bytes(value + 1)
    answer = Fit(
        name=bounds.name,
        value=value,
        lowest=bounds.lowest,
        highest=bounds.highest,
        device_bytes=found.peak.device_bytes,
        next_device_bytes=after,
        traces=len(search.recorded),
        effective=effective,
        accumulation_steps=steps,
        trace=found,
    )
    return answer, search.recorded[value]


class _Search:
    def __init__(
        self, make_step: MakeStep, bounds: Range, sizes: dict[str, int], target: Target, alloc_conf: str | None
    ) -> None:
        self.make_step, self.bounds, self.sizes = make_step, bounds, sizes
        self.target, self.alloc_conf = target, alloc_conf
        self.recorded: dict[int, Recorded] = {}

    def largest(self, lowest: int, highest: int) -> int:
        """Return the largest size that fits, by traces of it and of the next one."""
        if not self.fits(lowest):
            raise DoesNotFitError(
                f"--fit {self.bounds.name}: even {lowest} takes {format_bytes(self.device_bytes(lowest))} of "
                f"{format_bytes(self.target.budget_bytes)} ({self.target.budget_source})"
            )
        fits, fails = lowest, highest + 1
        for size in FIRST_SIZES:
            if fits < lowest * size < fails:
                if self.fits(lowest * size):
                    fits = lowest * size
                else:
                    fails = lowest * size
        while fails - fits > 1:
            if len(self.recorded) >= MOST_TRACES:
                break
            guess = self._guess(fits, fails)
            for size in (guess, guess + 1):  # the answer, and its neighbour that must not fit
                if fits < size < fails:
                    if self.fits(size):
                        fits = size
                    else:
                        fails = size
        return fits

    def _guess(self, fits: int, fails: int) -> int:
        """Return the largest size between the bounds that fits by the ledgers' polynomials; else one in the middle."""
        ledger_at = polynomial_ledger({size: r.ledger for size, r in self.recorded.items()})
        low, high = fits, fails
        if ledger_at is None:
            return (low + high) // 2
        while high - low > 1:
            middle = (low + high) // 2
            if self._bytes_of(ledger_at(middle)) <= self.target.budget_bytes:
                low = middle
            else:
                high = middle
        return min(max(low, fits + 1), fails - 1)

    def fits(self, size: int) -> bool:
        return self.device_bytes(size) <= self.target.budget_bytes

    def device_bytes(self, size: int) -> int:
        return self._bytes_of(self._record(size).ledger)

    def trace(self, size: int) -> Trace:
        sizes = {**self.sizes, self.bounds.name: size}
        return result_of(self.make_step, sizes, self.target, self.alloc_conf, self._record(size))

    def _record(self, size: int) -> Recorded:
        if size not in self.recorded:
            self.recorded[size] = record(self.make_step, {**self.sizes, self.bounds.name: size}, self.target)
        return self.recorded[size]

    def _bytes_of(self, ledger: Ledger) -> int:
        return peak_of(ledger, self.target, self.alloc_conf).device_bytes


def polynomial_ledger(ledgers: dict[int, Ledger]) -> Callable[[int], Ledger] | None:
    """Return the ledger as a function of the size, by the three largest sizes that tell the same events.

    Each allocation's bytes are the polynomial through its bytes at the three sizes. None where fewer are alike.
    """
    order: dict[tuple[tuple[str, bool], ...], list[int]] = {}
    for size, ledger in ledgers.items():
        order.setdefault(_order_of(ledger), []).append(size)
    groups = sorted(order.values(), key=lambda sizes: (len(sizes), max(sizes)))
    alike = sorted(groups[-1])[-3:]
    if len(alike) < 3:
        return None
    births = [_births(ledgers[size]) for size in alike]
    events = ledgers[alike[0]].events
    number = {allocation: i for i, allocation in enumerate(births[0])}

    def at(size: int) -> Ledger:
        weights = _lagrange(alike, size)
        found = Ledger(ledgers[alike[0]].device)
        made: list[Allocation] = []
        for allocation, is_birth in events:
            if allocation is None:
                found.release_cache()
            elif is_birth:
                some = [of_size[len(made)].n_bytes for of_size in births]
                n_bytes = max(0, round(sum(w * b for w, b in zip(weights, some, strict=True))))
                a = allocation
                made.append(found.born(Allocation(a.name, a.shape, a.dtype, n_bytes, a.kind, a.phase)))
            else:
                found.free(made[number[allocation]])
        return found

    return at


def _births(ledger: Ledger) -> list[Allocation]:
    return [allocation for allocation, is_birth in ledger.events if allocation is not None and is_birth]


def _order_of(ledger: Ledger) -> tuple[tuple[str, bool], ...]:
    return tuple(("" if allocation is None else allocation.name, is_birth) for allocation, is_birth in ledger.events)


def _lagrange(at: list[int], size: int) -> list[Fraction]:
    """Return the weight of the value at each size in the polynomial's value at ``size``."""
    weights = []
    for i, own in enumerate(at):
        weight = Fraction(1)
        for j, other in enumerate(at):
            if j != i:
                weight *= Fraction(size - other, own - other)
        weights.append(weight)
    return weights
