from __future__ import annotations

from memplan.memory.ledger import Ledger


def test_peak_phases_and_survivors_of_a_hand_worked_run() -> None:
    ledger = Ledger()
    with ledger.phase("setup"):
        ledger.free(ledger.new("draft", 10))  # 40 B, gone before the peak
        ledger.new("table", 10, 5)  # 200 B
    with ledger.phase("step"):
        first = ledger.new("first", 25)  # 100 B: 300 live
        ids = ledger.new("ids", 10, dtype="int64")  # 80 B: 380 live
        second = ledger.new("second", 30)  # 120 B: 500 live, the peak
        ledger.free(ids, first)  # 320 live
        ledger.free(ledger.new("mask", 100, dtype="bool"))  # 420 live
    ledger.free(second)
    with ledger.phase("after"):
        pass
    assert ledger.peak_bytes == 500
    assert ledger.phase_peaks == {"setup": 200, "step": 500, "after": 200}
    assert [(a.name, a.n_bytes) for a in ledger.alive_at_peak()] == [
        ("table", 200),
        ("second", 120),
        ("first", 100),
        ("ids", 80),
    ]
