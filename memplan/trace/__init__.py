"""The ledger of any PyTorch training step, written while the step runs on tensors without numbers.

``memplan.trace.trace(make_step)`` returns a ``Trace``, ``memplan.trace.assert_fits(make_step, "8GiB")`` is for tests.
This package imports torch; ``import memplan`` does not import this package.
"""

from memplan.trace.result import Trace
from memplan.trace.tracing import assert_fits, trace

__all__ = ["Trace", "assert_fits", "trace"]
