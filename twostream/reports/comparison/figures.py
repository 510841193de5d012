"""Compute a comparison once, for all parts of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from twostream.errors import ConfigError
from twostream.evaluation.comparison import PairedComparison, compare_pair, holm
from twostream.evaluation.metrics import (
    ClassMetrics,
    IntArray,
    Interval,
    Scores,
    per_class,
    score,
    score_intervals,
)
from twostream.reports.comparison.fusion import Fused
from twostream.reports.comparison.runs import Run, labels_of, rows_in_order

SCORE_NAMES = ("top1", "mean_class_accuracy", "f1_macro")
DECISION, ALL = "decision", "all"


@dataclass(frozen=True, eq=False)
class Contender:
    """Hold one output of one run, which stands as a row in every table.

    Attributes:
        run: the run.
        output: name of its output.
        predictions: (N,) int64.
        probabilities: (N, C) float32, or None where only decisions were kept.
        scores: top-1, mean class accuracy and macro F1.
        intervals: their 95 % intervals, by name.
        classes: figures of each class.
    """

    run: Run
    output: str
    predictions: IntArray
    probabilities: npt.NDArray[np.float32] | None
    scores: Scores
    intervals: Mapping[str, Interval]
    classes: list[ClassMetrics]

    @property
    def labels(self) -> IntArray:
        """Return the (N,) int64 labels of its videos."""
        return labels_of(self.run)

    @property
    def groups(self) -> Sequence[str]:
        """Return the source groups of its videos: every video its own, where none are known."""
        return self.run.groups or self.run.videos


@dataclass(frozen=True)
class Pair:
    """Hold the paired comparison of two contenders, by their places.

    Attributes:
        first, second: places in the list of contenders.
        result: first minus second.
        p_holm: p-value of McNemar's test, adjusted for all pairs of the comparison.
        same_groups: both runs have the same source groups; if not, those of the first are drawn.
    """

    first: int
    second: int
    result: PairedComparison
    p_holm: float
    same_groups: bool


@dataclass(frozen=True)
class Unpaired:
    """Name two contenders that were tested on different videos, and count what they have in common."""

    first: int
    second: int
    common: int


@dataclass(frozen=True)
class Average:
    """Hold the mean of a family's runs, and the standard deviation between them (n - 1), by name of the figure."""

    family: str
    output: str
    members: tuple[Run, ...]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Hold everything that is computed from several runs.

    Attributes:
        runs: the runs, fused ones last.
        contenders: what is compared.
        averages: of each family of two or more runs.
        pairs: paired comparisons of contenders on the same videos.
        unpaired: pairs on different videos.
    """

    runs: tuple[Run, ...]
    contenders: tuple[Contender, ...]
    averages: tuple[Average, ...]
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.runs[0].classes


def compare(
    runs: Sequence[Run], outputs: Sequence[str] = (DECISION,), fused: Fused | None = None
) -> Comparison:
    """Compute a comparison.

    Args:
        runs: with the same classes, as `read_runs` gives them.
        outputs: which outputs of each run: names, "decision" for the one that decides, "all" for those of the model.
        fused: a fusion of two of the runs: all its outputs are compared, and what it was made of, too.

    Raises:
        ConfigError: no run has the outputs, or a run has none of them.
    """
    chosen = [(run, output) for run in runs for output in _chosen(run, outputs)]
    if fused is not None:
        chosen += [member for member in fused.members if member not in chosen]
        chosen.sort(key=lambda each: runs.index(each[0]))
        chosen += [(fused.run, output) for output in fused.run.predictions]
        runs = [*runs, fused.run]
    contenders = tuple(_contender(run, output) for run, output in chosen)
    pairs: list[tuple[int, int, PairedComparison, bool]] = []
    unpaired = []
    for first, second in combinations(range(len(contenders)), 2):
        a, b = contenders[first], contenders[second]
        common = set(a.run.videos) & set(b.run.videos)
        if len(common) == len(a.run.videos) == len(b.run.videos):
            rows = rows_in_order(a.run.videos, b.run.videos)
            result = compare_pair(a.labels, a.predictions, b.predictions[rows], a.groups)
            pairs.append((first, second, result, _same_groups(a, b, rows)))
        else:
            unpaired.append(Unpaired(first, second, len(common)))
    adjusted = holm([result.p_value for _, _, result, _ in pairs])
    return Comparison(
        runs=tuple(runs),
        contenders=contenders,
        averages=tuple(_averages(contenders)),
        pairs=tuple(
            Pair(first, second, result, p, same)
            for (first, second, result, same), p in zip(pairs, adjusted, strict=True)
        ),
        unpaired=tuple(unpaired),
    )


def _chosen(run: Run, outputs: Sequence[str]) -> list[str]:
    wanted = []
    for output in outputs:
        names = {DECISION: (run.decision,), ALL: run.outputs}.get(output, (output,))
        # what is no run of two streams has one output, which stands for whatever is asked for
        wanted += [name for name in names if name in run.predictions] or (
            [run.decision] if run.decision not in ("fused", "rgb", "flow") else []
        )
    if not wanted:
        raise ConfigError(
            f"{run.path}: has none of the outputs {', '.join(outputs)}; it has {', '.join(run.predictions)}"
        )
    return list(dict.fromkeys(wanted))


def _contender(run: Run, output: str) -> Contender:
    predictions, labels = run.predictions[output], labels_of(run)
    return Contender(
        run=run,
        output=output,
        predictions=predictions,
        probabilities=run.probabilities.get(output),
        scores=score(labels, predictions),
        intervals=score_intervals(labels, predictions, run.groups or run.videos),
        classes=per_class(labels, predictions, len(run.classes)),
    )


def _same_groups(a: Contender, b: Contender, rows: IntArray) -> bool:
    """Tell whether both runs cut the videos into the same groups, whatever these are called."""
    pairs = {(first, b.groups[row]) for first, row in zip(a.groups, rows.tolist(), strict=True)}
    return len(pairs) == len(set(a.groups)) == len(set(b.groups))


def _averages(contenders: Sequence[Contender]) -> list[Average]:
    families: dict[tuple[str, str], list[Contender]] = {}
    for each in contenders:
        families.setdefault((each.run.family, each.output), []).append(each)
    averages = []
    for (family, output), members in families.items():
        if len(members) > 1:
            values = {name: [getattr(each.scores, name) for each in members] for name in SCORE_NAMES}
            averages.append(
                Average(
                    family,
                    output,
                    tuple(each.run for each in members),
                    {name: float(np.mean(each)) for name, each in values.items()},
                    {name: float(np.std(each, ddof=1)) for name, each in values.items()},
                )
            )
    return averages
