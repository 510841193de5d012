"""Codecs: one grey image (quantised flow, u over v) or RGB frame to bytes and back.

JPEG-LS stores flow with an error of at most m grey levels (`max_error`). Levels are first put on a grid of step
s = 2 m + 1 about 128, the level of no motion; then they are coded without loss:

    stored = 128 + round((q - 128) / s)          decoded = s * stored, modulo 256

Because of the modulo, decoding is one multiplication of bytes in place: s is odd, so s * 128 is 128 again. Where the
grid's last step would leave 0 ... 255, the two ends swap their bytes, and the products then lie just inside. 128 stays
128, and the code of a negated image is the negative of its code. JPEG-LS's own near-lossless mode guarantees neither
(it depends on what it has decoded so far), has a larger mean error and takes longer. m = 0 changes nothing. A picture
viewer shows the stored bytes: the same picture with 1 / s of its contrast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, check_whole_number, one_line
from flow_cache.quantization import ZERO
from flow_cache.runtime import opencv
from flow_cache.video.frames import MAX_SIDE

Image = NDArray[np.uint8]

Codec = Literal["jpegls", "jpeg", "png"]
CODECS: tuple[Codec, ...] = get_args(Codec)
EXTENSIONS = {"jpegls": "jls", "jpeg": "jpg", "png": "png"}
RGB_EXTENSION = "jpg"

_END_OF_IMAGE = b"\xff\xd9"


class CodecError(Exception):
    """Encoded bytes are damaged or hold an image of another shape; the reader adds the file and the member."""


@dataclass(frozen=True)
class StorageSettings:
    """How flow fields and RGB frames are stored in a cache file.

    Attributes:
        codec: how fields are stored: jpegls (near-lossless), jpeg or png (lossless).
        max_error: largest error of jpegls in grey levels; 0 is lossless.
        quality: quality of jpeg fields, 1 to 100.
        rgb: store the RGB frames too, so that training needs nothing but the cache.
        rgb_quality: JPEG quality of the RGB frames, 1 to 100.
        rgb_short_side: shorter side of the RGB frames in pixels. A smaller video keeps its own size, so a large number
            such as 9999 means every video's own; default: the size of the frames that flow is computed on.

    Raises:
        ArgumentError: an unknown codec, or a number outside its range.

    Example:
        >>> from flow_cache import StorageSettings
        >>> StorageSettings("jpegls", max_error=2).grid
        5
        >>> StorageSettings("png", rgb=True).as_dict()
        {'codec': 'png', 'max_error': None, 'quality': None, 'rgb_quality': 90}
        >>> StorageSettings(rgb=True, rgb_short_side=240).own_rgb_side  # whatever size flow is computed at
        240
    """

    codec: Codec = "jpegls"
    max_error: int = 1
    quality: int = 95
    rgb: bool = False
    rgb_quality: int = 90
    rgb_short_side: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ArgumentError(f"unknown codec {self.codec!r}; choose one of {', '.join(CODECS)}")
        check_whole_number("max_error", self.max_error, 0, 127)
        check_whole_number("quality", self.quality, 1, 100)
        check_whole_number("rgb_quality", self.rgb_quality, 1, 100)
        if self.rgb_short_side is not None:
            check_whole_number("rgb_short_side", self.rgb_short_side, 1, MAX_SIDE)

    @property
    def extension(self) -> str:
        """File name extension of a flow field."""
        return EXTENSIONS[self.codec]

    @property
    def grid(self) -> int:
        """Distance between the grey levels that jpegls keeps; 1 if it keeps all."""
        return 2 * self.max_error + 1

    @property
    def own_rgb_side(self) -> int | None:
        """Shorter side of RGB frames with a size of their own; None if they have the flow's, or are not stored."""
        return self.rgb_short_side if self.rgb else None

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the settings as `meta.json` holds them; one without effect is None, or absent (`rgb_short_side`)."""
        own_side = {} if self.own_rgb_side is None else {"rgb_short_side": self.own_rgb_side}
        return {
            "codec": self.codec,
            "max_error": self.max_error if self.codec == "jpegls" else None,
            "quality": self.quality if self.codec == "jpeg" else None,
            "rgb_quality": self.rgb_quality if self.rgb else None,
            **own_side,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StorageSettings:
        """Rebuild the settings from a dict of `as_dict`; raises ArgumentError for impossible values."""
        given = {name: value for name, value in values.items() if value is not None}
        return cls(**given, rgb=values.get("rgb_quality") is not None)


RGB = StorageSettings("jpeg")  # how RGB frames are decoded; decoding does not depend on the quality


def encode_flow(image: Image, settings: StorageSettings) -> bytes:
    """Encode a quantised field.

    Args:
        image: (2 H, W) uint8, grey levels, u over v.
        settings: the codec and its quality.
    """
    codecs = _imagecodecs()
    image = np.ascontiguousarray(image)
    if settings.codec == "jpegls":
        return bytes(codecs.jpegls_encode(opencv().LUT(image, stored_levels(settings.max_error))))
    if settings.codec == "jpeg":
        return bytes(codecs.jpeg8_encode(image, level=settings.quality))
    return bytes(codecs.png_encode(image, level=6))


def encode_rgb(image: Image, quality: int) -> bytes:
    """Encode an RGB frame, (H, W, 3) uint8, as JPEG of a quality from 1 to 100."""
    return bytes(_imagecodecs().jpeg8_encode(np.ascontiguousarray(image), level=quality))


@functools.cache
def stored_levels(max_error: int) -> Image:
    """Return what jpegls stores for each grey level.

    Returns:
        (256,) uint8, read-only, indexed by grey level.
    """
    step = 2 * max_error + 1
    offset = np.arange(256) - ZERO
    distance = np.abs(offset)
    if max_error:
        distance[[1, 255]] = ZERO  # as far as 0: the negative of 255 is 1, that of 0 is clipped to 255
    code = np.sign(offset) * ((distance + max_error) // step)
    level = ZERO + step * code
    code[(level < 0) | (level > 255)] *= -1
    table: Image = (ZERO + code).astype(np.uint8)
    table.setflags(write=False)
    return table


def decode_into(data: bytes, settings: StorageSettings, out: Image) -> None:
    """Decode an image.

    The size that the bytes announce is compared first, so that damaged bytes cannot make the decoder allocate a huge
    image.

    Args:
        data: an encoded image.
        settings: those of a field, or `RGB`.
        out: (2 H, W) or (H, W, 3) uint8, contiguous; the image is written here.

    Raises:
        CodecError: the bytes are damaged, or the image has another shape than `out`.
    """
    check_shape(data, settings, out.shape)
    codec = settings.codec
    if codec == "jpegls" and not data.endswith(_END_OF_IMAGE):
        # CharLS stops at a marker. Without one, version 2.4 counts missing bits up to 2 ** 32, which takes 20 seconds.
        raise CodecError("cannot be decoded (it is cut)")
    codecs = _imagecodecs()
    decoders: dict[str, Callable[..., Image]] = {
        "jpegls": codecs.jpegls_decode,
        "jpeg": codecs.jpeg8_decode,
        "png": codecs.spng_decode,  # after a damaged image, png_decode keeps a reference to `out` for ever
    }
    try:
        decoders[codec](data, out=out)
    except (RuntimeError, ValueError) as error:  # imagecodecs' own errors are RuntimeErrors
        raise CodecError(f"cannot be decoded ({one_line(error)})") from error
    if codec == "jpegls":
        np.multiply(out, settings.grid, out=out)


def check_shape(data: bytes, settings: StorageSettings, shape: tuple[int, ...]) -> None:
    """Raise CodecError unless the header of an encoded image announces 8 bits a sample and this shape."""
    announced = _announced_shape(data, settings.codec)
    if announced != shape:
        raise CodecError(f"holds an image of shape {announced}, expected {shape}")


def _announced_shape(data: bytes, codec: str) -> tuple[int, ...]:
    """Read the shape from an image's header: (H, W) for one channel, else (H, W, channels)."""
    if codec == "png":
        if len(data) < 29 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
            raise CodecError("is no PNG image")
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        depth, channels = data[24], {0: 1, 2: 3}.get(data[25], 0)
    else:
        height, width, channels, depth = _jpeg_header(
            data, (0xF7,) if codec == "jpegls" else (0xC0, 0xC1, 0xC2)
        )
    if depth != 8:
        raise CodecError(f"holds {depth} bits a sample, expected 8")
    return (height, width) if channels == 1 else (height, width, channels)


def _jpeg_header(data: bytes, frame_markers: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return (height, width, channels, bits) from the frame header of a JPEG or JPEG-LS stream."""
    position = 2
    if data[:2] == b"\xff\xd8":
        while position + 10 <= len(data) and data[position] == 0xFF:
            marker = data[position + 1]
            if marker in frame_markers:
                height = int.from_bytes(data[position + 5 : position + 7], "big")
                width = int.from_bytes(data[position + 7 : position + 9], "big")
                return height, width, data[position + 9], data[position + 4]
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise CodecError("has no image header of its codec")


def _imagecodecs() -> ModuleType:
    """Import imagecodecs."""
    import imagecodecs  # on first use: it costs 0.2 s

    module: ModuleType = imagecodecs
    return module
