"""Image folders: decode the images of a folder in natural order, as the frames of one video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError, one_line
from flow_cache.runtime import opencv
from flow_cache.video.damage import Damage
from flow_cache.video.find import image_files


def decode_folder(folder: Path, damage: Damage | None = None) -> Iterator[NDArray[np.uint8]]:
    """Decode an image folder: (H, W, 3) uint8 BGR, the order of OpenCV's functions.

    Args:
        folder: the folder.
        damage: learns of images that cannot be read, which are then left out.

    Raises:
        VideoError: the folder holds no images, or one of them cannot be read (without `damage`; or all of them).
    """
    files = image_files(folder)
    if not files:
        raise VideoError(folder, "the folder holds no images")
    failed: list[VideoError] = []
    for index, file in enumerate(files):
        try:
            image = _decode(folder, file, index)
        except VideoError as error:
            if damage is None:
                raise
            failed.append(error)
            damage.lost(error.reason_and_frame)
        else:
            yield image
    if len(failed) == len(files):
        raise failed[0]


def _decode(folder: Path, file: Path, index: int) -> NDArray[np.uint8]:
    """Decode one image."""
    cv2 = opencv()
    try:
        encoded = np.fromfile(file, np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except (OSError, cv2.error) as error:
        raise VideoError(folder, f"image {file.name} cannot be read ({one_line(error)})", index) from error
    if image is None:
        raise VideoError(folder, f"image {file.name} cannot be decoded", index)
    decoded: NDArray[np.uint8] = image
    return decoded
