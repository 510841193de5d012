"""Turn an evaluation into a report's tables: fractions at full precision, NaN where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from twostream.evaluation.late_fusion import BASELINES
from twostream.evaluation.metrics import (
    Agreement,
    ClassMetrics,
    Float64Array,
    IntArray,
    Interval,
    OutputMetrics,
    bootstrap_mean,
    class_stream_weights,
    confusion_matrix,
    evaluate_output,
    label_ranks,
    per_class,
    stream_agreement,
    top1,
)
from twostream.evaluation.results import Evaluation, FloatArray

ALL = "all"
LEAK_FREE = "unshared_sources"
TOP_CLASSES = 5


@dataclass(frozen=True)
class Gain:
    """Hold what the fusion has above the best of some other outputs.

    Attributes:
        over: name of that output, the one with the highest top-1, the first of those that tie.
        top1: difference of top-1, a fraction, below 0 where the fusion is worse.
        interval: its 95 % interval, paired over source groups.
    """

    over: str
    top1: float
    interval: Interval


@dataclass(frozen=True)
class Figures:
    """Hold everything that is computed once from an evaluation, for all parts of its report.

    Attributes:
        evaluation: where the figures come from.
        overall: output name to its figures on all rows, the baselines after the model's own outputs.
        leak_free: the same on rows without a source shared with training; empty if there are none, or if sources
            were not compared.
        classes: output name to the figures of each class.
        matrices: output name to its (C, C) int64 confusion matrix.
        weights: (C, 2) float64 mean stream weights of RGB and flow, or None.
        agreement: which stream was right, or None for a single stream.
        gain: what the fusion has above the better stream, or None for a single stream.
        baseline_gain: what it has above the best baseline, or None for a single stream.
    """

    evaluation: Evaluation
    overall: dict[str, OutputMetrics]
    leak_free: dict[str, OutputMetrics]
    classes: dict[str, list[ClassMetrics]]
    matrices: dict[str, IntArray]
    weights: Float64Array | None
    agreement: Agreement | None
    gain: Gain | None
    baseline_gain: Gain | None

    @property
    def baselines(self) -> tuple[str, ...]:
        """Name the baselines that could be computed."""
        return tuple(name for name in BASELINES if name in self.overall)


def compute_figures(evaluation: Evaluation) -> Figures:
    """Compute all figures of an evaluation."""
    labels, num_classes = evaluation.labels, len(evaluation.classes)
    predictions = {output: evaluation.predictions(output) for output in evaluation.outputs}
    baselines = evaluation.baselines()
    outputs = {**evaluation.probabilities, **baselines}
    overall = _overall(evaluation, outputs, np.ones(len(labels), dtype=np.bool_))
    leak_free = {}
    if evaluation.shared_source is not None and not evaluation.shared_source.all():
        leak_free = _overall(evaluation, outputs, ~evaluation.shared_source)
    agreement = gain = baseline_gain = None
    if "fused" in predictions:
        agreement = stream_agreement(labels, predictions["fused"], predictions["rgb"], predictions["flow"])
        gain = _gain(evaluation, {name: outputs[name] for name in evaluation.streams})
        baseline_gain = _gain(evaluation, baselines)
    weights = None
    if evaluation.stream_weights is not None:
        weights = class_stream_weights(labels, evaluation.stream_weights, num_classes)
    return Figures(
        evaluation=evaluation,
        overall=overall,
        leak_free=leak_free,
        classes={name: per_class(labels, values, num_classes) for name, values in predictions.items()},
        matrices={
            name: confusion_matrix(labels, values, num_classes) for name, values in predictions.items()
        },
        weights=weights,
        agreement=agreement,
        gain=gain,
        baseline_gain=baseline_gain,
    )


def summary_table(figures: Figures) -> pd.DataFrame:
    """Tabulate the figures of each output: a row an output and subset.

    Returns:
        Columns `output` (those of the model, then the baselines "product", "mean" and "weighted" as far as
        `Evaluation.baselines` has them), `subset` ("all", and "unshared_sources" where sources were compared with
        training), then the fields of `OutputMetrics`; `top5` is NaN for five classes or fewer.
    """
    rows = [
        {"output": output, "subset": subset, **asdict(values)}
        for subset, outputs in ((ALL, figures.overall), (LEAK_FREE, figures.leak_free))
        for output, values in outputs.items()
    ]
    return pd.DataFrame(rows).astype({"top5": float})


def per_class_table(figures: Figures) -> pd.DataFrame:
    """Tabulate the classes: a row a class.

    Returns:
        Columns `class`, `support`, per output `<output>_precision`, `_recall`, `_f1`, `_predicted`,
        `_confused_with` (empty if no video of the class is wrong), `_confused_count`, then `rgb_weight` and
        `flow_weight` where the fusion gave weights. Blank in the rows of classes without videos, but for
        `support` 0 and `_predicted`, which counts.
    """
    names = figures.evaluation.classes
    first = figures.classes[figures.evaluation.decision]
    columns: dict[str, object] = {"class": list(names), "support": [entry.support for entry in first]}
    for output, entries in figures.classes.items():
        for field in ("precision", "recall", "f1", "predicted"):
            columns[f"{output}_{field}"] = [getattr(entry, field) for entry in entries]
        columns[f"{output}_confused_with"] = [
            "" if entry.confused_with is None else names[entry.confused_with] for entry in entries
        ]
        counts = [entry.confused_count if entry.support else None for entry in entries]
        columns[f"{output}_confused_count"] = pd.array(counts, dtype="Int64")
    if figures.weights is not None:
        columns["rgb_weight"], columns["flow_weight"] = figures.weights.T
    return pd.DataFrame(columns)


def predictions_table(evaluation: Evaluation) -> pd.DataFrame:
    """Tabulate the predictions: a row a video, in the evaluation's order.

    Returns:
        Columns `video`, `group`, `label`, `prediction`, `confidence` (float32), `correct`, `label_probability` and
        `label_rank` (what the label was given, and its place: 1 if right), `shared_source` where known;
        `<output>_prediction`, `<output>_confidence`, `<output>_label_probability` and `<output>_label_rank` of each
        stream under a fusion and of each baseline; `rgb_weight` and `flow_weight` where the fusion gave weights, and
        `top_1` to `top_5` with `top_1_confidence` to `top_5_confidence`, the most probable classes (fewer if there
        are fewer classes). Every figure of the report that is about these videos follows from these columns.
    """
    names = np.asarray(evaluation.classes, dtype=object)
    decision = evaluation.probabilities[evaluation.decision]
    columns: dict[str, object] = {
        "video": list(evaluation.videos),
        "group": list(evaluation.groups),
        "label": names[evaluation.labels],
    }
    others = {name: evaluation.probabilities[name] for name in evaluation.outputs[1:]}
    for prefix, values in {"": decision, **others, **evaluation.baselines()}.items():
        start = f"{prefix}_" if prefix else ""
        predictions = values.argmax(axis=1)
        columns[f"{start}prediction"] = names[predictions]
        columns[f"{start}confidence"] = values.max(axis=1)
        if not prefix:
            columns["correct"] = predictions == evaluation.labels
        columns[f"{start}label_probability"] = values[np.arange(len(values)), evaluation.labels]
        columns[f"{start}label_rank"] = label_ranks(evaluation.labels, values)
        if not prefix and evaluation.shared_source is not None:
            columns["shared_source"] = evaluation.shared_source
    if evaluation.stream_weights is not None:
        columns["rgb_weight"], columns["flow_weight"] = evaluation.stream_weights.T
    order = np.argsort(-decision, axis=1, kind="stable")[:, :TOP_CLASSES]
    for rank, chosen in enumerate(order.T, start=1):
        columns[f"top_{rank}"] = names[chosen]
        columns[f"top_{rank}_confidence"] = decision[np.arange(len(decision)), chosen]
    return pd.DataFrame(columns)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a `predictions.csv`; names stay text, whatever they look like ("NA", "001").

    Returns:
        The table that `predictions_table` makes, with the same names and types.

    Example:
        >>> from twostream import read_predictions
        >>> table = read_predictions("runs/videos/evaluation/predictions.csv")
        >>> list(table.columns[:6])
        ['video', 'group', 'label', 'prediction', 'confidence', 'correct']
    """
    header = pd.read_csv(path, nrows=0, encoding_errors="surrogateescape").columns
    dtypes: dict[str, str] = {}
    for name in header:
        if name.endswith(("confidence", "label_probability", "_weight")):
            dtypes[name] = "float32"
        elif name.endswith("label_rank"):
            dtypes[name] = "int64"
        else:
            dtypes[name] = "bool" if name in ("correct", "shared_source") else "str"
    table: pd.DataFrame = pd.read_csv(
        path, dtype=dtypes, keep_default_na=False, encoding_errors="surrogateescape"
    )
    return table


def confusion_table(matrix: IntArray, classes: tuple[str, ...]) -> pd.DataFrame:
    """Tabulate a confusion matrix of counts: first column `label`, then a column a predicted class."""
    table = pd.DataFrame(matrix, columns=list(classes))
    table.insert(0, "label", list(classes), allow_duplicates=True)  # a class may be called "label"
    return table


def _overall(
    evaluation: Evaluation, outputs: Mapping[str, FloatArray], rows: npt.NDArray[np.bool_]
) -> dict[str, OutputMetrics]:
    groups = [group for group, kept in zip(evaluation.groups, rows, strict=True) if kept]
    return {
        output: evaluate_output(evaluation.labels[rows], probabilities[rows], groups)
        for output, probabilities in outputs.items()
    }


def _gain(evaluation: Evaluation, others: Mapping[str, FloatArray]) -> Gain:
    """Compare the fusion with the best of the others, video by video."""
    labels, fused = evaluation.labels, evaluation.probabilities["fused"]
    best = max(others, key=lambda name: top1(labels, others[name]))
    right, right_other = (values.argmax(axis=1) == labels for values in (fused, others[best]))
    difference = right.astype(np.float64) - right_other
    gain = top1(labels, fused) - top1(labels, others[best])
    return Gain(best, gain, bootstrap_mean(difference, evaluation.groups))
