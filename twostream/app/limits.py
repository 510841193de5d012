"""How large a video may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How large a video may be.

    Attributes:
        megabytes: of its file (10^6 bytes).
        seconds: that it plays.
    """

    megabytes: int = 100
    seconds: float = 60.0
