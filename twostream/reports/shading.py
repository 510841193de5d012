"""Show where a network looked: the other places of a picture are dark, which leaves the hue of flow its meaning."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_DARKEST = 0.8  # share of the light that is taken from places with no weight


def shade(
    picture: npt.NDArray[np.uint8], weights: npt.NDArray[np.float32], largest: float | None = None
) -> npt.NDArray[np.uint8]:
    """Darken a picture where weights are small.

    Args:
        picture: (H, W, 3) uint8 RGB.
        weights: (h, w) float32, at least 0, one for each place of a grid over the picture.
        largest: the weight that leaves the picture as it is; None for the largest of these.

    Returns:
        (H, W, 3) uint8 RGB.

    Example:
        >>> import numpy as np
        >>> shade(np.full((1, 2, 3), 100, np.uint8), np.array([[0, 1]], np.float32))[0, :, 0].tolist()
        [20, 100]
    """
    height, width = picture.shape[:2]
    top = max(float(weights.max()) if largest is None else largest, 1e-12)
    # the square root shows small weights too
    light = 1 - _DARKEST * (1 - np.sqrt(np.clip(weights / top, 0, 1)))
    smooth = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.round(picture * smooth[..., None]), np.uint8)
