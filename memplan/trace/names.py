"""What a tensor is called, what it is for and which line of the user's file made it.

Modules and optimizers announce themselves through PyTorch's own hooks while ``Names`` is entered. An autograd node has
the sequence number that its forward operator took; so a backward operator knows its forward's module and line.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from memplan.memory.ledger import Allocation, Kind

SKIPPED_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
"""A line under these is no line that a user would look at; code made from text has no file."""


class Place(NamedTuple):
    """Where an operator was called: the module whose forward ran, and a line of Python."""

    module: str
    line: str


class Names:
    """Names for what a trace records. ``user_file``: the file whose lines are told before any library's."""

    def __init__(self, user_file: str | None = None) -> None:
        self.user_file = user_file
        self.operator: Any = None
        """The operator that is running."""
        self.step = 0
        """The step that is running; 0 while model, optimizer and inputs are built."""
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.on_gradients: Callable[[], None] = lambda: None
        """Called when an optimizer is about to use the gradients, which have their last owner by then."""
        self._modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._paths: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._running: list[nn.Module] = []
        self._in_optimizer = 0
        self._places: dict[int, Place] = {}
        """By the sequence number of the autograd node that the operator made."""
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        handles = (
            module_hooks.register_module_module_registration_hook(self._on_registration),
            module_hooks.register_module_parameter_registration_hook(self._on_registration),
            module_hooks.register_module_forward_pre_hook(self._on_forward),
            module_hooks.register_module_forward_hook(self._on_forward_done, always_call=True),
            register_optimizer_step_pre_hook(self._on_optimizer),
            register_optimizer_step_post_hook(self._on_optimizer_done),
        )
        for handle in handles:
            self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @property
    def phase(self) -> str:
        """What is going on: setup, forward, backward or optimizer."""
        if self.step == 0:
            return "setup"
        if torch._C._current_graph_task_id() != -1:
            return "backward"
        return "optimizer" if self._in_optimizer else "forward"

    @property
    def kind(self) -> Kind:
        """What a tensor born now is for, as long as no owner claims it."""
        return "data" if self.step == 0 else "temporaries"

    def next_step(self) -> None:
        """Begin the next step: an error may have left modules or an optimizer unfinished."""
        self.step += 1
        self._running.clear()
        self._in_optimizer = 0

    def place(self) -> Place:
        """Return where the running operator belongs; a backward operator belongs where its forward was called."""
        if torch._C._current_graph_task_id() != -1:
            node = torch._C._current_autograd_node()
            found = None if node is None else self._places.get(node._sequence_nr())
            return found or Place("", self.line())
        place = Place(self._path(self._running[-1]) if self._running else "", self.line())
        if torch.is_grad_enabled():
            self._places.setdefault(torch._C._autograd._get_sequence_nr() - 1, place)
        return place

    def describe(self, place: Place) -> str:
        """Return the name of what the running operator makes: its module's path and its own name."""
        operator = short_name(self.operator)
        return f"{place.module}: {operator}" if place.module else operator

    def line(self) -> str:
        """Return ``file:line`` of the innermost call in the user's file; else of the innermost outside PyTorch."""
        outside = ""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name == self.user_file:
                return f"{Path(name).name}:{frame.f_lineno}"
            if not outside and not name.startswith(SKIPPED_FOLDERS):
                outside = f"{name}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return outside

    def owned(self) -> Iterator[tuple[Tensor, str, Kind]]:
        """Yield every tensor that a module or an optimizer owns, with its name and kind; gradients included."""
        name_of: dict[int, str] = {}
        for path, module in self._all_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in name_of:
                    name_of[id(parameter)] = _join(path, name)
                    yield from _with_gradient(parameter, _join(path, name))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    yield buffer, _join(path, name), "parameters"
        for optimizer in list(self.optimizers):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, parameter in enumerate(parameters):
                if id(parameter) not in name_of:
                    name_of[id(parameter)] = f"parameter {number} of {type(optimizer).__name__}"
                    yield from _with_gradient(parameter, name_of[id(parameter)])
                state = optimizer.state.get(parameter)
                for key, value in state.items() if isinstance(state, dict) else ():
                    if isinstance(value, Tensor):
                        yield value, f"{key} of {name_of[id(parameter)]}", "optimizer"

    def _all_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every module once with its path; paths begin with a class name where there are several models."""
        seen = sorted(self._modules, key=id)
        parts = {id(part) for module in seen for part in module.modules() if part is not module}
        roots = [module for module in seen if id(module) not in parts]
        done: set[int] = set()
        for root in roots:
            prefix = type(root).__name__ if len(roots) > 1 else ""
            for path, module in root.named_modules(prefix=prefix):
                if id(module) not in done:
                    done.add(id(module))
                    self._paths[module] = path
                    yield path, module

    def _path(self, module: nn.Module) -> str:
        path = self._paths.get(module)
        if path is None:
            for _ in self._all_modules():
                pass
            path = self._paths.setdefault(module, "")
        return path or type(module).__name__

    def _on_registration(self, module: nn.Module, _name: str, _part: object) -> None:
        self._modules.add(module)

    def _on_forward(self, module: nn.Module, _inputs: object) -> None:
        self._modules.add(module)
        self._running.append(module)

    def _on_forward_done(self, module: nn.Module, _inputs: object, _output: object) -> None:
        if self._running and self._running[-1] is module:
            self._running.pop()

    def _on_optimizer(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        self.optimizers.add(optimizer)
        self.on_gradients()
        self._in_optimizer += 1

    def _on_optimizer_done(self, _optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        self._in_optimizer -= 1


class TracedAllocation(Allocation):
    """An allocation that knows the line which made it."""

    __slots__ = ("line",)

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: Any, n_bytes: int, kind: Kind, phase: str, line: str = ""
    ) -> None:
        super().__init__(name, shape, dtype, n_bytes, kind, phase)
        self.line = line


def short_name(operator: Any) -> str:
    """Return an operator's name without namespace and overload: ``aten.addmm.default`` gives ``addmm``."""
    return str(operator).split(".")[1] if "." in str(operator) else str(operator)


def _with_gradient(parameter: Tensor, name: str) -> Iterator[tuple[Tensor, str, Kind]]:
    yield parameter, name, "parameters"
    if parameter.grad is not None:
        yield parameter.grad, f"gradient of {name}", "gradients"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
