import numpy as np
import pytest

from flow_cache.commands.colours import colour_wheel, flow_colours, wheel_picture
from flow_cache.errors import ArgumentError


def colour(u: float, v: float, max_motion: float = 1.0) -> tuple[int, ...]:
    field = np.array([u, v], np.float32).reshape(2, 1, 1)
    return tuple(flow_colours(field, max_motion)[0, 0].tolist())


def test_known_directions() -> None:
    assert colour(0, 0) == (255, 255, 255)
    assert colour(1, 0) == (255, 0, 0)  # rightwards: red
    assert colour(1, -0.0) == (255, 0, 0)
    red, green, blue = colour(0, 1)  # downwards: yellow
    assert (red, blue) == (255, 0)
    assert 220 < green < 240
    red, green, blue = colour(-1, 0)  # leftwards: between cyan and blue
    assert (red, blue) == (0, 255)
    assert 200 < green < 215
    red, green, blue = colour(0, -1)  # upwards: between blue and magenta
    assert (green, blue) == (0, 255)
    assert 80 < red < 95


def test_the_wheel_has_the_published_stretches() -> None:
    wheel = colour_wheel()
    assert wheel.shape == (55, 3)
    starts = wheel[[0, 15, 21, 25, 36, 49]]
    assert np.array_equal(starts, [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
    assert ((wheel == 0) | (wheel == 1)).sum(axis=1).min() == 2  # two of three channels stand still


def test_agrees_with_torchvision() -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("torchvision.utils")
    flow = np.random.default_rng(0).normal(size=(3, 2, 20, 30)).astype(np.float32)
    expected = utils.flow_to_image(torch.from_numpy(flow)).permute(0, 2, 3, 1).numpy()
    longest = float(np.hypot(flow[:, 0], flow[:, 1]).max())
    difference = np.abs(flow_colours(flow, longest * (1 + 1e-6)).astype(int) - expected)
    assert difference.max() <= 1


def test_length_goes_from_white_to_the_hue_and_is_darker_beyond() -> None:
    assert colour(0.5, 0) == (255, 127, 127)
    assert colour(2, 0) == (191, 0, 0)
    assert colour(3, 4, max_motion=10) == colour(0.3, 0.4)


def test_turning_all_motion_turns_the_hue_only() -> None:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    field = np.stack([np.cos(angles), np.sin(angles)]).reshape(2, 1, 40) * 0.999
    colours = flow_colours(field, 1.0)[0]
    assert len({tuple(c) for c in colours.tolist()}) == 40
    assert (colours.max(axis=1) >= 254).all()
    assert (colours.min(axis=1) <= 1).all()


def test_unknown_flow_is_black() -> None:
    for value in (np.nan, 1.6666667e9, np.inf, -np.inf):
        assert colour(value, 0) == (0, 0, 0)
        assert colour(0, value) == (0, 0, 0)


def test_legend() -> None:
    picture = wheel_picture(41)
    assert picture.shape == (41, 41, 3)
    assert picture[20, 20].tolist() == [255, 255, 255]
    assert picture[20, 40].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    "flow", [np.zeros((3, 4, 4), np.float32), np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4))]
)
def test_other_layouts_are_refused(flow: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match="flow must be"):
        flow_colours(flow, 1.0)


@pytest.mark.parametrize("max_motion", [0, -1, float("nan"), float("inf")])
def test_max_motion_must_be_positive(max_motion: float) -> None:
    with pytest.raises(ArgumentError, match="max_motion"):
        flow_colours(np.zeros((2, 4, 4), np.float32), max_motion)
