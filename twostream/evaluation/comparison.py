"""Compare the decisions of two models on the same videos: arrays in, numbers out.

Two tests stand side by side because they rest on different assumptions. McNemar's test takes every video for
independent; videos cut from one source are not, so the paired bootstrap draws whole source groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from twostream.evaluation.metrics import (
    IntArray,
    Interval,
    ScoreDraws,
    bootstrap_scores,
    percentile_interval,
    score,
)

NOTHING = Interval(float("nan"), float("nan"))


@dataclass(frozen=True)
class Difference:
    """Hold by how much one model is above another in one figure, a fraction, with its paired 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class PairedComparison:
    """Hold what is known of two models, A and B, on the same videos.

    Attributes:
        num_videos: N.
        num_groups: source groups.
        both: videos that both get right.
        only_first: videos that A alone gets right.
        only_second: videos that B alone gets right.
        neither: videos that none gets right.
        p_value: of McNemar's exact test.
        top1, mean_class_accuracy, f1_macro: A minus B.
    """

    num_videos: int
    num_groups: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float
    top1: Difference
    mean_class_accuracy: Difference
    f1_macro: Difference


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12(2), 1947. Of the videos that one model alone gets right, half are expected on either side; the
    exact form is a binomial test, which needs no large numbers.

    Args:
        only_first: videos that the first model alone gets right.
        only_second: videos that the second model alone gets right.

    Returns:
        A probability; 1 where the models differ on no video.
    """
    total = only_first + only_second
    return float(stats.binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that the chance of any false finding stays below the level chosen.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979.

    Returns:
        The adjusted values in the order given, at most 1.

    Example:
        >>> from twostream.evaluation.comparison import holm
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def compare_pair(
    labels: IntArray, first: IntArray, second: IntArray, groups: Sequence[str], *, seed: int = 0
) -> PairedComparison:
    """Compare two models video by video.

    Args:
        labels: (N,) int64.
        first: (N,) int64 predictions of A.
        second: (N,) int64 predictions of B.
        groups: N source groups.
        seed: of the bootstrap.
    """
    right, right_too = first == labels, second == labels
    only_first, only_second = int((right & ~right_too).sum()), int((~right & right_too).sum())
    draws = (
        bootstrap_scores(labels, first, groups, seed=seed),
        bootstrap_scores(labels, second, groups, seed=seed),
    )
    scores = score(labels, first), score(labels, second)

    def difference(name: str) -> Difference:
        value = float(getattr(scores[0], name) - getattr(scores[1], name))
        return Difference(value, _interval(draws, name))

    return PairedComparison(
        num_videos=len(labels),
        num_groups=len(set(groups)),
        both=int((right & right_too).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~right & ~right_too).sum()),
        p_value=mcnemar(only_first, only_second),
        top1=difference("top1"),
        mean_class_accuracy=difference("mean_class_accuracy"),
        f1_macro=difference("f1_macro"),
    )


def _interval(draws: tuple[ScoreDraws | None, ScoreDraws | None], name: str) -> Interval:
    first, second = draws
    if first is None or second is None:
        return NOTHING
    return percentile_interval(np.asarray(getattr(first, name) - getattr(second, name)))
