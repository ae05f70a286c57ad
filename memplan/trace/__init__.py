"""The ledger of any PyTorch training step, written while the step runs on tensors without numbers.

The package is the call: ``from memplan import trace; trace(make_step)`` returns a ``Trace``. For tests there is
``memplan.trace.assert_fits(make_step, "8GiB")``. It imports torch; ``import memplan`` does not import it.
"""

import sys
from types import ModuleType

from memplan.trace.result import Trace
from memplan.trace.tracing import assert_fits, trace

__all__ = ["Trace", "assert_fits", "trace"]


class _CallableModule(ModuleType):
    """A module that may be called as the function of its name.

    An attribute of ``memplan`` cannot be that function: importing the package puts the module in its place.
    """

    __call__ = staticmethod(trace)


sys.modules[__name__].__class__ = _CallableModule
