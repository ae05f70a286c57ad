from __future__ import annotations
import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
import torch
from memplan.ledger import Ledger
from memplan.trace.known import Known
from memplan.trace.names import Names
from memplan.trace.operators import Inside
from memplan.trace.recorder import Recorder, TracedTensors
from memplan.trace.surface import Surface, moving_in_place

STEPS = 3

def record(make_step: Callable[[], Callable[[], Any]], device_type: str = "cpu", user_file: str | None = None) -> Ledger:
    ledger = Ledger("cuda" if device_type == "cuda" else "cpu")
    names = Names(user_file)
    mode = TracedTensors(allow_non_fake_inputs=True)
    recorder = Recorder(ledger, names, Inside(), Known(mode), device_type)
    names.on_gradients = recorder.claim
    with mode, names, recorder, moving_in_place(), Surface(names, device_type, device_type):
        step = make_step()
        recorder.claim()
        for _ in range(STEPS):
            names.next_step()
            step()
            recorder.claim()
    return ledger
