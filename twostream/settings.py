"""What the settings of all parts share: the names of streams and sides, checks, and reading plain values back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

import jsonargparse

from twostream.errors import ConfigError, TwoStreamError, one_line

StreamName = Literal["rgb", "flow"]
STREAMS: tuple[StreamName, ...] = get_args(StreamName)

Part = Literal["train", "validation", "test"]
"""A side of a split."""

Damaged = Literal["fail", "keep-prefix", "skip-frames"]
"""What is done with a damaged video, as in `flow_cache.PrecomputeConfig`."""

T = TypeVar("T")


def require_at_least(
    settings: object, least: Mapping[str, int], prefix: str, error: type[TwoStreamError]
) -> None:
    """Check whole numbers of a settings object against the smallest value that each can have.

    Args:
        settings: the object whose attributes are checked.
        least: the smallest value of each attribute that has one, by name.
        prefix: what stands before an attribute's name in the message, such as "data.".
        error: what to raise.

    Raises:
        TwoStreamError: a value is too small; of the type `error`.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value < smallest:
            raise error(f"{prefix}{name} must be at least {smallest}, got {value}")


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """Rebuild a settings dataclass from plain values, checked as the command line checks them.

    Raises:
        ConfigError: unknown keys or values of another type.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        value = parser.instantiate(parser.parse_object({"value": dict(plain)})).value
    except jsonargparse.ArgumentError as error:
        raise ConfigError(f"unusable {kind.__name__}: {one_line(error)}") from error
    assert isinstance(value, kind)
    return value
