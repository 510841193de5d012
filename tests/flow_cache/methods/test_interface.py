import cv2
import numpy as np
import pytest

from flow_cache.errors import ArgumentError
from flow_cache.methods.registry import get_method, method_names, preset_names

METHODS = ["tvl1", "farneback", "dis"]
QUICK = {"tvl1": {"warps": 3, "outer_iterations": 3}, "farneback": {}, "dis": {}}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("dx", "dy"), [(1.0, 0.0), (0.0, -2.0), (-1.5, 2.25)])
def test_translation_is_recovered(stack, name: str, dx: float, dy: float) -> None:
    frames = stack(3, 64, 80, dx, dy)
    flow = get_method(name)(frames)
    assert flow.shape == (2, 2, 64, 80)
    assert flow.dtype == np.float32
    inner = flow[:, :, 12:-12, 12:-12]
    assert np.abs(inner[:, 0] - dx).mean() < 0.1
    assert np.abs(inner[:, 1] - dy).mean() < 0.1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flow_of_a_flipped_video_is_the_flipped_flow(stack, name: str, axis: str) -> None:
    frames = stack(2, 64, 64, 1.25, -0.75)
    method = get_method(name)
    along = -1 if axis == "horizontal" else -2
    flipped = np.flip(method(frames), along).copy()
    flipped[:, 0 if axis == "horizontal" else 1] *= -1
    assert np.abs(method(np.flip(frames, along)) - flipped).mean() < 0.05


@pytest.mark.parametrize("name", METHODS)
def test_no_motion_gives_zero(stack, name: str) -> None:
    still = np.repeat(stack(1, 32, 40, 0, 0), 3, axis=0)
    flow = get_method(name)(still)
    assert np.abs(flow).max() < 0.1  # Farneback treats the border as if it moved a little
    assert np.abs(flow[..., 8:-8, 8:-8]).max() < 0.01


@pytest.mark.parametrize("name", METHODS)
def test_step_pairs_and_stacks_agree(stack, name: str) -> None:
    frames = stack(5, 32, 40, 0.5, 0.25)
    method = get_method(name, **QUICK[name])
    flow = method(frames, step=2)
    assert flow.shape == (3, 2, 32, 40)
    assert np.array_equal(flow, method.pairs(frames[:-2], frames[2:]))
    assert np.array_equal(flow[1:2], method(frames[[1, 3]]))


@pytest.mark.parametrize("name", METHODS)
def test_threads_and_batches_change_nothing(stack, name: str) -> None:
    frames = stack(6, 40, 48, 0.4, 0.2)
    alone = get_method(name, **QUICK[name])(frames)
    assert np.array_equal(get_method(name, threads=3, **QUICK[name])(frames), alone)
    everyone = get_method(name, threads=0, **QUICK[name])
    assert np.array_equal(everyone.pairs(frames[:-1], frames[1:]), alone)
    assert np.array_equal(everyone(frames[2:4]), alone[2:3])


@pytest.mark.parametrize("name", METHODS)
def test_strided_views_give_what_copies_give(stack, name: str) -> None:
    frames = stack(4, 48, 60, 0.5, 0.25)
    view = frames[::2, ::-1, ::2]
    method = get_method(name, **QUICK[name])
    assert np.array_equal(method(view), method(view.copy()))


def test_tvl1_keeps_nothing_between_calls(stack) -> None:
    large = stack(2, 96, 128, 3.0, 0.0)
    method = get_method("tvl1", **QUICK["tvl1"])
    before = method(large)
    method(stack(2, 16, 16, 0.5, 0.0))  # would shorten the pyramid of an OpenCV object that is kept
    assert np.array_equal(method(large), before)


def test_presets_are_opencvs(stack) -> None:
    frames = stack(2, 40, 48, 1.0, 0.5)
    own = cv2.optflow.DualTVL1OpticalFlow_create().calc(frames[0], frames[1], None)
    ours = get_method("tvl1", preset="opencv")(frames)[0]
    assert np.median(np.abs(ours - np.moveaxis(own, -1, 0))) < 0.01
    for preset, values in (("default", (0.5, 5, 13, 10, 5, 1.1)), ("opencv", (0.5, 3, 15, 3, 5, 1.2))):
        own = cv2.calcOpticalFlowFarneback(frames[0], frames[1], None, *values, 0)
        assert np.array_equal(get_method("farneback", preset=preset)(frames)[0], np.moveaxis(own, -1, 0))


def test_names_and_presets() -> None:
    assert method_names() == (*METHODS, "raft")
    assert preset_names("farneback") == ("default", "opencv")
    assert get_method("farneback").parameters == get_method("farneback", preset="default").parameters
    changed = get_method("farneback", preset="opencv", winsize=21).parameters
    assert (changed.winsize, changed.poly_sigma) == (21, 1.2)
    assert get_method("tvl1", tau=np.float32(0.125)).parameters.as_dict()["tau"] == 0.125


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "raft-9"}, "unknown method 'raft-9'; choose one of tvl1, farneback, dis, raft"),
        (
            {"name": "tvl1", "device": "gpu"},
            "device must be cpu, cuda, cuda:N (N = 0, 1, ...) or auto, got 'gpu'",
        ),
        ({"name": "tvl1", "preset": "default"}, "unknown preset 'default'; choose one of opencv"),
        ({"name": "tvl1", "lambda": 1}, "unknown parameter 'lambda'; choose among preset, tau, lambda_"),
        ({"name": "tvl1", "tau": 0.5}, "tau must be above 0 and at most 0.25, got 0.5"),
        ({"name": "tvl1", "nscales": 2.5}, "nscales must be a whole number, got 2.5"),
        ({"name": "tvl1", "warps": True}, "warps must be a whole number, got True"),
        ({"name": "tvl1", "epsilon": float("nan")}, "epsilon must be a number, got nan"),
        ({"name": "tvl1", "median_filtering": 7}, "median_filtering must be 1, 3 or 5"),
        ({"name": "farneback", "poly_n": 6}, "poly_n must be odd"),
        ({"name": "farneback", "pyr_scale": 1.0}, "pyr_scale must be between 0 and 1"),
        ({"name": "farneback", "winsize": "13"}, "winsize must be a whole number, got '13'"),
    ],
)
def test_unusable_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        get_method(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FRAMES = np.zeros((3, 16, 16), np.uint8)


@pytest.mark.parametrize(
    ("frames", "step", "message"),
    [
        (FRAMES.astype(np.float64), 1, "dtype float64"),
        (np.full((2, 16, 16), np.nan, np.float32), 1, "frame 0 has a NaN"),
        (np.full((2, 16, 16), 256, np.float32), 1, "frame 0 has values from 256.0 to 256.0"),
        (np.full((2, 16, 16), 0.5, np.float32), 1, "multiply them by 255"),
        (FRAMES[0], 1, r"stack \(T, H, W\)"),
        (FRAMES[..., None], 1, r"shape \(3, 16, 16, 1\)"),
        (FRAMES.tolist(), 1, "got list"),
        (FRAMES[:1], 1, "at least 2 frames, got 1"),
        (FRAMES[:0], 1, "at least 2 frames, got 0"),
        (FRAMES, 3, "step 3 needs at least 4 frames, got 3"),
        (FRAMES, 0, "step must be a whole number of at least 1, got 0"),
        (FRAMES, 1.0, "step must be a whole number"),
        (FRAMES[:, :1, :1], 1, "at least 8x8 pixels, got 1x1"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_unusable_frames_are_refused(name: str, frames, step, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        get_method(name)(frames, step)


@pytest.mark.parametrize("name", METHODS)
def test_pairs_that_differ_are_refused(name: str) -> None:
    method = get_method(name)
    with pytest.raises(ArgumentError, match=r"one shape, got \(3, 16, 16\) and \(2, 16, 16\)"):
        method.pairs(FRAMES, FRAMES[:2])
    with pytest.raises(ArgumentError, match="one shape"):
        method.pairs(FRAMES, FRAMES[:, :, :-1])
    with pytest.raises(ArgumentError, match="one dtype, got uint8 and float32"):
        method.pairs(FRAMES, FRAMES.astype(np.float32))


@pytest.mark.parametrize("name", METHODS)
def test_float_levels_equal_whole_ones(stack, name: str) -> None:
    frames = stack(3, 32, 40, 0.5, 0.25)
    method = get_method(name, **QUICK[name])
    assert np.array_equal(method(frames.astype(np.float32)), method(frames))


@pytest.mark.parametrize("name", METHODS)
def test_small_odd_frames_work(stack, name: str) -> None:
    flow = get_method(name)(stack(2, 15, 17, 0.5, 0.0))
    assert flow.shape == (1, 2, 15, 17)
    assert np.isfinite(flow).all()
