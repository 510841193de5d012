import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flow_cache.errors import ArgumentError
from flow_cache.quantization import clip_fraction, dequantize, negate, quantize

BOUNDS = st.floats(0.5, 200.0)
FLOWS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=st.floats(-300, 300, width=32)
)
LEVELS = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=6))


@settings(max_examples=60, deadline=None)
@given(FLOWS, BOUNDS)
def test_quantize_is_the_documented_formula(flow: np.ndarray, bound: float) -> None:
    exact = 255.0 * flow.astype(np.float64) / (2.0 * bound)
    expected = np.clip(np.rint(exact) + 128, 0, 255)
    got = quantize(flow, bound)
    assert got.dtype == np.uint8
    assert got.shape == flow.shape
    # float32 arithmetic may fall to the other side of a tie, nowhere else.
    tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-3
    assert np.array_equal(got[~tie], expected[~tie])
    assert np.all(np.abs(got.astype(int) - expected) <= 1)


@settings(max_examples=60, deadline=None)
@given(FLOWS, BOUNDS)
def test_dequantize_is_within_half_a_level_inside_the_bound(flow: np.ndarray, bound: float) -> None:
    level = 2 * bound / 255
    error = dequantize(quantize(flow, bound), bound) - np.clip(flow, -bound, bound)
    assert np.all(np.abs(error) <= 0.501 * level)


def test_quantisation_has_no_bias() -> None:
    flow = np.random.default_rng(0).uniform(-19, 19, 200_000).astype(np.float32)
    error = dequantize(quantize(flow, 20.0), 20.0) - flow
    level = 40 / 255
    assert abs(error.mean()) < 0.01 * level  # the standard error of the mean is 0.0006 levels


@settings(max_examples=60, deadline=None)
@given(FLOWS, BOUNDS)
def test_negated_levels_are_the_levels_of_negated_flow(flow: np.ndarray, bound: float) -> None:
    inside = np.clip(flow, -0.99 * bound, 0.99 * bound)
    assert np.array_equal(quantize(-inside, bound), negate(quantize(inside, bound)))


@settings(max_examples=60, deadline=None)
@given(BOUNDS)
def test_no_motion_is_128_and_comes_back_as_zero(bound: float) -> None:
    still = np.zeros((2, 3), np.float32)
    assert np.all(quantize(still, bound) == 128)
    assert np.all(dequantize(quantize(still, bound), bound) == 0)


@settings(max_examples=60, deadline=None)
@given(LEVELS, BOUNDS)
def test_levels_survive_a_round_trip(q: np.ndarray, bound: float) -> None:
    assert np.array_equal(quantize(dequantize(q, bound), bound), q)


@settings(max_examples=60, deadline=None)
@given(LEVELS)
def test_negate_is_involutive_except_at_the_clipped_end(q: np.ndarray) -> None:
    expected = np.where(q == 0, 1, q)  # -128 has no opposite; it becomes +127, whose opposite is 1
    assert np.array_equal(negate(negate(q)), expected)


@settings(max_examples=60, deadline=None)
@given(LEVELS, BOUNDS)
def test_negate_negates_flow(q: np.ndarray, bound: float) -> None:
    error = dequantize(negate(q), bound) + dequantize(q, bound)
    assert np.all(np.abs(error[q > 0]) < 1e-4 * bound)


def test_clip_fraction_counts_values_beyond_the_bound() -> None:
    flow = np.array([-21.0, -20.0, 0.0, 20.0, 20.5, np.inf, -np.inf, 1.0], np.float32)
    assert clip_fraction(flow, 20.0) == 4 / 8
    assert clip_fraction(np.zeros((0, 2), np.float32), 20.0) == 0.0
    assert list(quantize(flow, 20.0)[[0, 5, 6]]) == [0, 255, 0]


def test_large_and_strided_arrays_are_quantised_like_small_ones() -> None:
    flow = np.random.default_rng(0).normal(scale=15, size=(3, 2, 150, 260)).astype(np.float32)
    one_by_one = np.stack([quantize(field[:1])[0] for pair in flow for field in pair[:, None]])
    assert np.array_equal(quantize(flow).reshape(one_by_one.shape), one_by_one)
    assert np.array_equal(quantize(flow[..., ::-2]), quantize(flow)[..., ::-2])
    assert np.array_equal(quantize(flow.astype(np.float64)), quantize(flow))


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), True, "20", 1e9])
def test_bad_bound_is_refused(bound: object) -> None:
    with pytest.raises(ArgumentError, match="bound"):
        quantize(np.zeros((1, 2, 3, 3), np.float32), bound)  # type: ignore[arg-type]


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ArgumentError, match="float"):
        quantize(np.zeros(3, np.uint8))
    with pytest.raises(ArgumentError, match="float"):
        clip_fraction([1.0])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="NaN"):
        quantize(np.array([0, np.nan], np.float32))
    with pytest.raises(ArgumentError, match="uint8"):
        dequantize(np.zeros(3, np.float32), 20.0)
    with pytest.raises(ArgumentError, match="uint8"):
        negate([1, 2])  # type: ignore[arg-type]
