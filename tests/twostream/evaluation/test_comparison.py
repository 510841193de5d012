"""Paired tests against scipy, statistics worked out by hand, and a plain bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from twostream.evaluation import metrics
from twostream.evaluation.comparison import compare_pair, holm, mcnemar


def case(seed=0, rows=90, classes=5, groups=12):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    answers = [
        np.where(generator.random(rows) < share, labels, generator.integers(0, classes, rows))
        for share in (0.7, 0.5)
    ]
    return labels, *answers, [f"film{number:02d}" for number in generator.integers(0, groups, rows)]


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(6, 0) == pytest.approx(2 * 0.5**6)
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * (1 + 9) * 0.5**9)


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=50, deadline=None)
def test_holm_keeps_the_order_and_never_lowers(values):
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)
    if values:
        assert min(adjusted) == pytest.approx(min(1, len(values) * min(values)))


def test_the_draws_are_those_of_whole_groups():
    """Every draw, scored by scikit-learn on the rows that it holds."""
    labels, answers, _, groups = case()
    draws = metrics.bootstrap_scores(labels, answers, groups, draws=30, seed=3)
    names = sorted(set(groups))
    counts = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=30)
    for index, count in enumerate(counts):
        rows = np.concatenate(
            [
                np.tile(np.flatnonzero(np.array(groups) == name), times)
                for name, times in zip(names, count, strict=True)
            ]
        )
        label, answer = labels[rows], answers[rows]
        present = np.unique(label)
        assert draws.top1[index] == pytest.approx(sk.accuracy_score(label, answer))
        recall = sk.recall_score(label, answer, labels=present, average="macro", zero_division=0)
        assert draws.mean_class_accuracy[index] == pytest.approx(recall)
        f1 = sk.f1_score(label, answer, labels=present, average="macro", zero_division=0)
        assert draws.f1_macro[index] == pytest.approx(f1)


def test_intervals_of_top1_are_those_of_every_report():
    labels, answers, _, groups = case()
    draws = metrics.bootstrap_scores(labels, answers, groups)
    expected = metrics.bootstrap_mean((labels == answers).astype(float), groups)
    found = metrics.percentile_interval(draws.top1)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_pair_is_counted_and_mirrors():
    labels, first, second, groups = case()
    found, mirrored = compare_pair(labels, first, second, groups), compare_pair(labels, second, first, groups)
    right, too = first == labels, second == labels
    assert (found.both, found.neither) == ((right & too).sum(), (~right & ~too).sum())
    assert found.both + found.only_first + found.only_second + found.neither == found.num_videos == 90
    expected = stats.binomtest(found.only_first, found.only_first + found.only_second).pvalue
    assert found.p_value == pytest.approx(expected)
    for name in ("top1", "mean_class_accuracy", "f1_macro"):
        there, back = getattr(found, name), getattr(mirrored, name)
        assert there.value == pytest.approx(-back.value)
        assert there.interval.low == pytest.approx(-back.interval.high)
        assert there.interval.low <= there.value <= there.interval.high
    assert found.top1.value == pytest.approx((found.only_first - found.only_second) / 90)


def test_a_model_does_not_differ_from_itself():
    labels, first, _, groups = case()
    found = compare_pair(labels, first, first, groups)
    assert found.p_value == 1
    assert (found.f1_macro.value, found.f1_macro.interval.low, found.f1_macro.interval.high) == (0, 0, 0)


def test_one_group_gives_no_interval():
    labels, first, second, _ = case()
    found = compare_pair(labels, first, second, ["one"] * 90)
    assert np.isnan(found.top1.interval.low)
    assert np.isnan(metrics.score_intervals(labels, first, ["one"] * 90)["f1_macro"].low)


def test_all_right_is_no_certainty():
    labels, _, _, groups = case()
    found = metrics.score_intervals(labels, labels, groups)
    assert found["top1"].low < 1
    assert np.isnan(found["mean_class_accuracy"].low)


def test_label_ranks_agree_with_top5():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(9), 50).astype(np.float32)
    labels = generator.integers(0, 9, 50)
    ranks = metrics.label_ranks(labels, probabilities)
    for row, label, rank in zip(probabilities, labels, ranks, strict=True):
        assert rank == 1 + (row > row[label]).sum()
    assert metrics.top5(labels, probabilities) == sk.top_k_accuracy_score(
        labels, probabilities, k=5, labels=range(9)
    )
    assert list(metrics.label_ranks(np.array([0, 1]), np.full((2, 2), 0.5))) == [1, 2]
