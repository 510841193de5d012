"""A lock on an open file, which ends with its process: the sign that a writer lives."""

from __future__ import annotations

from typing import BinaryIO


def try_lock(file: BinaryIO) -> bool:
    """Try to lock an open file until it is closed, also by the end of its process.

    Args:
        file: open for writing.

    Returns:
        False if another process, or this one by another `open`, holds the lock. True also where files cannot be
        locked: on Windows, and on file systems without locks.

    Example:
        >>> from flow_cache import try_lock
        >>> with open("predictions.csv", "ab") as first, open("predictions.csv", "ab") as second:
        ...     try_lock(first), try_lock(second)
        (True, False)
    """
    try:
        import fcntl
    except ImportError:
        return True  # Windows
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
