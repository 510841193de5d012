"""DIS is OpenCV's, and works on frames of any shape, which OpenCV's does not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.errors import ArgumentError
from flow_cache.methods.registry import get_method, preset_names

OPENCVS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@pytest.mark.parametrize("preset", OPENCVS)
@pytest.mark.parametrize(("height", "width"), [(240, 320), (240, 426), (120, 160), (96, 96), (288, 352)])
def test_presets_are_opencvs(stack, preset: str, height: int, width: int) -> None:
    frames = stack(2, height, width, 2.5, -1.0)
    own = cv2.DISOpticalFlow_create(OPENCVS[preset]).calc(frames[0], frames[1], None)
    ours = get_method("dis", preset=preset)(frames)[0]
    np.testing.assert_array_equal(ours, np.moveaxis(own, -1, 0))


def test_there_is_a_preset_for_each_of_opencvs() -> None:
    assert set(preset_names("dis")) == set(OPENCVS)
    assert preset_names("dis")[0] == "fast"


@pytest.mark.parametrize("preset", OPENCVS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 200), (300, 9), (20, 400), (12, 40), (16, 640)])
def test_small_and_narrow_frames_work(stack, preset: str, height: int, width: int) -> None:
    """On most of these OpenCV's function ends the process or raises."""
    flow = get_method("dis", preset=preset)(stack(2, height, width, 0.5, 0.25))
    assert flow.shape == (1, 2, height, width)
    assert np.isfinite(flow).all()
    assert np.abs(flow).max() < max(height, width)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"finest_scale": 11}, "finest_scale must be from 0 to 10, got 11"),
        ({"patch_stride": 9}, "patch_stride must be from 1 to 8, got 9"),
        ({"gradient_descent_iterations": 0}, "gradient_descent_iterations must be at least 1"),
        ({"refinement_iterations": -1}, "refinement_iterations must be at least 0"),
        ({"refinement_alpha": -1.0}, "refinement_alpha must be at least 0"),
        ({"preset": "slow"}, "unknown preset 'slow'; choose one of fast, ultrafast, medium"),
    ],
)
def test_unusable_parameters_are_named(parameter: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match="method dis: ") as caught:
        get_method("dis", **parameter)
    assert message in str(caught.value)


@pytest.mark.real_data
def test_error_on_a_real_pair(rubber_whale, real_data: Path) -> None:
    content = np.fromfile(real_data / "flow" / "RubberWhale" / "flow10.flo", np.float32, offset=12)
    truth = np.moveaxis(content.reshape(*rubber_whale.shape[1:], 2), -1, 0)
    known = np.abs(truth).max(axis=0) < 1e9
    errors = {}
    for preset in OPENCVS:
        flow = get_method("dis", preset=preset)(rubber_whale)[0]
        errors[preset] = np.hypot(*(flow - truth))[known].mean()
    assert errors["medium"] < 0.25 < errors["fast"] < 0.5 < errors["ultrafast"] < 0.6
