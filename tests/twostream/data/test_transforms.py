import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_cache import dequantize, get_method, quantize
from twostream.data.settings import AugmentConfig
from twostream.data.transforms import (
    View,
    apply_view,
    evaluation_view,
    evaluation_views,
    flip_flow,
    random_view,
)
from twostream.errors import DataError

PLAIN = AugmentConfig(flip=0, brightness=0, contrast=0, saturation=0)
sizes = st.tuples(st.integers(8, 60), st.integers(8, 60))
seeds = st.integers(0, 2**32)


def bytes_of(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@given(sizes, seeds, st.sampled_from(["random", "corners", "none"]))
def test_every_crop_lies_in_the_frame(size, seed, crop):
    height, width = size
    view = random_view(height, width, AugmentConfig(crop=crop), np.random.default_rng(seed))
    assert view.top >= 0
    assert view.left >= 0
    assert view.height >= 1
    assert view.width >= 1
    assert view.top + view.height <= height
    assert view.left + view.width <= width


@given(sizes, seeds)
def test_random_crops_keep_their_area_and_aspect(size, seed):
    config = AugmentConfig(scale_min=0.3, aspect_max=1.2)
    view = random_view(*size, config, np.random.default_rng(seed))
    rounding = 1.5 * (view.height + view.width)
    assert view.height * view.width >= 0.3 * size[0] * size[1] / 8  # a frame's own aspect may cut it down
    if view.height < size[0] and view.width < size[1]:
        assert view.height * view.width >= 0.3 * size[0] * size[1] - rounding
        assert abs(np.log(view.width / view.height)) <= np.log(1.2) + 1 / view.height + 1 / view.width


@given(seeds)
def test_corner_crops_are_square_up_to_one_scale_step(seed):
    view = random_view(100, 160, AugmentConfig(crop="corners"), np.random.default_rng(seed))
    sides = [100, 88, 75, 66]
    assert abs(sides.index(view.height) - sides.index(view.width)) <= 1
    assert view.top in (0, 100 - view.height, (100 - view.height) // 2)
    assert view.left in (0, 160 - view.width, (160 - view.width) // 2)


@given(sizes, st.sampled_from(["centre", "full"]))
def test_ten_views_are_the_centre_and_the_corners_and_their_mirror_images(size, part):
    """As TSN's: a crop stands in each corner of the frame, whatever its shape."""
    height, width = size
    views = evaluation_views(height, width, part, 10)
    plain, mirrored = views[:5], views[5:]
    assert [view.flip for view in views] == [False] * 5 + [True] * 5
    assert [(view.top, view.left) for view in mirrored] == [(view.top, view.left) for view in plain]
    assert len({(view.height, view.width) for view in views}) == 1
    centre, *corners = plain
    down, right = height - centre.height, width - centre.width
    assert {(view.top, view.left) for view in corners} == {(0, 0), (0, right), (down, 0), (down, right)}
    assert abs(2 * centre.top - down) <= 1
    assert abs(2 * centre.left - right) <= 1
    whole = evaluation_view(height, width, part)
    assert (centre.height, centre.width) == (whole.height * 7 // 8, whole.width * 7 // 8)
    assert evaluation_views(height, width, part, 1) == [whole]
    assert [view.flip for view in evaluation_views(height, width, part, 2)] == [False, True]


def test_evaluation_views():
    assert evaluation_view(90, 120, "centre") == View(0, 15, 90, 90)
    assert evaluation_view(121, 90, "centre") == View(15, 0, 90, 90)
    assert evaluation_view(90, 120, "full") == View(0, 0, 90, 120)
    none = random_view(90, 120, AugmentConfig(crop="none", flip=0), np.random.default_rng(0))
    assert (none.top, none.left, none.height, none.width) == (0, 15, 90, 90)


def test_flip_probability_is_kept():
    def flips(probability):
        rng = np.random.default_rng(0)
        return sum(random_view(20, 20, AugmentConfig(flip=probability), rng).flip for _ in range(400))

    assert flips(0) == 0
    assert flips(1) == 400
    assert 140 < flips(0.5) < 260


@given(seeds)
def test_two_flips_give_the_flow_back_except_at_the_clipped_end(seed):
    flow = bytes_of(seed, 3, 2, 5, 7)
    twice = flip_flow(flip_flow(flow))
    np.testing.assert_array_equal(twice, np.where((flow == 0) & (np.arange(2) == 0)[:, None, None], 1, flow))


@given(seeds)
def test_a_flip_mirrors_and_negates_u_only(seed):
    flow = np.random.default_rng(seed).uniform(-19, 19, (2, 2, 4, 6)).astype(np.float32)
    flipped = dequantize(flip_flow(quantize(flow)))
    level = 40 / 255  # one grey level in pixels
    np.testing.assert_allclose(flipped[:, 0], -flow[:, 0, :, ::-1], atol=1.01 * level)
    np.testing.assert_allclose(flipped[:, 1], flow[:, 1, :, ::-1], atol=1.01 * level)


@pytest.mark.parametrize("shift", [(3, 0), (0, 2), (-2, 1)])
def test_flow_of_flipped_frames_is_the_flipped_flow(shift):
    """A translating texture: the estimator, not we, says what the flow of the mirrored video is."""
    texture = cv2.GaussianBlur(bytes_of(1, 140, 140), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    dx, dy = shift
    first, second = texture[30:110, 30:110], texture[30 - dy : 110 - dy, 30 - dx : 110 - dx]

    def estimate(a, b):
        return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 5, 5, 1.1, 0).transpose(2, 0, 1)

    flow = estimate(first, second)
    mirrored = estimate(np.ascontiguousarray(first[:, ::-1]), np.ascontiguousarray(second[:, ::-1]))
    flipped = dequantize(flip_flow(quantize(flow)))
    inner = np.s_[:, 20:-20, 20:-20]
    np.testing.assert_allclose(flipped[inner].mean(axis=(1, 2)), mirrored[inner].mean(axis=(1, 2)), atol=0.2)
    np.testing.assert_allclose(flipped[inner].mean(axis=(1, 2)), (-dx, dy), atol=0.3)


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.sampled_from(["random", "corners"]), st.integers(8, 40))
def test_rgb_and_flow_crops_align(frame_size, seed, crop, size):
    """One picture in all channels stays one picture, through crop, resize and the flip's mirroring."""
    grey = bytes_of(seed, 3, *frame_size)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    flow = np.stack([grey, grey], axis=1)
    config = AugmentConfig(crop=crop, flip=0.5, brightness=0, contrast=0, saturation=0)
    view = random_view(*frame_size, config, np.random.default_rng(seed))
    seen, moved = apply_view(view, size, rgb, flow)
    assert seen.shape == (3, 3, size, size)
    assert moved.shape == (3, 2, size, size)
    np.testing.assert_array_equal(seen[:, 0], moved[:, 1])  # v is mirrored, but not negated
    np.testing.assert_array_equal(seen[:, 0], seen[:, 2])


@settings(deadline=None)
@given(sizes, seeds, st.integers(8, 40))
def test_streams_do_not_change_each_other(frame_size, seed, size):
    rgb, flow = bytes_of(seed, 2, *frame_size, 3), bytes_of(seed, 4, 2, *frame_size)
    view = random_view(*frame_size, AugmentConfig(), np.random.default_rng(seed))
    both = apply_view(view, size, rgb, flow)
    only_rgb, no_flow = apply_view(view, size, rgb=rgb)
    no_rgb, only_flow = apply_view(view, size, flow=flow)
    assert no_flow is None
    assert no_rgb is None
    np.testing.assert_array_equal(both[0], only_rgb)
    np.testing.assert_array_equal(both[1], only_flow)


def test_a_view_of_the_right_size_is_cut_exactly():
    rgb, flow = bytes_of(0, 2, 20, 30, 3), bytes_of(1, 2, 2, 20, 30)
    seen, moved = apply_view(View(3, 5, 10, 10), 10, rgb, flow)
    np.testing.assert_array_equal(seen, rgb[:, 3:13, 5:15].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(moved, flow[:, :, 3:13, 5:15])


@pytest.mark.parametrize("side", [9, 31, 100])
def test_constant_images_stay_constant_at_any_scale(side):
    rgb, flow = np.full((2, side, side, 3), 77, np.uint8), np.full((2, 2, side, side), 128, np.uint8)
    seen, moved = apply_view(View(0, 0, side, side, flip=True), 16, rgb, flow)
    assert np.all(seen == 77)
    assert np.all(moved == 128)


def test_strong_shrinking_averages():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    seen, _ = apply_view(
        View(0, 0, 64, 64), 16, np.repeat(checks[None, ..., None], 3, axis=-1).astype(np.uint8)
    )
    assert np.all(np.abs(seen.astype(int) - 127) <= 1)


@given(seeds, st.floats(0.6, 1.4), st.floats(0.6, 1.4), st.floats(0, 1.5))
def test_colour_is_brightness_then_contrast_then_saturation(seed, brightness, contrast, saturation):
    """Against the three operations written out one after the other."""
    rgb = bytes_of(seed, 2, 6, 6, 3) // 4 + 90  # far from the clipped ends
    view = View(0, 0, 6, 6, brightness=brightness, contrast=contrast, saturation=saturation)
    seen, _ = apply_view(view, 6, rgb)
    luma = np.array([0.299, 0.587, 0.114])
    expected = rgb * brightness
    mean = (expected @ luma).mean()
    expected = mean + contrast * (expected - mean)
    grey = (expected @ luma)[..., None]
    expected = np.clip(grey + saturation * (expected - grey), 0, 255)
    np.testing.assert_allclose(seen, expected.transpose(0, 3, 1, 2), atol=1)  # OpenCV works in fixed point


def test_colour_leaves_flow_alone():
    flow = bytes_of(0, 2, 2, 16, 16)
    _, moved = apply_view(View(0, 0, 16, 16, brightness=1.3, contrast=0.8, saturation=0.5), 16, flow=flow)
    np.testing.assert_array_equal(moved, flow)


def test_colour_is_drawn_within_its_strength():
    config = AugmentConfig(brightness=0.1, contrast=0, saturation=0.4)
    rng = np.random.default_rng(0)
    views = [random_view(20, 20, config, rng) for _ in range(200)]
    assert all(view.contrast == 1 for view in views)
    for name, strength in (("brightness", 0.1), ("saturation", 0.4)):
        values = np.array([getattr(view, name) for view in views])
        assert np.all(np.abs(values - 1) <= strength)
        assert np.ptp(values) > strength


def test_plain_training_views_are_not_coloured():
    view = random_view(20, 30, PLAIN, np.random.default_rng(0))
    assert (view.flip, view.brightness, view.contrast, view.saturation) == (False, 1, 1, 1)


def test_a_view_must_be_of_the_fields_that_it_cuts():
    view = evaluation_view(8, 12, "centre")
    with pytest.raises(
        DataError, match=r"fields are of height and width \(8, 9\), but the view is of \(8, 12\)"
    ):
        apply_view(view, 4, bytes_of(0, 1, 8, 8, 3), bytes_of(0, 1, 2, 8, 9))


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.sampled_from(["random", "corners", "none"]), st.integers(2, 4))
def test_of_frames_k_times_as_large_the_same_share_is_cut(frame_size, seed, crop, k):
    """Frames in which each pixel stands k x k times: the crop's pixels are found in the middle of each such square."""
    grey = bytes_of(seed, 2, *frame_size)
    rgb = np.repeat(np.repeat(grey, k, axis=1), k, axis=2)[..., None].repeat(3, axis=-1)
    view = random_view(*frame_size, AugmentConfig(crop=crop), np.random.default_rng(seed))
    view = View(view.top, view.left, view.height, view.width, frame=frame_size)  # no flip, no colour
    size = 2 * max(frame_size) * k  # enlarged, so that no pixel is averaged away
    seen, _ = apply_view(view, size, rgb)
    rows = ((np.arange(view.height) + 0.5) * size / view.height).astype(int)
    columns = ((np.arange(view.width) + 0.5) * size / view.width).astype(int)
    cut = grey[:, view.top : view.top + view.height, view.left : view.left + view.width]
    np.testing.assert_array_equal(seen[:, 0][:, rows][:, :, columns], cut)


@settings(deadline=None)
@given(sizes, sizes, seeds, st.sampled_from(["random", "corners", "none"]), st.integers(8, 40))
def test_frames_of_any_size_are_cut_with_or_without_fields(field_size, rgb_size, seed, crop, size):
    rgb, flow = bytes_of(seed, 2, *rgb_size, 3), bytes_of(seed, 2, 2, *field_size)
    view = random_view(*field_size, AugmentConfig(crop=crop), np.random.default_rng(seed))
    seen, moved = apply_view(view, size, rgb, flow)
    assert seen.shape == (2, 3, size, size)
    np.testing.assert_array_equal(seen, apply_view(view, size, rgb)[0])
    np.testing.assert_array_equal(moved, apply_view(view, size, flow=flow)[1])


@given(sizes, sizes, seeds)
def test_the_cut_share_is_right_to_half_a_pixel(field_size, rgb_size, seed):
    """The crop of a picture that holds its own coordinates tells where it was cut."""
    view = random_view(*field_size, PLAIN, np.random.default_rng(seed))
    rows, columns = np.indices(rgb_size)
    rgb = np.stack([rows, columns, columns], axis=-1).astype(np.uint8)[None]
    top, bottom = (edge * rgb_size[0] / field_size[0] for edge in (view.top, view.top + view.height))
    left, right = (edge * rgb_size[1] / field_size[1] for edge in (view.left, view.left + view.width))
    seen, _ = apply_view(view, 300, rgb)  # enlarged: the first and last pixels stand in the corners
    assert abs(seen[0, 0, 0, 0] - top) <= 1  # an edge of half a pixel, or the one pixel that must be left
    assert abs(seen[0, 1, 0, 0] - left) <= 1
    assert abs(int(seen[0, 0, -1, -1]) + 1 - bottom) <= 1
    assert abs(int(seen[0, 1, -1, -1]) + 1 - right) <= 1


@pytest.mark.parametrize(
    "settings", [{"scale_min": 0}, {"scale_min": 1.1}, {"aspect_max": 0.9}, {"flip": 1.2}, {"contrast": -0.1}]
)
def test_unusable_augmentation_is_refused(settings):
    with pytest.raises(DataError, match=next(iter(settings))):
        AugmentConfig(**settings)


# --- flow of a view of the video, and a view of its flow -----------------------------------------------------------


def moving(seed, shape=(120, 160)):
    """Two grey frames of a smooth texture that turns, grows and shifts a little, by at most about two pixels."""
    rng = np.random.default_rng(seed)
    height, width = shape
    texture = cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.float32), (0, 0), 2.5)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-0.6, 0.6), rng.uniform(0.99, 1.01))
    turn[:, 2] += rng.uniform(-1, 1, 2)
    second = cv2.warpAffine(texture, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.stack([texture, second]).round().astype(np.uint8)


def fields_of(method, frames):
    """The quantised flow of grey frames, as a cache file holds it."""
    return quantize(get_method(method)(np.ascontiguousarray(frames)))


# Two ways to the same motion differ in their last bits, as sums run in another order, and where these decide on the
# rounding by one level, 40 / 255 = 0.157 px. A crop, moreover, ends what smoothing and the levels of the pyramid see:
# 16 pixels inside its border little of that is left; one pixel in a hundred may still be further apart.
ONE_LEVEL = 1
INSIDE = np.s_[:, :, 16:-16, 16:-16]


def difference(one, other):
    """Levels that all but one pixel in a hundred keep to."""
    return np.percentile(np.abs(one.astype(int) - other.astype(int))[INSIDE], 99)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**16), st.sampled_from(["farneback", "tvl1"]))
def test_the_flow_of_a_mirrored_video_is_the_mirrored_flow(seed, method):
    frames = moving(seed)
    mirror = View(0, 0, 120, 160, flip=True)
    rgb = frames[..., None].repeat(3, axis=-1)
    seen, moved = apply_view(mirror, (160, 120), rgb, fields_of(method, frames))
    assert difference(fields_of(method, seen[:, 0]), moved) <= ONE_LEVEL


def test_a_mirror_without_a_change_of_sign_would_be_far_off():
    flow = fields_of("farneback", moving(0))
    assert difference(flip_flow(flow), flow[..., ::-1]) > 4 * ONE_LEVEL


@settings(deadline=None, max_examples=8)
@given(
    st.integers(0, 2**16),
    st.sampled_from(["farneback", "tvl1"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_flow_of_a_crop_of_the_video_is_the_crop_of_the_flow(seed, method, down, right, flip):
    """Cut on the pixel grid: the crop begins at whole pixels, and is not resized."""
    frames = moving(seed)
    view = View(8 * down, 16 * right, 96, 112, flip=flip)
    rgb = frames[..., None].repeat(3, axis=-1)
    seen, moved = apply_view(view, (112, 96), rgb, fields_of(method, frames))
    assert difference(fields_of(method, seen[:, 0]), moved) <= ONE_LEVEL
