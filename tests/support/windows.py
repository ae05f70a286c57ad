"""The command line as Windows would have it: ``python -m tests.support.windows '[["plan"], ["train"]]'``.

What Windows has not is not there (modules, functions, signals), and what it refuses is refused: to open a folder, to
sync what was not opened for writing, to rename onto a file, and to rename or remove what is open or mapped, or holds
something that is. Other packages are imported before: here they are those made for this system.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OTHERS = ("filelock", "httpx", "numba", "platformdirs", "psutil", "safetensors.torch", "torch", "typer")
MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    "chown", "fchmod", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpriority",
    "getresuid", "getsid", "getuid", "initgroups", "killpg", "lchown", "mkfifo", "mknod", "nice", "openpty",
    "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity",
    "sched_setaffinity", "sched_yield", "sendfile", "setsid", "statvfs", "sync", "sysconf", "ttyname", "uname", "wait3",
    "wait4", "O_DIRECTORY", "O_DSYNC", "O_SYNC",
)  # fmt: skip
SIGNALS = (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1",
    "SIGUSR2", "alarm", "pthread_kill", "pthread_sigmask", "setitimer", "siginterrupt", "sigwait",
)  # fmt: skip


def hide_what_windows_has_not() -> None:
    """Take modules, functions and signals away."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            delattr(module, name)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def refuse_what_windows_refuses() -> None:
    """Put guards before the functions that are stricter there."""
    import fcntl

    flags_of = lambda descriptor: fcntl.fcntl(descriptor, fcntl.F_GETFL)  # noqa: E731
    opened, synced = os.open, os.fsync

    def open_(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE != os.O_TMPFILE and "dir_fd" not in named and Path(os.fsdecode(path)).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return opened(path, flags, *arguments, **named)

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if flags_of(number) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced(descriptor)

    os.open, os.fsync = open_, fsync
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, _guarded(getattr(os, name), onto_existing=name != "rename"))


def _guarded(function: Callable[..., Any], *, onto_existing: bool) -> Callable[..., Any]:
    def guarded(path: Any, *others: Any, **named: Any) -> Any:
        for name in (path, *others):
            if Path(os.fsdecode(name)).name.startswith(".filelock-"):
                continue  # filelock's own, and this system's
            busy = _in_use(Path(os.fsdecode(name)).absolute())
            if busy is not None:
                raise PermissionError(errno.EACCES, f"in use by this very process ({busy})", os.fspath(name))
        if not onto_existing and Path(os.fsdecode(others[0])).exists():
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", others[0])
        return function(path, *others, **named)

    return guarded


def _in_use(path: Path) -> Path | None:
    """Return a file that is open or mapped and is ``path`` or below it."""
    links = Path("/proc/self/fd").iterdir()
    used = [str(link.readlink()) for link in links if link.is_symlink()]
    used += [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    return next((Path(name) for name in used if name.startswith("/") and Path(name).is_relative_to(path)), None)


def main() -> None:
    """Run the commands of the first argument one after the other, as far as they go well."""
    for name in OTHERS:
        importlib.import_module(name)
    refuse_what_windows_refuses()
    hide_what_windows_has_not()
    from memplan.app.cli import app

    for command in json.loads(sys.argv[1]):
        status = app(command, standalone_mode=False, prog_name="memplan")
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
