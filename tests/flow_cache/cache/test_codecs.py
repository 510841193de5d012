import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flow_cache.cache.codecs import (
    CODECS,
    RGB,
    StorageSettings,
    check_shape,
    decode_into,
    encode_flow,
    encode_rgb,
    recode_flow,
    stored_levels,
)
from flow_cache.cache.image_headers import CodecError, jpegxl_shape, zstandard_size
from flow_cache.errors import ArgumentError
from flow_cache.quantization import negate

IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def _round_trip(image: np.ndarray, settings: StorageSettings) -> np.ndarray:
    out = np.zeros_like(image)
    decode_into(encode_flow(image, settings), settings, out)
    return out


ON_GRID = ("jpegls", "zstd", "jpegxl")


@pytest.mark.parametrize("max_error", range(128))
@pytest.mark.parametrize("name", ON_GRID)
def test_a_grid_keeps_its_promises_for_every_level(name: str, max_error: int) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    codec = StorageSettings(name, max_error=max_error)
    decoded = _round_trip(levels, codec)
    assert np.abs(decoded.astype(int) - levels).max() <= max_error
    assert decoded[8, 0] == levels[8, 0] == 128
    assert np.array_equal(_round_trip(negate(levels), codec), negate(decoded))
    # As few levels as the error allows, or nothing would be gained.
    assert len(np.unique(decoded)) <= 256 // (2 * max_error + 1) + 2


@settings(max_examples=50, deadline=None)
@given(IMAGES, st.integers(0, 127), st.sampled_from(ON_GRID))
def test_a_grid_treats_each_pixel_alone(image: np.ndarray, max_error: int, name: str) -> None:
    decoded = _round_trip(image, StorageSettings(name, max_error=max_error))
    assert np.array_equal(decoded, stored_levels(max_error)[image] * np.uint8(2 * max_error + 1))


@settings(max_examples=50, deadline=None)
@given(IMAGES, st.integers(0, 127), st.sampled_from(ON_GRID), st.sampled_from(ON_GRID))
def test_recoding_gives_the_bytes_that_encoding_gives(
    image: np.ndarray, max_error: int, source: str, target: str
) -> None:
    before = StorageSettings(source, max_error=max_error)
    after = before.recoded(target)
    assert after.max_error == max_error
    encoded = encode_flow(image, before)
    assert recode_flow(encoded, image.shape, before, after) == encode_flow(image, after)


def test_settings_that_would_change_levels_are_not_given() -> None:
    assert StorageSettings("png", rgb=True).recoded("zstd") == StorageSettings("zstd", max_error=0, rgb=True)
    assert StorageSettings("jpegxl", max_error=0).recoded("png").grid == 1
    for source in CODECS:
        assert StorageSettings(source).recoded(source) == StorageSettings(source)
    for source, target in (("jpeg", "png"), ("png", "jpeg"), ("jpegls", "jpeg"), ("zstd", "png")):
        with pytest.raises(ArgumentError, match=f"{source}.* cannot become {target}"):
            StorageSettings(source).recoded(target)


def test_zstandard_holds_a_picture_that_viewers_know() -> None:
    import cv2
    import imagecodecs

    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = imagecodecs.zstd_decode(encode_flow(image, StorageSettings("zstd", max_error=0)))
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), image)


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (40, 48), (256, 256), (480, 320), (9000, 3), (24, 18)])
def test_sizes_are_read_from_headers_of_every_form(shape: tuple[int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    assert jpegxl_shape(encode_flow(image, StorageSettings("jpegxl"))) == shape
    header = len(f"P5 {shape[1]} {shape[0]} 255\n")
    assert zstandard_size(encode_flow(image, StorageSettings("zstd"))) == header + image.size


def test_a_picture_of_other_shape_with_as_many_bytes_is_refused() -> None:
    data = encode_flow(np.zeros((16, 20), np.uint8), StorageSettings("zstd"))
    with pytest.raises(CodecError, match="no PGM image of shape"):
        decode_into(data, StorageSettings("zstd"), np.zeros((20, 16), np.uint8))


def test_what_a_viewer_shows_of_jpegls_is_flow_with_less_contrast() -> None:
    import imagecodecs

    image = np.arange(2, 255, dtype=np.uint8)[None]
    shown = imagecodecs.jpegls_decode(encode_flow(image, StorageSettings("jpegls", max_error=1)))
    assert np.array_equal(shown, np.rint(128 + (image.astype(int) - 128) / 3))


@settings(max_examples=50, deadline=None)
@given(IMAGES)
def test_png_is_lossless(image: np.ndarray) -> None:
    assert np.array_equal(_round_trip(image, StorageSettings("png")), image)


def test_jpeg_is_close_on_smooth_flow() -> None:
    y, x = np.mgrid[:64, :48]
    image = (128 + 20 * np.sin(x / 15) + 10 * np.cos(y / 9)).astype(np.uint8)
    error = np.abs(_round_trip(image, StorageSettings("jpeg", quality=95)).astype(int) - image)
    assert error.mean() < 1


def test_rgb_keeps_the_order_of_channels() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    out = np.zeros_like(image)
    decode_into(encode_rgb(image, 95), RGB, out)
    assert np.abs(out.astype(int) - image).max() < 6


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_bytes_raise_codec_error(codec: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 16), dtype=np.uint8)
    settings = StorageSettings(codec)
    data = encode_flow(image, settings)
    out = np.zeros_like(image)
    references = sys.getrefcount(out)
    for broken in (b"", b"\xff", data[:12], b"\x00" * 64, b"\xff\xd8" + b"\x00" * 30):
        with pytest.raises(CodecError):
            decode_into(broken, settings, out)
    for shape in ((16, 20), (20, 17), (20, 16, 3)):
        with pytest.raises(CodecError, match="expected"):
            decode_into(data, settings, np.zeros(shape, np.uint8))
    if codec != "jpeg":  # a cut JPEG decodes to grey below the cut; the container's CRC is what catches that
        with pytest.raises(CodecError, match="cannot be decoded"):
            decode_into(data[: len(data) // 2], settings, out)
    assert sys.getrefcount(out) == references  # or a damaged file would cost its room for ever


def test_sixteen_bit_images_are_refused() -> None:
    import imagecodecs

    data = imagecodecs.png_encode(np.zeros((4, 4), np.uint16))
    with pytest.raises(CodecError, match="16 bits"):
        check_shape(data, StorageSettings("png"), (4, 4))


@pytest.mark.parametrize(
    "values",
    [
        {"codec": "zip"},
        {"max_error": -1},
        {"max_error": 128},
        {"max_error": 1.0},
        {"quality": 0},
        {"rgb_quality": 101},
        {"rgb_short_side": 0},
        {"rgb_short_side": 32768},
        {"quality": True},
    ],
)
def test_settings_outside_their_range_are_refused(values: dict) -> None:
    with pytest.raises(ArgumentError):
        StorageSettings(**values)


def test_settings_without_effect_are_not_recorded() -> None:
    assert StorageSettings("png", max_error=3, quality=50).as_dict() == {
        "codec": "png",
        "max_error": None,
        "quality": None,
        "rgb_quality": None,
    }


@pytest.mark.parametrize("length", [121, -1, -2])
def test_a_cut_jpegls_stream_is_refused_before_it_is_decoded(length: int) -> None:
    # CharLS 2.4 takes 20 seconds to find that out.
    image = np.cumsum(np.random.default_rng(0).integers(-2, 3, (36, 24)), axis=1).astype(np.uint8)
    data = encode_flow(image, StorageSettings())
    out = np.full((36, 24), 7, np.uint8)
    with pytest.raises(CodecError, match="it is cut"):
        decode_into(data[:length], StorageSettings(), out)
    assert (out == 7).all()  # a decoder writes the rows that it finds


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_file_would_give_back_is_known_without_one(codec: str) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (3, 2, 8, 10), np.uint8)
    settings = StorageSettings(codec, max_error=2, quality=70)
    expected = [_round_trip(field.reshape(16, 10), settings) for field in levels]
    assert np.array_equal(settings.stored_flow(levels), np.stack(expected).reshape(levels.shape))
