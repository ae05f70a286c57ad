"""The user's file: loaded, its function found, and its mistakes told in one line with the line that made them."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from memplan.errors import MemplanError, UsageError
from memplan.trace.names import SKIPPED_FOLDERS

FUNCTION = "make_step"
MakeStep = Callable[..., Callable[[], Any]]


def load(text: str) -> MakeStep:
    """Return the function that ``FILE.py[:name]`` names.

    Raises:
        UsageError: there is no such file or function.
        MemplanError: the file raises when it is imported.
    """
    name, _, function = text.partition(":") if ".py:" in text else (text, "", "")
    path = Path(name)
    function = function or FUNCTION
    if not path.is_file():
        raise UsageError(f"{name}: no such file; memplan trace FILE.py[:{FUNCTION}] reads a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{name}: no Python file; its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    with errors_told(str(path.resolve()), "import"):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(
            f"{name}: has no function {function}; write def {function}(**sizes) that builds model, optimizer and "
            "inputs and returns a function that takes one training step"
        )
    return found  # type: ignore[no-any-return]


@contextmanager
def errors_told(user_file: str | None, doing: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line; ``doing``: import, make_step or step.

    Raises:
        MemplanError: instead.
    """
    try:
        yield
    except MemplanError:
        raise
    except SyntaxError as error:
        raise MemplanError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any mistake of the user's code is told, never a traceback
        raise MemplanError(f"{_line_of(error, user_file)}: {_what(error)}{_hint(doing)}") from None


def _hint(doing: str) -> str:
    return "" if doing == "step" else f" (in {doing})"


def _line_of(error: BaseException, user_file: str | None) -> str:
    """Return ``file:line`` of the innermost frame in the user's file; else of the innermost outside PyTorch."""
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if frame.filename == user_file]
    outside = [frame for frame in frames if not frame.filename.startswith(SKIPPED_FOLDERS)]
    frame = (of_user or outside or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _what(error: BaseException) -> str:
    match error:
        case DynamicOutputShapeException() | DataDependentOutputException():
            return (
                f"{_operator(error)} depends on numbers that a trace does not have; keep it out of the step, or "
                "measure one with --real"
            )
        case UnsupportedOperatorException():
            return f"{_operator(error)} {_NO_FAKE}"
        case RuntimeError() if "no fake impl" in str(error):
            return f"{str(error).splitlines()[0].removesuffix('.')[:160]}: an operator {_NO_FAKE}"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


_NO_FAKE = "without a fake kernel: give it one with torch.library.register_fake, or measure a step with --real"


def _operator(error: BaseException) -> str:
    return str(getattr(error, "func", error)).removesuffix(".default")
