"""How long and endless videos are looked at: settings that can be imported without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from twostream.data.settings import DataConfig
from twostream.errors import ConfigError
from twostream.settings import StreamName

Smoothing = Literal["exponential", "mean"]
LONGEST_WHOLE = 1800
"""Frames up to which a video is looked at whole unless a window is asked for: a minute at 30 frames a second."""


@dataclass(frozen=True)
class WindowSettings:
    """How long videos are cut into windows, and how their decisions are smoothed.

    Attributes:
        window: frames of a window, and the length up to which a video is looked at whole, as in an evaluation. Default:
            as many as give the model's T steps in places `every` frames apart, for videos of more than 1800 frames.
        every: frames from one decision to the next.
        smoothing: exponential or mean.
        over: decisions that smoothing reaches over; 1 for none.

    Raises:
        ConfigError: a number outside its range.

    Example:
        >>> from twostream.inference.settings import WindowSettings
        >>> WindowSettings(every=4).over
        8
    """

    window: int | None = None
    every: int = 8
    smoothing: Smoothing = "exponential"
    over: int = 8

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("every", self.every), ("over", self.over)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} must be at least 1, got {value}")
        if self.smoothing not in get_args(Smoothing):
            raise ConfigError(f"--smoothing must be exponential or mean, got {self.smoothing!r}")

    @property
    def longest_whole(self) -> int:
        """Frames of the longest video that is looked at whole."""
        return LONGEST_WHOLE if self.window is None else self.window

    def length(self, data: DataConfig, streams: Sequence[StreamName], step: int) -> int:
        """Return the frames of a window.

        Raises:
            ConfigError: too few for the steps of a clip.
        """
        steps = max(data.clips_of(name)[0].steps for name in streams)
        around = data.stack - 1 + step  # frames of a stack beyond its place
        length = steps * self.every + around if self.window is None else self.window
        if length - around < steps:
            raise ConfigError(
                f"a window of {length} frames is too short for {steps} steps of {data.stack} flow fields; --window must"
                f" be at least {steps + around}"
            )
        return length
