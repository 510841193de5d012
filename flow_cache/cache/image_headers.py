"""What the header of an encoded image announces, read before a decoder sees it: damaged bytes may announce any size."""

from __future__ import annotations

from collections.abc import Callable

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_XL = b"\xff\x0a"  # a bare codestream
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_JPEG_XL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class CodecError(Exception):
    """Encoded bytes are damaged or hold an image of another shape; the reader adds the file and the member."""


def png_shape(data: bytes) -> tuple[int, ...]:
    """Read (H, W), or (H, W, 3), from a PNG's header; raises CodecError unless it has 8 bits a sample."""
    if len(data) < 29 or data[:8] != _PNG or data[12:16] != b"IHDR":
        raise CodecError("is no PNG image")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return _shape(height, width, channels={0: 1, 2: 3}.get(data[25], 0), depth=data[24])


def jpeg_shape(data: bytes, frame_markers: tuple[int, ...] = (0xC0, 0xC1, 0xC2)) -> tuple[int, ...]:
    """Read (H, W), or (H, W, 3), from the frame header of a JPEG; raises CodecError unless it has 8 bits a sample."""
    position = 2
    if data[:2] == b"\xff\xd8":
        while position + 10 <= len(data) and data[position] == 0xFF:
            if data[position + 1] in frame_markers:
                height = int.from_bytes(data[position + 5 : position + 7], "big")
                width = int.from_bytes(data[position + 7 : position + 9], "big")
                return _shape(height, width, channels=data[position + 9], depth=data[position + 4])
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise CodecError("has no image header of its codec")


def jpegls_shape(data: bytes) -> tuple[int, ...]:
    """Read the shape from the frame header of a JPEG-LS stream, as `jpeg_shape` does."""
    return jpeg_shape(data, (0xF7,))


def jpegxl_shape(data: bytes) -> tuple[int, int]:
    """Read (H, W) from the start of a JPEG XL codestream (ISO/IEC 18181-1, SizeHeader); the decoder checks the rest."""
    if data[:2] != _JPEG_XL or len(data) < 12:
        raise CodecError("is no JPEG XL codestream")
    bits = int.from_bytes(data[2:12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    in_eights = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if in_eights else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    if ratio := take(3):
        numerator, denominator = _JPEG_XL_RATIOS[ratio]
        return height, height * numerator // denominator
    return height, side()


def zstandard_size(data: bytes) -> int:
    """Read from a Zstandard frame how many bytes it decodes to (RFC 8878, 3.1.1.1); raises CodecError."""
    if data[:4] != _ZSTANDARD or len(data) < 18:
        raise CodecError("is no Zstandard frame")
    descriptor = data[4]
    kind, single_segment, dictionary = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    start = 5 + (not single_segment) + (0, 1, 2, 4)[dictionary]
    length = (single_segment, 2, 4, 8)[kind]
    if not length:
        raise CodecError("does not say how large it is")
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)


SHAPES: dict[str, Callable[[bytes], tuple[int, ...]]] = {
    "jpegls": jpegls_shape,
    "jpeg": jpeg_shape,
    "png": png_shape,
    "jpegxl": jpegxl_shape,
}


def _shape(height: int, width: int, channels: int, depth: int) -> tuple[int, ...]:
    """Return (H, W) for one channel, else (H, W, channels); raises CodecError unless there are 8 bits a sample."""
    if depth != 8:
        raise CodecError(f"holds {depth} bits a sample, expected 8")
    return (height, width) if channels == 1 else (height, width, channels)
