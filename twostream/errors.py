"""Errors that a user of twostream can cause, each with one clear message."""


class TwoStreamError(Exception):
    """Base of every error that this package raises on purpose; its text is one line for the user."""


class DataError(TwoStreamError):
    """Annotations, splits or cached videos that cannot be used: missing, empty, too short, or leaking."""


class CheckpointError(TwoStreamError):
    """A checkpoint or weights file that is missing, damaged, or made for something else."""


class ConfigError(TwoStreamError):
    """Settings that contradict each other or name something that does not exist."""
