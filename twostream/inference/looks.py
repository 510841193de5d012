"""What a stream looks at in a clip, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class StreamLook:
    """What one stream looks at in a clip of T steps.

    Attributes:
        pictures: (T, H, W, 3) uint8 RGB, what it sees at each step: the frame, or the field, in the middle.
        steps: (T,) float32, weight of each step; they sum to one, and are zero on steps that pad.
        places: (T, h, w) float32, weight of each place of the semantic level, which sum to one at each step; None where
            the stream averages over places.
        heat: (T, h, w) float32, at least 0, how much each place speaks for a class (Grad-CAM); all steps have one
            scale, and those that pad are zero. None where it is not known.
    """

    pictures: npt.NDArray[np.uint8]
    steps: npt.NDArray[np.float32]
    places: npt.NDArray[np.float32] | None
    heat: npt.NDArray[np.float32] | None = None

    @property
    def step(self) -> int:
        """The step with the largest weight."""
        return int(self.steps.argmax())
