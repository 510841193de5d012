"""Codecs: one grey image (quantised flow, u over v) or RGB frame to bytes and back.

`jpegls`, `zstd` and `jpegxl` store flow with an error of at most m grey levels (`max_error`). Levels are first put on a
grid of step s = 2 m + 1 about 128, the level of no motion; then they are coded without loss:

    stored = 128 + round((q - 128) / s)          decoded = s * stored, modulo 256

Because of the modulo, decoding is one multiplication of bytes: s is odd, so s * 128 is 128 again. Where the grid's last
step would leave 0 ... 255, the two ends swap their bytes, and the products then lie just inside. 128 stays 128, and the
code of a negated image is the negative of its code. JPEG-LS's own near-lossless mode guarantees neither (it depends on
what it has decoded so far), has a larger mean error and takes longer. m = 0 changes nothing. A picture viewer shows the
stored bytes: the same picture with 1 / s of its contrast.

What is on the same grid is the same whatever the codec: `recode_flow` turns one into the other.

A `zstd` field is a PGM image, compressed by Zstandard: `zstd -d` gives a picture that any viewer shows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.image_headers import SHAPES, CodecError, zstandard_size
from flow_cache.errors import ArgumentError, check_whole_number, one_line
from flow_cache.quantization import ZERO
from flow_cache.runtime import opencv
from flow_cache.video.frames import MAX_SIDE

Image = NDArray[np.uint8]

Codec = Literal["jpegls", "jpeg", "png", "zstd", "jpegxl"]
CODECS: tuple[Codec, ...] = get_args(Codec)
RGB_EXTENSION = "jpg"

_END_OF_IMAGE = b"\xff\xd9"
_ZSTANDARD_LEVEL = 9  # higher ones take 5 times as long for 2 % fewer bytes; decoding is as fast for all
_JPEG_XL_EFFORT = 3  # the lowest that is smaller than JPEG-LS; 4 takes twice as long for 2 % fewer bytes


class _Kind(NamedTuple):
    """What there is to know of a codec."""

    extension: str
    format_version: int
    """The first version of the file format whose readers know it."""
    on_grid: bool
    """Levels are put on the grid that `max_error` says; else they are stored as they are."""


_KINDS: dict[Codec, _Kind] = {
    "jpegls": _Kind("jls", 2, on_grid=True),
    "jpeg": _Kind("jpg", 2, on_grid=False),
    "png": _Kind("png", 2, on_grid=False),
    "zstd": _Kind("pgm.zst", 3, on_grid=True),
    "jpegxl": _Kind("jxl", 3, on_grid=True),
}


@dataclass(frozen=True)
class StorageSettings:
    """How flow fields and RGB frames are stored in a cache file.

    Attributes:
        codec: how fields are stored. jpegls (small and fast), zstd (larger, decoded fastest: for training) and jpegxl
            (smallest, slow: for archives) give the same levels, and flow-cache recode turns one into another; png is
            lossless, jpeg is not.
        max_error: largest error of jpegls, zstd and jpegxl in grey levels; 0 is lossless.
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
        >>> StorageSettings("jpegls", max_error=2).recoded("zstd")  # doctest: +ELLIPSIS
        StorageSettings(codec='zstd', max_error=2, ...)
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
        return _KINDS[self.codec].extension

    @property
    def format_version(self) -> int:
        """Version of the file format, the first whose readers know the codec."""
        return _KINDS[self.codec].format_version

    @property
    def grid(self) -> int:
        """Distance between the grey levels that are kept; 1 if all are, or if the codec has no grid."""
        return 2 * self.max_error + 1 if _KINDS[self.codec].on_grid else 1

    @property
    def own_rgb_side(self) -> int | None:
        """Shorter side of RGB frames with a size of their own; None if they have the flow's, or are not stored."""
        return self.rgb_short_side if self.rgb else None

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the settings as `meta.json` holds them; one without effect is None, or absent (`rgb_short_side`)."""
        own_side = {} if self.own_rgb_side is None else {"rgb_short_side": self.own_rgb_side}
        return {
            "codec": self.codec,
            "max_error": self.max_error if _KINDS[self.codec].on_grid else None,
            "quality": self.quality if self.codec == "jpeg" else None,
            "rgb_quality": self.rgb_quality if self.rgb else None,
            **own_side,
        }

    def stored_flow(self, levels: Image) -> Image:
        """Return what a cache file would give back of fields.

        Args:
            levels: (N, 2, H, W) uint8, as `flow_cache.quantize` returns them.
        """
        if _KINDS[self.codec].on_grid:
            table = np.multiply(stored_levels(self.max_error), self.grid, dtype=np.uint8, casting="unsafe")
            return table[levels]
        if self.codec == "png":
            return levels
        fields = np.empty_like(levels)
        for field, out in zip(levels, fields, strict=True):
            image = field.reshape(-1, field.shape[-1])
            decode_into(encode_flow(image, self), self, out.reshape(image.shape))
        return fields

    def stored_rgb(self, frame: Image) -> Image:
        """Return what a cache file would give back of an RGB frame, (H, W, 3) uint8."""
        out = np.empty_like(frame)
        decode_into(encode_rgb(frame, self.rgb_quality), RGB, out)
        return out

    def recoded(self, codec: Codec) -> StorageSettings:
        """Return settings that store the very same levels with another codec.

        Raises:
            ArgumentError: there are none. What jpeg has changed is not known, and png says that it holds every level.
        """
        settings = replace(self, codec=codec, max_error=self.grid // 2)
        if codec == self.codec:
            return self
        if "jpeg" in (codec, self.codec):
            raise ArgumentError(
                f"{self.codec} cannot become {codec} exactly, since jpeg changes levels; compute the flow again with "
                f"flow-cache precompute --codec {codec}"
            )
        if settings.grid != self.grid:
            raise ArgumentError(
                f"{self.codec} with max_error {self.max_error} cannot become {codec}, which stands for all levels; "
                f"choose one of {', '.join(name for name in CODECS if _KINDS[name].on_grid)}"
            )
        return settings

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
    image = np.ascontiguousarray(image)
    if _KINDS[settings.codec].on_grid:
        image = opencv().LUT(image, stored_levels(settings.max_error))
    return _encode(image, settings)


def recode_flow(
    data: bytes, shape: tuple[int, int], source: StorageSettings, target: StorageSettings
) -> bytes:
    """Encode a field with another codec, so that it decodes to the very same levels.

    Args:
        data: the encoded field.
        shape: (2 H, W).
        source: how it is encoded.
        target: how it shall be, from `source.recoded`.

    Raises:
        CodecError: the bytes are damaged.
    """
    assert source.grid == target.grid, "the settings are from `recoded`"
    check_shape(data, source, shape)
    # The stored bytes, not the levels: half of the grids move some of their own levels if they are applied again.
    stored = _decode(data, source, np.empty(shape, np.uint8))
    recoded = _encode(stored, target)
    if not np.array_equal(_decode(recoded, target, np.empty(shape, np.uint8)), stored):
        raise CodecError(
            f"does not survive {target.codec}"
        )  # an encoder with a bug; the original may be replaced
    return recoded


def _encode(stored: Image, settings: StorageSettings) -> bytes:
    """Encode an image as it is, (H, W) uint8, contiguous."""
    codecs = _imagecodecs()
    if settings.codec == "jpegls":
        return bytes(codecs.jpegls_encode(stored))
    if settings.codec == "jpeg":
        return bytes(codecs.jpeg8_encode(stored, level=settings.quality))
    if settings.codec == "zstd":
        return bytes(codecs.zstd_encode(_pgm_header(stored.shape) + stored.tobytes(), level=_ZSTANDARD_LEVEL))
    if settings.codec == "jpegxl":
        return bytes(codecs.jpegxl_encode(stored, lossless=True, effort=_JPEG_XL_EFFORT, numthreads=1))
    return bytes(codecs.png_encode(stored, level=6))


def encode_rgb(image: Image, quality: int) -> bytes:
    """Encode an RGB frame, (H, W, 3) uint8, as JPEG of a quality from 1 to 100."""
    return bytes(_imagecodecs().jpeg8_encode(np.ascontiguousarray(image), level=quality))


@functools.cache
def stored_levels(max_error: int) -> Image:
    """Return what is stored for each grey level on a grid.

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
    stored = _decode(data, settings, out)
    if stored is not out or settings.grid > 1:
        np.multiply(stored, settings.grid, out=out)


def _decode(data: bytes, settings: StorageSettings, out: Image) -> Image:
    """Decode an image whose shape was checked to what is stored; it stands in `out` or in memory of its own."""
    codec = settings.codec
    if codec == "jpegls" and not data.endswith(_END_OF_IMAGE):
        # CharLS stops at a marker. Without one, version 2.4 counts missing bits up to 2 ** 32, which takes 20 seconds.
        raise CodecError("cannot be decoded (it is cut)")
    codecs = _imagecodecs()
    decoders: dict[str, Callable[..., Image]] = {
        "jpegls": codecs.jpegls_decode,
        "jpeg": codecs.jpeg8_decode,
        "png": codecs.spng_decode,  # after a damaged image, png_decode keeps a reference to `out` for ever
        "zstd": codecs.zstd_decode,
        "jpegxl": functools.partial(codecs.jpegxl_decode, numthreads=1),
    }
    header = _pgm_header(out.shape) if codec == "zstd" else b""
    target = np.empty(len(header) + out.size, np.uint8) if header else out
    try:
        decoded = decoders[codec](data, out=target)
    except (RuntimeError, ValueError) as error:  # imagecodecs' own errors are RuntimeErrors
        raise CodecError(f"cannot be decoded ({one_line(error)})") from error
    if not header:
        return out
    if len(decoded) != target.size or target[: len(header)].tobytes() != header:
        raise CodecError(f"cannot be decoded (it holds no PGM image of shape {out.shape}, which is expected)")
    return target[len(header) :].reshape(out.shape)


def check_shape(data: bytes, settings: StorageSettings, shape: tuple[int, ...]) -> None:
    """Raise CodecError unless the header of an encoded image announces 8 bits a sample and this shape.

    A `zstd` field announces its bytes alone: they are as many as an image of this shape has. Decoding tells the rest.
    """
    if settings.codec == "zstd":
        announced, expected = zstandard_size(data), len(_pgm_header(shape)) + math.prod(shape)
        if announced != expected:
            raise CodecError(f"holds {announced} bytes, expected {expected} for an image of shape {shape}")
        return
    found = SHAPES[settings.codec](data)
    if found != shape:
        raise CodecError(f"holds an image of shape {found}, expected {shape}")


def _pgm_header(shape: tuple[int, ...]) -> bytes:
    """Return what stands before the bytes of a grey image in a binary PGM file."""
    return f"P5 {shape[1]} {shape[0]} 255\n".encode()


def _imagecodecs() -> ModuleType:
    """Import imagecodecs."""
    import imagecodecs  # on first use: it costs 0.2 s

    module: ModuleType = imagecodecs
    return module
