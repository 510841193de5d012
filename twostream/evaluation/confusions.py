"""Find which classes an output cannot tell apart, and which of them the fusion can.

Two classes i and j are compared by their rows of the confusion matrix, each divided by its sum, R_i and R_j:
what the output answers for videos of the one and of the other. Their *confusability* is

    D_ij = max( sum_k min(R_ik, R_jk),  min(1, R_ij + R_ji) )

The first term is the overlap of both answer distributions (1 minus their total variation distance): 0 if no
answer is shared, 1 if the answers are the same and therefore say nothing about which of the two it was. It
also sees two classes that are both given to a third one. The second term is the direct confusion of both, and
sees classes that are swapped. For two classes with mutual error rate e both give 2 e, whatever the number of
other classes.

Average linkage with a cut at D = 0.5 then makes groups: half-way between telling classes apart always and
never. Average linkage, not connected components, because chains of weak links would tie all classes of a weak
stream into one group. A class with fewer than two videos is left out, and so is a group with fewer than two
errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from twostream.evaluation.metrics import Float64Array, IntArray, normalize_rows

THRESHOLD = 0.5
MIN_SUPPORT = 2
MIN_ERRORS = 2


@dataclass(frozen=True)
class ConfusionGroup:
    """Name classes that an output cannot tell apart.

    Attributes:
        classes: indices, ascending, two or more.
        videos: rows whose label is one of them.
        correct: how many of these the output gets right.
    """

    classes: tuple[int, ...]
    videos: int
    correct: int


@dataclass(frozen=True)
class Resolution:
    """Say how well another output tells the classes of a confusion group apart.

    Attributes:
        group: the group.
        correct: how many of its rows the other output gets right.
        remaining: the parts of the group, two or more classes each, that the other output cannot tell apart.
        verdict: "resolved" if nothing remains and more rows are right; "unresolved" if the group remains as a
            whole or no more rows are right; "partly" otherwise.
    """

    group: ConfusionGroup
    correct: int
    remaining: tuple[tuple[int, ...], ...]
    verdict: str


@dataclass(frozen=True)
class ConfusedPair:
    """Count how often two classes are taken for each other.

    Attributes:
        first, second: class indices; first is the one whose videos are more often mistaken.
        first_as_second, second_as_first: wrong rows in either direction.
        share: wrong rows divided by the rows of both classes.
    """

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    share: float

    @property
    def count(self) -> int:
        """Return the wrong rows of both directions."""
        return self.first_as_second + self.second_as_first


def confusability(matrix: IntArray) -> Float64Array:
    """Measure how badly each two classes are told apart; the module's docstring has the formula.

    Args:
        matrix: (C, C) int64 confusion matrix, labels in rows.

    Returns:
        (C, C) float64 in [0, 1], symmetric, 1 on the diagonal; NaN in rows and columns of absent classes.
    """
    rows = normalize_rows(matrix)
    overlap = np.stack([np.minimum(row, rows).sum(axis=1) for row in rows])
    direct = np.minimum(rows + rows.T, 1)
    result = np.clip(np.fmax(overlap, np.where(np.isnan(overlap), np.nan, direct)), 0, 1)
    np.fill_diagonal(result, np.where(matrix.sum(axis=1) > 0, 1.0, np.nan))
    return np.asarray(result, dtype=np.float64)


def confusion_groups(matrix: IntArray, threshold: float = THRESHOLD) -> list[ConfusionGroup]:
    """Group the classes that an output cannot tell apart.

    Args:
        matrix: (C, C) int64 confusion matrix, labels in rows.
        threshold: least mean confusability at which two groups are joined, in (0, 1].

    Returns:
        Disjoint groups of two or more classes, the most errors first.
    """
    usable = np.flatnonzero(matrix.sum(axis=1) >= MIN_SUPPORT)
    groups = []
    for classes in _cluster(confusability(matrix), usable, threshold):
        group = ConfusionGroup(classes, *_count(matrix, classes))
        if group.videos - group.correct >= MIN_ERRORS:
            groups.append(group)
    return sorted(groups, key=lambda group: (group.correct - group.videos, group.classes))


def resolve(group: ConfusionGroup, matrix: IntArray, threshold: float = THRESHOLD) -> Resolution:
    """Tell whether another output tells the classes of a group apart.

    Args:
        group: group found in one output's confusion matrix.
        matrix: (C, C) int64 confusion matrix of the other output on the same rows.
        threshold: as for `confusion_groups`.
    """
    parts = _cluster(confusability(matrix), np.asarray(group.classes), threshold)
    _, correct = _count(matrix, group.classes)
    if correct <= group.correct or group.classes in parts:
        return Resolution(group, correct, tuple(parts), "unresolved")
    verdict = "partly" if parts else "resolved"
    return Resolution(group, correct, tuple(parts), verdict)


def confused_pairs(matrix: IntArray, limit: int = 10) -> list[ConfusedPair]:
    """List the pairs of classes most often taken for each other, counting both directions.

    Args:
        matrix: (C, C) int64 confusion matrix, labels in rows.
        limit: the most pairs to return.

    Returns:
        Pairs with at least one error, most errors first, then the larger share, then by index.
    """
    support = matrix.sum(axis=1)
    pairs = []
    for i, j in np.argwhere(np.triu(matrix + matrix.T, 1) > 0).tolist():
        first, second = (j, i) if matrix[j, i] > matrix[i, j] else (i, j)
        there, back = int(matrix[first, second]), int(matrix[second, first])
        share = (there + back) / float(support[i] + support[j])
        pairs.append(ConfusedPair(first, second, there, back, share))
    pairs.sort(key=lambda pair: (-pair.count, -pair.share, pair.first, pair.second))
    return pairs[:limit]


def _cluster(similarity: Float64Array, classes: IntArray, threshold: float) -> list[tuple[int, ...]]:
    """Join classes by average linkage; return the clusters of two or more, ascending."""
    if len(classes) < 2:
        return []
    clustering = AgglomerativeClustering(
        n_clusters=None,
        metric="precomputed",
        linkage="average",
        distance_threshold=1 - threshold + 1e-9,  # a similarity of exactly the threshold joins
    )
    assigned = clustering.fit_predict(1 - similarity[np.ix_(classes, classes)])
    clusters = [
        tuple(sorted(int(index) for index in classes[assigned == name])) for name in np.unique(assigned)
    ]
    return sorted(cluster for cluster in clusters if len(cluster) > 1)


def _count(matrix: IntArray, classes: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows of the classes and how many of them are right."""
    chosen = list(classes)
    return int(matrix[chosen].sum()), int(matrix[chosen, chosen].sum())
