"""How the fused L1 kernel shares its work between threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tkbc.scoring.l1_numba import SCORES_A_THREAD, NumbaL1


def test_the_thread_that_calls_does_the_first_part() -> None:
    score, did = NumbaL1(3), {}

    def work(part: int, start: int, stop: int) -> None:
        did[part] = (start, stop, threading.current_thread() is threading.main_thread())

    score._run(work, 10, 3)
    assert did == {0: (0, 4, True), 1: (4, 8, False), 2: (8, 10, False)}


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_in_a_part_comes_out_when_all_are_done(wrong: int) -> None:
    """Tensors must not be freed under a thread that still writes to them."""
    score, done = NumbaL1(2), []

    def work(part: int, start: int, stop: int) -> None:
        if part == wrong:
            raise ValueError(f"part {part}")
        time.sleep(0.05)
        done.append((start, stop))

    with pytest.raises(ValueError, match=f"part {wrong}"):
        score._run(work, 4, 2)
    assert done == [(2, 4) if wrong == 0 else (0, 2)]


def test_few_scores_wake_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    score, parts = NumbaL1(4), []
    monkeypatch.setattr(score, "_run", lambda _work, _n, in_parts: parts.append(in_parts))
    for rows, columns in ((100, 100), (2, SCORES_A_THREAD), (3, SCORES_A_THREAD), (1, 3 * SCORES_A_THREAD)):
        score.softmax_(torch.zeros(rows, columns))
    assert parts == [1, 2, 3, 1]
