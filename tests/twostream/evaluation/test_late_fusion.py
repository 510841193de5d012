"""Simple fusions of two streams: against hand-computed values, scikit-learn and torch, and what must always hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from twostream.evaluation.late_fusion import (
    WeightedFusion,
    fit_exponents,
    fit_weighted,
    mean_rule,
    product_rule,
)
from twostream.evaluation.metrics import negative_log_likelihood


def stream(seed, labels, classes, skill, sharpness=1.0):
    """Probabilities that know as much of the labels as `skill`, and are surer of themselves with `sharpness`."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    values = np.exp(sharpness * logits)
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def two_streams(seed, rows=150, classes=6, skills=(2.0, 1.5), sharpness=(1.0, 1.0)):
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    rgb, flow = (stream((seed, k), labels, classes, skills[k], sharpness[k]) for k in range(2))
    return labels, rgb, flow


def log_odds(probabilities):
    """Log odds of class 1 of two classes."""
    values = np.log(probabilities.astype(np.float64))
    return values[:, 1] - values[:, 0]


seeds = st.integers(0, 10_000)
few_examples = settings(max_examples=30, deadline=None)


# product and mean


def test_hand_computed_values():
    rgb, flow = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.6, 0.3]])
    assert product_rule(rgb, flow) == pytest.approx(np.array([[0.05, 0.18, 0.06]]) / 0.29)
    assert mean_rule(rgb, flow) == pytest.approx(np.array([[0.3, 0.45, 0.25]]))
    weighted = WeightedFusion(
        rgb_temperature=2,
        flow_temperature=0.5,
        rgb_exponent=1,
        flow_exponent=0.5,
        rgb_weight=0.3,
        num_videos=9,
    )
    expected = rgb**0.5 * flow  # the powers are 1 / 2 and 0.5 / 0.5
    assert weighted(rgb, flow) == pytest.approx(expected / expected.sum())
    assert weighted.flow_weight == pytest.approx(0.7)


@given(seeds, st.integers(2, 30))
@few_examples
def test_rules_give_probabilities_and_are_symmetric(seed, classes):
    _, rgb, flow = two_streams(seed, rows=40, classes=classes, sharpness=(8.0, 1.0))
    for rule in (product_rule, mean_rule):
        found = rule(rgb, flow)
        assert found.dtype == np.float32
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(found, rule(flow, rgb))
    direct = rgb.astype(np.float64) * flow
    np.testing.assert_allclose(
        product_rule(rgb, flow), direct / direct.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-30
    )


@given(seeds)
@few_examples
def test_equal_streams_decide_as_one(seed):
    _, rgb, _ = two_streams(seed)
    for rule in (product_rule, mean_rule):
        np.testing.assert_array_equal(rule(rgb, rgb).argmax(axis=1), rgb.argmax(axis=1))
    np.testing.assert_array_equal(mean_rule(rgb, rgb), rgb)


@given(seeds)
@few_examples
def test_a_stream_that_says_nothing_changes_no_product(seed):
    _, rgb, _ = two_streams(seed)
    np.testing.assert_allclose(product_rule(rgb, np.full_like(rgb, 1 / 6)), rgb, rtol=1e-5)


def test_zeros_stay_finite():
    certain = np.array([[1, 0, 0], [1, 0, 0]], dtype=np.float32)
    other = np.array([[0, 1, 0], [0.9, 0.1, 0]], dtype=np.float32)
    found = product_rule(certain, other)
    assert found[0] == pytest.approx([0.5, 0.5, 0])  # each rules the other's class out
    assert found[1] == pytest.approx([1, 0, 0])
    fitted = fit_weighted(np.array([0, 0]), certain, other)
    assert np.isfinite(fitted(certain, other)).all()


# the fit


@pytest.mark.parametrize("sharpness", [(1.0, 1.0), (4.0, 1.0), (1.0, 0.3)])
def test_exponents_agree_with_scikit_learns_logistic_regression(sharpness):
    """With two classes they are the coefficients of the streams' log odds."""
    labels, rgb, flow = two_streams(3, rows=400, classes=2, skills=(1.0, 0.7), sharpness=sharpness)
    odds = np.stack([log_odds(rgb), log_odds(flow)], axis=1)
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000).fit(odds, labels)
    assert fit_exponents(labels, [rgb, flow]) == pytest.approx(reference.coef_[0], rel=0.01)
    fitted = fit_weighted(labels, rgb, flow)
    expected = reference.predict_proba(odds)
    assert fitted(rgb, flow) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("sharpness", "seed"), [(0.5, 1), (1.0, 2), (3.0, 3)])
def test_temperature_is_the_one_that_gradient_descent_finds(sharpness, seed):
    labels, rgb, _ = two_streams(seed, rows=300, sharpness=(sharpness, 1.0))
    logits, target = torch.from_numpy(np.log(rgb.astype(np.float64))), torch.from_numpy(labels)
    exponent = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(exponent * logits, target)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit_exponents(labels, [rgb])[0] == pytest.approx(exponent.item(), rel=0.01)
    assert fit_weighted(labels, rgb, rgb).rgb_temperature == pytest.approx(1 / exponent.item(), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_exponents_have_a_lower_cross_entropy(seed):
    labels, rgb, flow = two_streams(seed, skills=(2.0, 0.7), sharpness=(3.0, 1.0))
    fitted = fit_weighted(labels, rgb, flow)
    least = negative_log_likelihood(labels, fitted(rgb, flow))
    for a in np.linspace(0, 2, 21):
        for b in np.linspace(0, 2, 21):
            values = rgb.astype(np.float64) ** a * flow.astype(np.float64) ** b
            other = negative_log_likelihood(labels, values / values.sum(axis=1, keepdims=True))
            assert least <= other + 1e-4
    for baseline in (product_rule(rgb, flow), rgb, flow):
        assert least <= negative_log_likelihood(labels, baseline) + 1e-4


@given(seeds)
@few_examples
def test_order_does_not_matter(seed):
    labels, rgb, flow = two_streams(seed, sharpness=(3.0, 1.0))
    fitted = fit_weighted(labels, rgb, flow)
    generator = np.random.default_rng(seed)
    rows, classes = generator.permutation(len(labels)), generator.permutation(6)
    renamed = np.argsort(classes)[labels]
    shuffled = fit_weighted(renamed[rows], rgb[rows][:, classes], flow[rows][:, classes])
    for name in ("rgb_temperature", "flow_temperature", "rgb_exponent", "flow_exponent", "rgb_weight"):
        assert getattr(shuffled, name) == pytest.approx(getattr(fitted, name), rel=1e-3, abs=1e-3), name
    swapped = fit_weighted(labels, flow, rgb)
    assert swapped.rgb_temperature == pytest.approx(fitted.flow_temperature, rel=1e-3)
    assert swapped.rgb_exponent == pytest.approx(fitted.flow_exponent, rel=1e-3, abs=1e-3)
    assert swapped.rgb_weight == pytest.approx(fitted.flow_weight, abs=1e-3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_a_useless_stream_gets_next_to_no_weight(seed, sharpness):
    labels, rgb, flow = two_streams(seed, rows=300, skills=(2.0, 0.0), sharpness=(1.0, sharpness))
    fitted = fit_weighted(labels, rgb, flow)
    assert fitted.flow_weight < 0.1
    agreed = fitted(rgb, flow).argmax(axis=1) == rgb.argmax(axis=1)
    assert agreed.mean() > 0.95
    flat = fit_weighted(labels, rgb, np.full_like(flow, 1 / 6))
    assert flat.flow_weight == pytest.approx(0, abs=1e-6)


@given(seeds)
@few_examples
def test_weight_goes_to_the_stream_that_knows_more_however_sure_the_other_is(seed):
    labels, rgb, flow = two_streams(seed, rows=400, skills=(3.0, 1.0), sharpness=(1.0, 5.0))
    fitted = fit_weighted(labels, rgb, flow)
    assert fitted.rgb_weight > 0.6
    assert fitted.rgb_weight + fitted.flow_weight == pytest.approx(1)
    assert fitted.flow_temperature > fitted.rgb_temperature


@given(seeds, st.floats(0.3, 3))
@few_examples
def test_a_stream_made_surer_of_itself_is_fused_as_before(seed, sharpness):
    labels, rgb, flow = two_streams(seed, rows=300)
    sharper = rgb.astype(np.float64) ** sharpness
    sharper = (sharper / sharper.sum(axis=1, keepdims=True)).astype(np.float32)
    before, after = fit_weighted(labels, rgb, flow), fit_weighted(labels, sharper, flow)
    assert after.rgb_temperature == pytest.approx(sharpness * before.rgb_temperature, rel=0.02)
    assert after.rgb_weight == pytest.approx(before.rgb_weight, abs=0.01)
    np.testing.assert_allclose(after(sharper, flow), before(rgb, flow), atol=0.01)


def test_equal_streams_share_the_weight():
    labels, rgb, _ = two_streams(0)
    fitted = fit_weighted(labels, rgb, rgb)
    assert fitted.rgb_weight == pytest.approx(0.5, abs=1e-3)
    assert fitted.rgb_exponent == pytest.approx(fitted.flow_exponent, abs=1e-3)
    assert fitted.rgb_exponent == pytest.approx(0.5, abs=0.01)  # the second tells nothing new


def test_two_flat_streams_decide_nothing():
    flat = np.full((4, 2), 0.5, dtype=np.float32)
    fitted = fit_weighted(np.array([0, 1, 0, 0]), flat, flat)
    assert (fitted.rgb_weight, fitted.flow_weight) == (0.5, 0.5)
    assert fitted(flat, flat) == pytest.approx(flat)


def test_streams_that_are_always_right_or_always_wrong_stay_finite():
    labels = np.array([0, 1, 2, 0])
    right = np.full((4, 3), 0.1, dtype=np.float32)
    right[np.arange(4), labels] = 0.8
    wrong = np.roll(right, 1, axis=1)
    fitted = fit_weighted(labels, right, wrong)
    assert all(np.isfinite(value) for value in vars(fitted).values())
    assert (fitted(right, wrong).argmax(axis=1) == labels).all()
    assert fitted.flow_weight < 0.05
    one = fit_weighted(labels[:1], right[:1], wrong[:1])
    assert np.isfinite(one(right, wrong)).all()
