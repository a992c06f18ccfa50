"""Exceptions for errors that fedalign can explain; the command line prints each as one line."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

WIDEST = 1600  # characters of a message
MAX_NAMED = 5  # clients in a message
MAX_TEXT = 500  # characters of a foreign message
# Where Python and its packages are.
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class FedalignError(Exception):
    """A run failed for a reason that the message explains; exit code 1."""

    exit_code = 1


class InputError(FedalignError):
    """The user's input is wrong; the message names value, place and allowed values; exit code 2."""

    exit_code = 2

    def __init__(self, message: str):
        """Take the message, without its middle if it quotes something very long."""
        cut = f"{message[: WIDEST // 2]} … {message[-WIDEST // 2 :]}"
        super().__init__(message if len(message) <= WIDEST else cut)


class DeviceError(FedalignError):
    """The GPU failed while clients were served, and this process can no longer use it.

    Attributes:
        reason: the error in one line.
        nodes: of the clients, one of which caused it.
    """

    def __init__(self, error: BaseException, clients: Mapping[int, object]):
        """Take the error, and by node the partitions of the clients that were served."""
        self.reason = device_reason(error)
        self.nodes = list(clients)
        named = [str(partition) for partition in clients.values()]
        whose = f"client {named[0]}"
        if len(named) > 1:
            more = ", …" if len(named) > MAX_NAMED else ""
            whose = f"one of {len(named)} clients ({', '.join(named[:MAX_NAMED])}{more})"
        super().__init__(
            f"{whose}: {self.reason}; this process can no longer use the GPU, while "
            "simulation.backend=ray goes on without the client"
        )


def is_device_error(error: BaseException) -> bool:
    """Return whether an error of PyTorch ends the use of the GPU for the rest of a process.

    Such as an illegal memory access, after which all calls fail. Lack of memory is none.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}  # PyTorch may not be imported
    harmless = "OutOfMemoryError" in kinds or "NOT_SUPPORTED" in str(error)
    if harmless or "RuntimeError" not in kinds:
        return False
    return "AcceleratorError" in kinds or str(error).startswith(("CUDA error", "cuDNN error"))


def device_reason(error: BaseException) -> str:
    """Return an error of the GPU in one line."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line} (CUDA_LAUNCH_BLOCKING=1 shows where)"


def in_one_line(error: BaseException) -> str:
    """Return an exception in one line: its type, its message, and the code that raised it.

    That is the innermost line outside of installed packages: one that its author can change.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({code_at(frames)})" if frames else ""
    return f"{type(error).__name__}: {shortened(str(error))}{where}"


def code_at(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return file and line of the innermost frame, if possible outside of installed packages."""
    own = [frame for frame in frames if not frame.filename.startswith(INSTALLED)] or frames
    return f"{own[-1].filename}:{own[-1].lineno}"


def shortened(text: str, most: int = MAX_TEXT) -> str:
    """Return a text in one line, its middle left out where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]} … {line[-most // 2 :]}"


@contextmanager
def named(what: str, kind: type[FedalignError] = InputError) -> Iterator[None]:
    """Turn whatever else than a `FedalignError` is raised into one that says what failed.

    What is named is code that is not fedalign's own: a part, a library.
    """
    try:
        yield
    except FedalignError:
        raise
    except Exception as error:
        if is_device_error(error):
            raise
        raise kind(f"{what}: {in_one_line(error)}") from error


class BadValueError(InputError):
    """A setting that is not allowed, and the dotted place where it stands."""

    def __init__(self, place: str, message: str):
        super().__init__(f"{place}: {message}")
        self.place, self.message = place, message


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the likeliest name, then all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} ({', '.join(known) or 'none'})"
