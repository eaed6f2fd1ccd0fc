"""What can go wrong, as the built-in exceptions that file systems raise.

Every one is an ``OSError``. Owns the table from the agent's kinds of problem to exceptions. ``advice`` says what
can be done about it, where the agent knows.
"""

from __future__ import annotations

import errno
from typing import Any, Dict, Optional, Tuple, Type


class EmberlineError(OSError):
    """The agent cannot do what was asked."""

    advice: Optional[str] = None
    retry_after_seconds: Optional[float] = None

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} ({self.advice})" if self.advice else text


class NotFound(EmberlineError, FileNotFoundError):
    """There is no such file, or nothing is mounted there."""


class Denied(EmberlineError, PermissionError):
    """The agent wants a token, or its origin lets it in nowhere."""


class Invalid(EmberlineError, ValueError):
    """The path, or what is asked of it, can be nothing."""


class IsADirectory(EmberlineError, IsADirectoryError):
    """A file was wanted."""


class Unavailable(EmberlineError):
    """Neither the origin nor another node answers now."""


class Unreachable(Unavailable, ConnectionError):
    """No agent answers."""


class TimedOut(EmberlineError, TimeoutError):
    """It did not come in time."""


class Corrupt(EmberlineError):
    """The bytes are not what their origin promises."""


class Changed(Corrupt):
    """The file is not the version that was opened: open it again."""


class Full(EmberlineError):
    """There is no room on the agent's disk."""


class Cancelled(EmberlineError):
    """The agent is stopping."""


class ReadOnly(EmberlineError):
    """Nothing is written through Emberline."""


_KINDS: Dict[str, Tuple[Type[EmberlineError], int]] = {
    "not_found": (NotFound, errno.ENOENT),
    "denied": (Denied, errno.EACCES),
    "invalid": (Invalid, errno.EINVAL),
    "unavailable": (Unavailable, errno.EAGAIN),
    "timeout": (TimedOut, errno.ETIMEDOUT),
    "corrupt": (Corrupt, errno.EIO),
    "full": (Full, errno.ENOSPC),
    "cancelled": (Cancelled, errno.ECANCELED),
}


def of_problem(status: int, problem: Any, path: str) -> EmberlineError:
    """The exception of an answer that is none: its status, and its body if that is the agent's JSON."""
    if not isinstance(problem, dict):
        problem = {"message": f"the agent answered with status {status}"}
    message = str(problem.get("message", f"status {status}"))
    if status == 412:
        return made(Changed, errno.ESTALE, message, path, problem.get("advice"))
    # A kind that only a newer agent knows is something that may pass.
    kind, number = _KINDS.get(str(problem.get("kind")), (Unavailable, errno.EAGAIN))
    error = made(kind, number, message, path, problem.get("advice"))
    after = problem.get("retry_after_seconds")
    error.retry_after_seconds = float(after) if isinstance(after, (int, float)) else None
    return error


def made(
    kind: Type[EmberlineError], number: int, message: str, path: str, advice: Optional[str] = None
) -> EmberlineError:
    """An exception with what ``OSError`` wants to know."""
    error = kind(number, message, path)
    error.advice = advice
    return error


def read_only(path: str) -> EmberlineError:
    """The answer to everything that would write."""
    return made(ReadOnly, errno.EROFS, "Emberline is read-only", path, "write to the origin itself")
