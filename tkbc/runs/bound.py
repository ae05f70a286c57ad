"""The end of a run whose minutes are spent: what to say of it."""

from __future__ import annotations

import math

from tkbc.runs.state import RunState


def time_is_spent(state: RunState, resume: str) -> str:
    """Return where a run stands that its minutes ended, what that means for its result, and how to go on.

    ``resume``: the command that goes on with it.
    """
    settings, steps_per_epoch = state.settings, state.plan.workload.steps_per_epoch
    minutes, all_steps = settings.minutes or 0.0, settings.max_epochs * steps_per_epoch
    falling = ""
    if settings.cooldown > 0:
        has_begun = state.steps > (1 - settings.cooldown) * all_steps
        falling = ", while the learning rate was falling" if has_begun else ", before the learning rate began to fall"
    # As many epochs as went into the minutes, validations included; the last step may have gone beyond them.
    whole = math.floor(state.steps / steps_per_epoch * min(1.0, 60 * minutes / state.spent_seconds))
    within = f"; a training that is whole within {minutes:g} minutes: --max-epochs {whole}" if whole else ""
    done = state.steps / steps_per_epoch
    return (
        f"{minutes:g} minutes are spent, after {done:.3g} of {settings.max_epochs} epochs{falling}: the tables are "
        f"ranked as they are. Go on with {resume} --minutes {2 * minutes:g}{within}"
    )
