"""Errors of `flow_cache`: every message is one line that names the file and says what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any


class FlowCacheError(Exception):
    """Base of every error that `flow_cache` raises on purpose.

    Example:
        >>> from flow_cache import FlowCacheError, VideoError
        >>> try:
        ...     raise VideoError("a.avi", "no such file")
        ... except FlowCacheError as error:
        ...     print(error)
        a.avi: no such file
    """


class ArgumentError(FlowCacheError):
    """An argument cannot be used. Nothing has been done (exit status 2 on the command line).

    Example:
        >>> from flow_cache import ArgumentError, get_method
        >>> try:
        ...     get_method("farneback", levels=0)
        ... except ArgumentError as error:
        ...     print(error)
        method farneback: levels must be from 1 to 64, got 0
    """


class DeviceError(ArgumentError):
    """A device cannot be used, or has too little memory for the work.

    Example:
        >>> from flow_cache import DeviceError
        >>> str(DeviceError("there is no cuda:2; CUDA sees 2 device(s), cuda:0 to cuda:1"))
        'there is no cuda:2; CUDA sees 2 device(s), cuda:0 to cuda:1'
    """


class LostDeviceError(FlowCacheError):
    """The process that owns a device has ended during the work. No video is the cause."""


class CacheMismatchError(FlowCacheError):
    """An existing cache was made with other parameters than those asked for.

    Example:
        >>> from flow_cache import CacheMismatchError
        >>> str(CacheMismatchError("caches was made with other parameters: a.flow.zip has step 1, expected 2"))
        'caches was made with other parameters: a.flow.zip has step 1, expected 2'
    """


class VideoError(FlowCacheError):
    """A video cannot be read.

    Attributes:
        path: the video, local or remote.
        reason: what is wrong with it.
        frame: index of the first frame that could not be read; None if the video could not be opened.

    Example:
        >>> from flow_cache import VideoError
        >>> str(VideoError("a.avi", "no such file"))
        'a.avi: no such file'
        >>> str(VideoError("clip", "image 1.png cannot be decoded", frame=1))
        'clip, frame 1: image 1.png cannot be decoded'
    """

    def __init__(self, path: Any, reason: str, frame: int | None = None) -> None:
        super().__init__(path, reason, frame)  # all three in args, so that it survives pickling
        self.path = _as_path(path)
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
    """A cache file is missing or damaged.

    Attributes:
        path: the cache file.
        reason: what is wrong with it.
        member: name of the damaged part inside it, None if it is the file as a whole.

    Example:
        >>> from flow_cache import CacheFileError
        >>> str(CacheFileError("a.flow.zip", "checksum differs", "flow/00001.jls"))
        'a.flow.zip, member flow/00001.jls: checksum differs'
    """

    def __init__(self, path: Any, reason: str, member: str | None = None) -> None:
        super().__init__(path, reason, member)
        self.path = _as_path(path)
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
    """A cache file has another format version than those that this build reads."""

    def __str__(self) -> str:
        advice = "use a newer build, or make it anew with this one (flow-cache precompute --overwrite)"
        return f"{super().__str__()}; {advice}"


class CacheWriteError(FlowCacheError):
    """A cache cannot be written (disk full, read-only folder, ...).

    Attributes:
        path: the file or folder.
        reason: what the operating system said.

    Example:
        >>> from flow_cache import CacheWriteError
        >>> str(CacheWriteError("caches/a.flow.zip", "No space left on device"))
        'cannot write caches/a.flow.zip: No space left on device'
    """

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(path, reason)
        self.path = _as_path(path)
        self.reason = reason

    @classmethod
    def from_os_error(cls, path: Any, error: OSError) -> CacheWriteError:
        """Build the error from what the operating system said."""
        return cls(path, error.strerror or str(error))

    def __str__(self) -> str:
        return f"cannot write {self.path}: {self.reason}"


class StorageError(FlowCacheError, OSError):
    """A remote storage refused a request, whatever error class its own package raises for that.

    Attributes:
        path: the remote file or folder.
        strerror: the reason.

    Example:
        >>> from flow_cache import StorageError
        >>> str(StorageError("s3://bucket/a.avi", "access denied"))
        's3://bucket/a.avi: access denied'
    """

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.strerror = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.strerror}"


def _as_path(path: Any) -> Any:
    """Return text as a local path, and any path object unchanged."""
    return Path(path) if isinstance(path, str) else path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(what: object) -> str:
    r"""Return a text, or an error's whole message, on one line; an error that says nothing by the name of its class.

    Example:
        >>> from flow_cache import one_line
        >>> one_line("cannot be read:\n    the header is damaged")
        'cannot be read: the header is damaged'
        >>> one_line(MemoryError())
        'MemoryError'
    """
    line = " ".join(str(what).split())
    return line or (type(what).__name__ if isinstance(what, BaseException) else "")


def first_names(names: Sequence[object], limit: int = 3) -> str:
    """Write the first names of a list for a message, and how many more there are.

    Args:
        names: what to list, in order.
        limit: the most names to write out.

    Example:
        >>> from flow_cache import first_names
        >>> first_names(["a.avi", "b.avi"]), first_names(range(1203)), first_names([])
        ('a.avi, b.avi', '0, 1, 2 and 1,200 more', 'none')
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more or "none"


def check_whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number from `least` to `most` as an int.

    Args:
        name: the argument, for the message.
        value: int or a NumPy integer; bool is refused.
        least: smallest value.
        most: largest value; None = no limit.

    Raises:
        ArgumentError: `value` is something else.
    """
    whole = type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{name} must be a whole number {span}, got {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]
