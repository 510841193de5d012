"""Errors of `flow_cache`: every one is a single line that names the file and says what was expected."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any


class FlowCacheError(Exception):
    """Base of every error that `flow_cache` raises on purpose."""


class ArgumentError(FlowCacheError):
    """An argument cannot be used; nothing has been done (exit status 2 on the command line)."""


class DeviceError(ArgumentError):
    """A device that was asked for cannot be used, or has not the memory that the work needs."""


class LostDeviceError(FlowCacheError):
    """The process that owns a device has gone in the middle of the work; no video is to blame."""


class CacheMismatchError(FlowCacheError):
    """An existing cache was made with other parameters than the ones asked for."""


class VideoError(FlowCacheError):
    """A video cannot be read.

    `frame` is the index of the first frame that could not be had, None when the video could not be opened.
    """

    def __init__(self, path: Any, reason: str, frame: int | None = None) -> None:
        super().__init__(path, reason, frame)  # all three in args, so that it survives pickling
        self.path = Path(path) if isinstance(path, str) else path
        self.reason = reason
        self.frame = frame

    @property
    def reason_and_frame(self) -> str:
        """Why the video failed, without its path."""
        return self.reason if self.frame is None else f"frame {self.frame}: {self.reason}"

    def __str__(self) -> str:
        where = "" if self.frame is None else f", frame {self.frame}"
        return f"{self.path}{where}: {self.reason}"


class CacheFileError(FlowCacheError):
    """A cache file is missing or damaged; `member` names the part inside it, where one is to blame."""

    def __init__(self, path: Any, reason: str, member: str | None = None) -> None:
        super().__init__(path, reason, member)
        self.path = Path(path) if isinstance(path, str) else path
        self.reason = reason
        self.member = member

    @property
    def reason_and_member(self) -> str:
        """Why the file cannot be read, without its path."""
        return self.reason if self.member is None else f"member {self.member}: {self.reason}"

    def __str__(self) -> str:
        where = "" if self.member is None else f", member {self.member}"
        return f"{self.path}{where}: {self.reason}"


class CacheVersionError(CacheFileError):
    """A cache file has another format version than the one that this build reads and writes."""

    def __str__(self) -> str:
        return f"{super().__str__()}; make it anew with this build (flow-cache precompute --overwrite)"


class CacheWriteError(FlowCacheError):
    """A cache cannot be written (disk full, read-only folder, ...)."""

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path) if isinstance(path, str) else path
        self.reason = reason

    @classmethod
    def from_os_error(cls, path: Any, error: OSError) -> CacheWriteError:
        """Build the error from what the operating system said."""
        return cls(path, error.strerror or str(error))

    def __str__(self) -> str:
        return f"cannot write {self.path}: {self.reason}"


class StorageError(FlowCacheError, OSError):
    """A remote storage has refused something; whatever class its own package raises for that."""

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.strerror = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.strerror}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def check_whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number (Python's or NumPy's); raise ArgumentError unless it is one from `least` to `most`."""
    whole = type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{name} must be a whole number {span}, got {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]
