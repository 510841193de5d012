"""Errors that a user of twostream can cause, each with one clear message."""

from __future__ import annotations

from flow_cache import first_names as first_names
from flow_cache import one_line as one_line


class TwoStreamError(Exception):
    """Base of every error that this package raises on purpose; its text is one line for the user.

    Example:
        >>> from twostream import TwoStreamError, load_checkpoint
        >>> try:
        ...     load_checkpoint("none.ckpt")
        ... except TwoStreamError as error:
        ...     print(error)
        checkpoint none.ckpt does not exist
    """


class DataError(TwoStreamError):
    """Annotations, splits or cached videos that cannot be used: missing, empty, too short, or leaking.

    Example:
        >>> from twostream import DataConfig, load_data
        >>> load_data(DataConfig(root="videos"))
        Traceback (most recent call last):
        twostream.errors.DataError: data.cache is not set: give the folder that flow-cache precompute wrote
    """


class DataWarning(UserWarning):
    """Something about the data that a person should know, though the work goes on; commands print it as a line."""


class CheckpointError(TwoStreamError):
    """A checkpoint or weights file that is missing, damaged, or made for something else.

    Example:
        >>> from twostream import load_checkpoint
        >>> load_checkpoint("none.ckpt")
        Traceback (most recent call last):
        twostream.errors.CheckpointError: checkpoint none.ckpt does not exist
    """


class ConfigError(TwoStreamError):
    """Settings that contradict each other or name something that does not exist.

    Example:
        >>> from twostream import OptimConfig
        >>> OptimConfig(lr=-1)
        Traceback (most recent call last):
        twostream.errors.ConfigError: optim.lr must be positive, got -1
    """
