"""Compute the figures of a report: arrays in, numbers out, scikit-learn where it has them.

Conventions, the same in every function:

- `labels` (N,) and `predictions` (N,) are int64 class indices in [0, C); `probabilities` (N, C) are rows that
  sum to 1. Results are fractions in [0, 1], not percent.
- A class is *present* if at least one row has it as label. Macro averages run over the present classes only,
  and per-class figures of an absent class are NaN: nothing was measured.
- A present class that was never predicted has precision 0 and F1 0, as scikit-learn's `zero_division=0`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]

CALIBRATION_BINS = 15  # Guo et al. 2017
BOOTSTRAP_DRAWS = 2000
_TAIL = 0.025  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Interval:
    """Hold a two-sided 95 % confidence interval; both ends are NaN where it cannot be estimated."""

    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Hold the three figures by which models are compared; fractions."""

    top1: float
    mean_class_accuracy: float
    f1_macro: float


@dataclass(frozen=True)
class OutputMetrics:
    """Hold the figures of one output on one set of rows; fractions, except `nll` in nats.

    `top5` is None for C <= 5 classes, where it could only be 1. `recall_macro` equals `mean_class_accuracy`
    and `recall_weighted` equals `top1` by definition; they are kept so that all averages stand side by side.
    """

    num_videos: int
    num_groups: int
    num_classes: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float | None
    mean_class_accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    precision_weighted: float
    recall_weighted: float
    f1_weighted: float
    nll: float
    ece: float


@dataclass(frozen=True)
class ClassMetrics:
    """Hold the figures of one class under one output.

    Attributes:
        support: rows whose label is the class.
        predicted: rows that were given to the class, rightly or wrongly.
        precision, recall, f1: fractions; NaN if support is 0.
        confused_with: class its rows were most often wrongly given to (lowest index on ties), or None.
        confused_count: how many rows that were.
    """

    support: int
    predicted: int
    precision: float
    recall: float
    f1: float
    confused_with: int | None
    confused_count: int


@dataclass(frozen=True)
class Agreement:
    """Count the rows by which single stream is right, and how many of them the fusion gets right.

    Each entry is (rows, rows of these that the fused output gets right).
    """

    both: tuple[int, int]
    only_rgb: tuple[int, int]
    only_flow: tuple[int, int]
    neither: tuple[int, int]

    @property
    def either(self) -> int:
        """Return the rows at least one stream gets right: what a perfect choice between them would reach."""
        return self.both[0] + self.only_rgb[0] + self.only_flow[0]


def evaluate_output(
    labels: IntArray, probabilities: FloatArray, groups: Sequence[str], *, seed: int = 0
) -> OutputMetrics:
    """Compute every figure of one output.

    Args:
        labels: (N,) int64, N >= 1.
        probabilities: (N, C) float, rows sum to 1.
        groups: N source groups, for the confidence interval of top-1.
        seed: seed of the bootstrap.

    Returns:
        The figures; `num_classes` counts the present classes.
    """
    predictions = probabilities.argmax(axis=1)
    present = np.unique(labels)
    averages: dict[str, float] = {}
    for average in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(
            labels, predictions, labels=present, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), values, strict=False):
            averages[f"{name}_{average}"] = float(value)
    correct = predictions == labels
    interval = top1_interval(correct, groups, seed=seed)
    return OutputMetrics(
        num_videos=len(labels),
        num_groups=len(set(groups)),
        num_classes=len(present),
        top1=top1(labels, probabilities),
        top1_low=interval.low,
        top1_high=interval.high,
        top5=top5(labels, probabilities),
        mean_class_accuracy=averages["recall_macro"],
        nll=negative_log_likelihood(labels, probabilities),
        ece=expected_calibration_error(labels, probabilities),
        **averages,
    )


def score(labels: IntArray, predictions: IntArray) -> Scores:
    """Compute the figures by which models are compared, from decisions alone.

    Args:
        labels: (N,) int64, N >= 1.
        predictions: (N,) int64.
    """
    f1 = sk.f1_score(labels, predictions, labels=np.unique(labels), average="macro", zero_division=0)
    return Scores(
        top1=float(sk.accuracy_score(labels, predictions)),
        mean_class_accuracy=mean_class_accuracy(labels, predictions),
        f1_macro=float(f1),
    )


def top1(labels: IntArray, probabilities: FloatArray) -> float:
    """Return the share of rows whose most probable class (lowest index on ties) is the label."""
    return float(sk.accuracy_score(labels, probabilities.argmax(axis=1)))


def top5(labels: IntArray, probabilities: FloatArray) -> float | None:
    """Return the share of rows whose label is among the five most probable classes.

    Returns:
        A fraction, or None for five classes or fewer, where it would be 1 whatever the model does.
    """
    if probabilities.shape[1] <= 5:
        return None
    return float((label_ranks(labels, probabilities) <= 5).mean())


def label_ranks(labels: IntArray, probabilities: FloatArray) -> IntArray:
    """Return the place of each row's label among the classes, the most probable first (lowest index on ties).

    Args:
        labels: (N,) int64.
        probabilities: (N, C).

    Returns:
        (N,) int64, from 1 to C.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return np.asarray((order == labels[:, None]).argmax(axis=1) + 1, dtype=np.int64)


def mean_class_accuracy(labels: IntArray, predictions: IntArray) -> float:
    """Return the mean, over the present classes, of the share of the class's rows that were recognised."""
    present = np.unique(labels)
    return float(sk.recall_score(labels, predictions, labels=present, average="macro", zero_division=0))


def confusion_matrix(labels: IntArray, predictions: IntArray, num_classes: int) -> IntArray:
    """Count the rows by label and prediction.

    Returns:
        (C, C) int64, `matrix[i, j]` rows of label i that were given to class j.
    """
    matrix = sk.confusion_matrix(labels, predictions, labels=np.arange(num_classes))
    return np.asarray(matrix, dtype=np.int64)


def normalize_rows(matrix: IntArray) -> Float64Array:
    """Divide each row of a confusion matrix by its sum.

    Returns:
        (C, C) float64; NaN in the rows of absent classes.
    """
    support = matrix.sum(axis=1, keepdims=True).astype(np.float64)
    support[support == 0] = np.nan
    return np.asarray(matrix / support, dtype=np.float64)


def per_class(labels: IntArray, predictions: IntArray, num_classes: int) -> list[ClassMetrics]:
    """Compute precision, recall (the class's top-1), F1 and the most frequent confusion of every class."""
    every = np.arange(num_classes)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=every, average=None, zero_division=0
    )
    matrix = confusion_matrix(labels, predictions, num_classes)
    wrong = matrix - np.diag(np.diag(matrix))
    result = []
    for index in range(num_classes):
        absent = support[index] == 0
        count = int(wrong[index].max())
        result.append(
            ClassMetrics(
                support=int(support[index]),
                predicted=int(matrix[:, index].sum()),
                precision=float("nan") if absent else float(precision[index]),
                recall=float("nan") if absent else float(recall[index]),
                f1=float("nan") if absent else float(f1[index]),
                confused_with=int(wrong[index].argmax()) if count else None,
                confused_count=count,
            )
        )
    return result


def negative_log_likelihood(labels: IntArray, probabilities: FloatArray) -> float:
    """Return the mean of -ln p(label) in nats; p is clipped from below at float64's epsilon."""
    values = np.asarray(probabilities, dtype=np.float64)
    values = values / values.sum(axis=1, keepdims=True)
    return float(sk.log_loss(labels, values, labels=np.arange(values.shape[1])))


def expected_calibration_error(
    labels: IntArray, probabilities: FloatArray, bins: int = CALIBRATION_BINS
) -> float:
    """Return the mean gap between confidence and accuracy over equally wide bins of the top confidence.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3: each bin's gap
    |accuracy - mean confidence| is weighted by its share of the rows; empty bins weigh nothing.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    confidence = values.max(axis=1)
    correct = values.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def bootstrap_mean(
    values: Float64Array, groups: Sequence[str], *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> Interval:
    """Estimate a 95 % confidence interval of a mean by resampling whole source groups.

    Videos cut from one source are not independent, so groups, not rows, are drawn with replacement, as
    many as there are; the ends are percentiles of the resampled means.

    Args:
        values: (N,) float64, for example 1 where a row is right; differences of two outputs make a paired
            interval.
        groups: N group names.

    Returns:
        The interval; NaN at both ends with fewer than two groups.
    """
    group_of, num_groups = _number_groups(groups)
    if num_groups < 2:
        return Interval(float("nan"), float("nan"))
    sums = np.bincount(group_of, weights=values)
    sizes = np.bincount(group_of).astype(np.float64)
    means = [(counts @ sums) / (counts @ sizes) for counts in _draw_groups(num_groups, draws, seed)]
    return percentile_interval(np.concatenate(means))


@dataclass(frozen=True)
class ScoreDraws:
    """Hold what three figures are in each bootstrap draw of source groups; (D,) float64 each.

    Draws of two outputs with the same groups and seed are paired: subtract them.
    """

    top1: Float64Array
    mean_class_accuracy: Float64Array
    f1_macro: Float64Array


def bootstrap_scores(
    labels: IntArray,
    predictions: IntArray,
    groups: Sequence[str],
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> ScoreDraws | None:
    """Draw whole source groups with replacement, as `bootstrap_mean` does, and score every draw.

    The macro averages of a draw run over the classes that are present in it.

    Args:
        labels: (N,) int64.
        predictions: (N,) int64.
        groups: N group names.

    Returns:
        The scores of each draw, or None with fewer than two groups.
    """
    group_of, num_groups = _number_groups(groups)
    if num_groups < 2:
        return None
    classes, found = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    label_of, given_to = found[: len(labels)], found[len(labels) :]
    right = label_of == given_to

    def count(rows: npt.NDArray[np.intp], kept: npt.NDArray[np.bool_]) -> Float64Array:
        """Count by group and class: (G, C)."""
        table = np.zeros((num_groups, len(classes)))
        np.add.at(table, (group_of[kept], rows[kept]), 1)
        return table

    every = np.ones(len(labels), dtype=np.bool_)
    tables = np.stack([count(label_of, every), count(given_to, every), count(label_of, right)])
    scores: list[list[Float64Array]] = [[], [], []]
    for counts in _draw_groups(num_groups, draws, seed):
        support, predicted, hits = counts @ tables
        present = support > 0
        num_present = present.sum(axis=1)
        recall = np.where(present, hits / np.where(present, support, 1), 0)
        f1 = np.where(present, 2 * hits / np.where(present, support + predicted, 1), 0)
        scores[0].append(hits.sum(axis=1) / support.sum(axis=1))
        scores[1].append(recall.sum(axis=1) / num_present)
        scores[2].append(f1.sum(axis=1) / num_present)
    return ScoreDraws(*(np.concatenate(values) for values in scores))


def percentile_interval(values: Float64Array) -> Interval:
    """Return the 95 % interval that bootstrap draws span: their 2.5 and 97.5 percentiles."""
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
    return Interval(float(low), float(high))


def _number_groups(groups: Sequence[str]) -> tuple[npt.NDArray[np.intp], int]:
    names, group_of = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return group_of, len(names)


def _draw_groups(num_groups: int, draws: int, seed: int) -> Iterator[IntArray]:
    """Yield how often each group is drawn, in blocks (B, G): one table would be large for thousands of groups."""
    generator = np.random.default_rng(seed)
    for start in range(0, draws, 200):
        size = min(200, draws - start)
        yield generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)


def top1_interval(correct: npt.NDArray[np.bool_], groups: Sequence[str], *, seed: int = 0) -> Interval:
    """Estimate a 95 % confidence interval of top-1 from rows that are right or wrong.

    It is `bootstrap_mean`'s. Only where every row is right, or every row is wrong, all draws are the same and
    would pretend certainty; the far end is then the exact binomial bound (Clopper and Pearson 1934) that
    counts each group as one trial.

    Args:
        correct: (N,) bool.
        groups: N group names.
    """
    interval = bootstrap_mean(correct.astype(np.float64), groups, seed=seed)
    bound = _TAIL ** (1 / len(set(groups)))
    if np.isfinite(interval.low) and correct.all():
        return Interval(bound, 1.0)
    if np.isfinite(interval.low) and not correct.any():
        return Interval(0.0, 1 - bound)
    return interval


def score_intervals(
    labels: IntArray, predictions: IntArray, groups: Sequence[str], *, seed: int = 0
) -> dict[str, Interval]:
    """Estimate 95 % confidence intervals of the fields of `Scores`, by name.

    That of top-1 is `top1_interval`'s. The others are percentiles of `bootstrap_scores`; NaN with fewer than two
    groups, and where every row is right, or every row is wrong: all draws are then the same.

    Args:
        labels: (N,) int64.
        predictions: (N,) int64.
        groups: N group names.
        seed: of the bootstrap.
    """
    correct = labels == predictions
    intervals = {"top1": top1_interval(correct, groups, seed=seed)}
    draws = bootstrap_scores(labels, predictions, groups, seed=seed)
    for name in ("mean_class_accuracy", "f1_macro"):
        unknown = draws is None or correct.all() or not correct.any()
        values = np.full(1, np.nan) if unknown else getattr(draws, name)
        intervals[name] = percentile_interval(values)
    return intervals


def stream_agreement(labels: IntArray, fused: IntArray, rgb: IntArray, flow: IntArray) -> Agreement:
    """Count on how many rows each stream alone is right, and how many of them the fusion gets right.

    Args:
        labels: (N,) int64.
        fused, rgb, flow: (N,) int64 predictions.
    """
    right, by_rgb, by_flow = fused == labels, rgb == labels, flow == labels

    def count(rows: npt.NDArray[np.bool_]) -> tuple[int, int]:
        return int(rows.sum()), int((rows & right).sum())

    return Agreement(
        both=count(by_rgb & by_flow),
        only_rgb=count(by_rgb & ~by_flow),
        only_flow=count(~by_rgb & by_flow),
        neither=count(~by_rgb & ~by_flow),
    )


def class_stream_weights(labels: IntArray, weights: FloatArray, num_classes: int) -> Float64Array:
    """Average the fusion's stream weights over the rows of each class.

    Args:
        labels: (N,) int64.
        weights: (N, 2) float, RGB and flow.

    Returns:
        (C, 2) float64; NaN for absent classes.
    """
    support = np.bincount(labels, minlength=num_classes).astype(np.float64)
    support[support == 0] = np.nan
    sums = np.stack([np.bincount(labels, weights=column, minlength=num_classes) for column in weights.T], 1)
    return np.asarray(sums / support[:, None], dtype=np.float64)
