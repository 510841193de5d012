"""Figures against scikit-learn, torchmetrics and cases worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from twostream.evaluation import confusions, metrics


def random_case(seed, rows=200, classes=7, skill=1.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += skill
    values = np.exp(logits)
    return labels, (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


few_examples = settings(max_examples=40, deadline=None)

label_pairs = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60
        ),
    )
)


def split(pairs):
    array = np.array(pairs)
    return array[:, 0], array[:, 1]


# figures of one output


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics(seed):
    labels, probabilities = random_case(seed)
    target, scores = torch.from_numpy(labels), torch.from_numpy(probabilities)
    found = metrics.evaluate_output(labels, probabilities, [str(row) for row in range(len(labels))])
    expected = {
        "top1": multiclass_accuracy(scores, target, 7, average="micro"),
        "top5": multiclass_accuracy(scores, target, 7, average="micro", top_k=5),
        "mean_class_accuracy": multiclass_accuracy(scores, target, 7, average="macro"),
        "f1_macro": multiclass_f1_score(scores, target, 7, average="macro"),
        "f1_weighted": multiclass_f1_score(scores, target, 7, average="weighted"),
        "ece": multiclass_calibration_error(scores, target, 7, n_bins=15),
        "nll": torch.nn.functional.nll_loss(scores.log(), target),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), abs=1e-5), name


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_agrees_with_scikit_learn(average):
    labels, probabilities = random_case(5)
    predictions = probabilities.argmax(axis=1)
    found = metrics.evaluate_output(labels, probabilities, [str(row) for row in range(len(labels))])
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected = score(labels, predictions, average=average)
        assert getattr(found, f"{name}_{average}") == pytest.approx(expected, abs=1e-12)


@given(label_pairs)
@few_examples
def test_recalls_are_top1_and_mean_class_accuracy(case):
    classes, pairs = case
    labels, predictions = split(pairs)
    found = metrics.evaluate_output(
        labels, np.eye(classes, dtype=np.float32)[predictions], ["a"] * len(labels)
    )
    assert found.recall_weighted == pytest.approx(found.top1)
    assert found.recall_macro == pytest.approx(found.mean_class_accuracy)
    assert found.mean_class_accuracy == pytest.approx(metrics.mean_class_accuracy(labels, predictions))
    present = set(labels.tolist())
    each = [np.mean(predictions[labels == name] == name) for name in present]
    assert found.mean_class_accuracy == pytest.approx(np.mean(each))
    assert found.num_classes == len(present)


def test_macro_averages_run_over_present_classes_only():
    labels = np.array([0, 0, 1, 1])
    predictions = np.array([0, 2, 1, 1])  # class 2 has no rows, class 3 neither rows nor predictions
    found = metrics.evaluate_output(labels, np.eye(4, dtype=np.float32)[predictions], ["a", "b", "c", "d"])
    assert found.mean_class_accuracy == pytest.approx(0.75)
    assert found.precision_macro == pytest.approx(1.0)
    assert found.f1_macro == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(("classes", "expected"), [(5, None), (6, 0.5)])
def test_top5_is_left_out_where_it_says_nothing(classes, expected):
    probabilities = np.tile(np.linspace(2, 1, classes), (2, 1)).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert metrics.top5(np.array([0, classes - 1]), probabilities) == expected


@given(st.integers(0, 10_000))
@few_examples
def test_calibration_error_is_bounded_and_exact_for_constant_confidence(seed):
    labels, probabilities = random_case(seed, rows=30, classes=3)
    assert 0 <= metrics.expected_calibration_error(labels, probabilities) <= 1
    constant = np.tile([0.7, 0.2, 0.1], (30, 1))
    expected = abs(np.mean(labels == 0) - 0.7)
    assert metrics.expected_calibration_error(labels, constant) == pytest.approx(expected)


def test_likelihood_of_an_impossible_label_stays_finite():
    assert 30 < metrics.negative_log_likelihood(np.array([1]), np.array([[1.0, 0.0]])) < 40


# per class


@given(label_pairs)
@few_examples
def test_per_class_agrees_with_scikit_learn_and_blanks_absent_classes(case):
    classes, pairs = case
    labels, predictions = split(pairs)
    report = sk.classification_report(
        labels, predictions, labels=range(classes), output_dict=True, zero_division=0
    )
    for index, entry in enumerate(metrics.per_class(labels, predictions, classes)):
        expected = report[str(index)]
        assert entry.support == expected["support"]
        assert entry.predicted == np.sum(predictions == index)
        values = (entry.precision, entry.recall, entry.f1)
        if entry.support == 0:
            assert all(math.isnan(value) for value in values)
            assert entry.confused_with is None
        else:
            assert values == pytest.approx((expected["precision"], expected["recall"], expected["f1-score"]))


def test_most_confused_class_and_count():
    entries = metrics.per_class(np.array([0, 0, 0, 0, 1]), np.array([0, 2, 2, 1, 1]), 3)
    assert (entries[0].confused_with, entries[0].confused_count) == (2, 2)
    assert (entries[1].confused_with, entries[1].confused_count) == (None, 0)


@given(label_pairs)
@few_examples
def test_rows_of_the_normalised_matrix_sum_to_one_or_are_nan(case):
    classes, pairs = case
    labels, predictions = split(pairs)
    matrix = metrics.confusion_matrix(labels, predictions, classes)
    assert matrix.sum() == len(labels)
    sums = metrics.normalize_rows(matrix).sum(axis=1)
    for index in range(classes):
        assert math.isnan(sums[index]) if index not in labels else sums[index] == pytest.approx(1)


def test_class_stream_weights_are_means_and_nan_for_absent_classes():
    weights = np.array([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]], dtype=np.float32)
    found = metrics.class_stream_weights(np.array([0, 0, 2]), weights, 3)
    assert found[0] == pytest.approx([0.3, 0.7])
    assert np.isnan(found[1]).all()
    assert found[2] == pytest.approx([1, 0])


# intervals


def test_interval_of_independent_rows_is_close_to_the_binomial():
    correct = np.arange(400) % 4 != 0
    found = metrics.top1_interval(correct, [str(row) for row in range(400)])
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert found.low == pytest.approx(0.75 - half, abs=0.01)
    assert found.high == pytest.approx(0.75 + half, abs=0.01)


def test_interval_widens_when_rows_of_a_group_share_their_fate():
    correct = np.repeat(np.arange(40) % 4 != 0, 10)
    apart = metrics.top1_interval(correct, [str(row) for row in range(400)])
    grouped = metrics.top1_interval(correct, [str(row // 10) for row in range(400)])
    assert grouped.high - grouped.low > 2.5 * (apart.high - apart.low)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
@few_examples
def test_interval_holds_the_estimate_and_repeats(rows):
    correct = np.array([right for right, _ in rows])
    groups = [f"g{group}" for _, group in rows]
    found = metrics.top1_interval(correct, groups)
    if len(set(groups)) < 2:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert 0 <= found.low <= correct.mean() + 1e-12
        assert correct.mean() - 1e-12 <= found.high <= 1
        assert metrics.top1_interval(correct, groups) == found


def test_interval_is_not_empty_when_nothing_is_wrong():
    groups = [str(row) for row in range(10)]
    assert metrics.top1_interval(np.ones(10, bool), groups) == metrics.Interval(
        pytest.approx(0.025**0.1), 1.0
    )
    assert metrics.top1_interval(np.zeros(10, bool), groups) == metrics.Interval(
        0.0, pytest.approx(1 - 0.025**0.1)
    )


# agreement of the streams


def test_agreement_counts_rows_by_who_is_right():
    labels = np.zeros(6, dtype=np.int64)
    rgb = np.array([0, 0, 0, 1, 1, 1])
    flow = np.array([0, 1, 1, 0, 1, 1])
    fused = np.array([0, 0, 1, 0, 0, 1])
    found = metrics.stream_agreement(labels, fused, rgb, flow)
    assert found == metrics.Agreement(both=(1, 1), only_rgb=(2, 1), only_flow=(1, 1), neither=(2, 1))
    assert found.either == 4


# which classes an output cannot tell apart


def matrix_of(rows):
    return np.array(rows, dtype=np.int64)


@given(label_pairs)
@few_examples
def test_confusability_is_symmetric_and_bounded(case):
    classes, pairs = case
    labels, predictions = split(pairs)
    found = confusions.confusability(metrics.confusion_matrix(labels, predictions, classes))
    present = np.isin(np.arange(classes), labels)
    assert np.isnan(found[~present]).all()
    assert not np.isnan(found[np.ix_(present, present)]).any()
    inner = found[np.ix_(present, present)]
    assert np.array_equal(inner, inner.T)
    assert (inner >= 0).all()
    assert (inner <= 1).all()


@given(label_pairs)
@few_examples
def test_groups_are_disjoint_and_count_their_rows(case):
    classes, pairs = case
    labels, predictions = split(pairs)
    matrix = metrics.confusion_matrix(labels, predictions, classes)
    groups = confusions.confusion_groups(matrix)
    members = [index for group in groups for index in group.classes]
    assert len(members) == len(set(members))
    for group in groups:
        rows = np.isin(labels, group.classes)
        assert group.videos == rows.sum()
        assert group.correct == (rows & (labels == predictions)).sum()
        assert group.videos - group.correct >= confusions.MIN_ERRORS
        assert all((labels == index).sum() >= confusions.MIN_SUPPORT for index in group.classes)


@given(st.integers(2, 8), st.integers(1, 5))
@few_examples
def test_perfect_output_has_no_group_and_a_blind_one_a_single(classes, rows):
    assert confusions.confusion_groups(np.eye(classes, dtype=np.int64) * rows) == []
    blind = confusions.confusion_groups(np.full((classes, classes), rows))
    assert [group.classes for group in blind] == [tuple(range(classes))]


@pytest.mark.parametrize(
    "matrix",
    [
        [[4, 4, 0], [4, 4, 0], [0, 0, 8]],  # tossed a coin
        [[8, 0, 0], [8, 0, 0], [0, 0, 8]],  # the one is always taken for the other
        [[0, 8, 0], [8, 0, 0], [0, 0, 8]],  # swapped
        [[0, 0, 8], [0, 0, 8], [4, 4, 0]],  # both taken for a third, whose videos go to both
    ],
)
def test_two_classes_are_grouped_however_they_are_confused(matrix):
    groups = confusions.confusion_groups(matrix_of(matrix))
    assert any({0, 1} <= set(group.classes) for group in groups)


@pytest.mark.parametrize(("errors", "grouped"), [(2, False), (3, True)])
def test_threshold_is_half_way_to_guessing(errors, grouped):
    right = 12 - errors  # mutual error rates of 1/6 and 1/4: confusability of 1/3 and exactly 1/2
    matrix = matrix_of([[right, errors, 0], [errors, right, 0], [0, 0, 12]])
    assert bool(confusions.confusion_groups(matrix)) == grouped


def test_chain_of_weak_links_does_not_tie_everything_together():
    chain = np.eye(6, dtype=np.int64) * 5
    for index in range(5):
        chain[index, index + 1] = 5
    assert all(len(group.classes) == 2 for group in confusions.confusion_groups(chain))


def test_single_videos_show_no_pattern():
    assert confusions.confusion_groups(matrix_of([[0, 1], [1, 0]])) == []


@pytest.mark.parametrize(
    ("fused", "verdict", "remaining"),
    [
        ([[4, 0, 0], [0, 4, 0], [0, 0, 4]], "resolved", ()),
        ([[2, 2, 0], [2, 2, 0], [0, 0, 4]], "partly", ((0, 1),)),
        ([[4, 0, 0], [4, 0, 0], [4, 0, 0]], "unresolved", ((0, 1, 2),)),
        ([[0, 4, 0], [0, 0, 4], [0, 4, 0]], "unresolved", None),
    ],
)
def test_resolution(fused, verdict, remaining):
    (group,) = confusions.confusion_groups(matrix_of([[2, 1, 1], [1, 1, 2], [1, 2, 1]]))
    assert group == confusions.ConfusionGroup((0, 1, 2), videos=12, correct=4)
    found = confusions.resolve(group, matrix_of(fused))
    assert found.verdict == verdict
    assert found.correct == np.trace(matrix_of(fused))
    if remaining is not None:
        assert found.remaining == remaining


def test_confused_pairs_count_both_directions_and_name_the_worse_first():
    pairs = confusions.confused_pairs(matrix_of([[5, 1, 0], [4, 0, 1], [0, 0, 5]]))
    assert pairs[0] == confusions.ConfusedPair(1, 0, 4, 1, pytest.approx(5 / 11))
    assert pairs[0].count == 5
    assert [(pair.first, pair.second) for pair in pairs] == [(1, 0), (1, 2)]
    assert confusions.confused_pairs(matrix_of([[5, 1, 0], [4, 0, 1], [0, 0, 5]]), limit=1) == pairs[:1]
