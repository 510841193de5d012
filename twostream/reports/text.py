"""Write the sections of a report as blocks: tables in percent, and sentences that say what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from twostream.errors import first_names
from twostream.evaluation.metrics import OutputMetrics
from twostream.evaluation.results import Protocol
from twostream.reports.calibration import calibration_blocks
from twostream.reports.classes import class_table_blocks, highlight_blocks, pair_blocks
from twostream.reports.document import (
    Block,
    Bullets,
    Code,
    CodeBlock,
    Heading,
    Paragraph,
    Picture,
    Span,
    Strong,
    Table,
)
from twostream.reports.explanation import SENTENCE_NAMES, explanation_blocks, plural
from twostream.reports.fusions import fusion_blocks
from twostream.reports.numbers import EMPTY, gain_interval, interval, percent
from twostream.reports.outputs import NAMES
from twostream.reports.tables import Figures

_GROUPS = 10
WIDE = 24
"""Classes above which confusion matrices are too large for a page, and their colours on a square root scale."""

MATRIX_PICTURES = ("confusion_matrix.png", "confusion_matrix_streams.png")
REPRODUCE = "How to reproduce"
_WEIGHT_ROWS = 24
_SEEN_NAMES = 20


def report_blocks(figures: Figures, pictures: Sequence[str]) -> list[Block]:
    """Write the report.

    Args:
        figures: figures of an evaluation.
        pictures: names of the picture files that exist; only these are shown.
    """
    protocol = figures.evaluation.protocol
    blocks: list[Block] = [
        *_opening(protocol),
        Heading(1, f"Evaluation of {protocol.dataset}, {protocol.side} side"),
        *_summary(figures),
        *fusion_blocks(figures),
        *calibration_blocks(figures),
        *_leakage(figures),
        *_agreement(figures),
        *explanation_blocks(figures, limit=_GROUPS),
        *pair_blocks(figures),
        *highlight_blocks(figures),
    ]
    if "per_class_f1.png" in pictures:
        blocks.append(Picture("per_class_f1.png", "F1 of every class, one mark per output"))
    blocks += _weights(figures, pictures)
    blocks += _matrices(figures, pictures)
    if "examples.png" in pictures:
        blocks += _examples()
    if "curves.png" in pictures:
        caption = "Loss and top-1 over the epochs, training dashed and validation solid"
        blocks += [Heading(2, "Training"), Picture("curves.png", caption)]
    return [*blocks, Heading(2, "Every class"), *class_table_blocks(figures), *_reproduce(figures)]


def _examples() -> list[Block]:
    text = (
        "The centre clip of a few videos: the most confident errors, each of another confusion, then right answers, "
        "first where both streams alone are wrong. The picture is that of the step with the largest weight; the hue of "
        "flow is its direction. Where a stream weighs places, those with little weight are dark; where it averages "
        "over them, those that do not speak for the answer (Grad-CAM). What was said is that of all clips and views."
    )
    caption = "A few videos: frame, flow, weights of places and steps, and what each output said"
    return [Heading(2, "What the network looked at"), Paragraph((text,)), Picture("examples.png", caption)]


def per_class_blocks(figures: Figures) -> list[Block]:
    """Write the per-class report: what each stream cannot tell apart in sentences, then the table."""
    protocol = figures.evaluation.protocol
    return [
        *_opening(protocol),
        Heading(1, f"Classes of {protocol.dataset}, {protocol.side} side"),
        *explanation_blocks(figures),
        Heading(2, "Every class"),
        *class_table_blocks(figures),
    ]


def _opening(protocol: Protocol) -> list[Block]:
    """Write what every report opens with: the protocol, and below it what forbids to take the figures for a test."""
    line = Paragraph((protocol.line(),))
    if not protocol.seen:
        return [line]
    text = (
        f" The checkpoint was trained or validated on {len(protocol.seen)} of {plural(protocol.num_videos, 'video')},"
        f" or on other clips of their sources: {first_names(protocol.seen, _SEEN_NAMES)}."
    )
    return [line, Paragraph((Strong("Not a test on unseen videos."), text))]


def _summary(figures: Figures) -> list[Block]:
    evaluation, overall = figures.evaluation, figures.overall
    first = overall[evaluation.decision]
    counts = np.bincount(evaluation.labels)
    majority = counts.max() / counts.sum()
    named = f"{len(evaluation.classes)} classes"
    if first.num_classes < len(evaluation.classes):
        named += f", {first.num_classes} of them with videos"
    text = (
        f"{plural(first.num_videos, 'video')} of {plural(first.num_groups, 'source group')}; {named}. Always "
        f"naming the most frequent class would reach a top-1 of {percent(majority)} %."
    )
    blocks: list[Block] = [
        Heading(2, "Summary"),
        Paragraph((text,)),
        _overall_table(overall, evaluation.outputs),
        Paragraph((_legend(first),)),
    ]
    if figures.gain is not None:
        best = figures.gain.over
        direction = "above" if figures.gain.top1 >= 0 else "below"
        gain = (
            f" Fused top-1 is {percent(first.top1)} %, {100 * abs(figures.gain.top1):.1f} points {direction} the "
            f"better single stream, {SENTENCE_NAMES[best]} with {percent(overall[best].top1)} %"
        )
        blocks.append(Paragraph((Strong("Fusion gain."), gain, gain_interval(figures.gain.interval), ".")))
    return blocks


def _overall_table(overall: dict[str, OutputMetrics], outputs: Sequence[str]) -> Table:
    rows = []
    for output in outputs:
        values = overall[output]
        cells = {
            "Output": NAMES[output],
            "Top-1": percent(values.top1),
            "95 % interval": interval(values),
            "Top-5": percent(values.top5),
            "Mean class accuracy": percent(values.mean_class_accuracy),
            "Precision (macro)": percent(values.precision_macro),
            "Recall (macro)": percent(values.recall_macro),
            "F1 (macro)": percent(values.f1_macro),
            "Precision (weighted)": percent(values.precision_weighted),
            "F1 (weighted)": percent(values.f1_weighted),
        }
        if values.top5 is None:
            del cells["Top-5"]
        rows.append(cells)
    return Table(
        tuple(rows[0]), tuple(tuple(cells.values()) for cells in rows), text_columns=frozenset({"Output"})
    )


def _legend(first: OutputMetrics) -> str:
    how = "a bootstrap over source groups, because videos of one source are not independent"
    if math.isnan(first.top1_low):
        how = "left out, because it takes two source groups or more"
    text = (
        f"In percent. The interval is of top-1: {how}. Macro averages give each class that has videos the same "
        "weight, so macro recall is the mean class accuracy; weighted averages count videos, so weighted recall "
        "is top-1."
    )
    if first.top5 is None:
        text += " Top-5 is left out: with five classes or fewer it is always 100."
    return text


def _leakage(figures: Figures) -> list[Block]:
    shared = figures.evaluation.shared_source
    if shared is None:
        return []
    heading = Heading(2, "Sources shared with training")
    count = int(shared.sum())
    if count == 0:
        return [heading, Paragraph(("No video comes from a source that training saw, of whatever class.",))]
    why = (
        "come from a source whose other clips, of other classes, are in the training side: scene and people may "
        "have been seen there"
    )
    if figures.evaluation.protocol.seen:
        why = "were seen in training or validation, or share their source with videos that were"
    text = f"{count} of {plural(len(shared), 'video')} {why}."
    if not figures.leak_free:
        return [heading, Paragraph((f"{text} No video is left to measure without them.",))]
    rest = next(iter(figures.leak_free.values())).num_videos
    return [
        heading,
        Paragraph((f"{text} On the other {rest}:",)),
        _overall_table(figures.leak_free, figures.evaluation.outputs),
    ]


def _agreement(figures: Figures) -> list[Block]:
    agreement = figures.agreement
    if agreement is None:
        return []
    total = figures.evaluation.labels.size
    rows = tuple(
        (
            name,
            str(videos),
            percent(videos / total),
            str(right),
            percent(right / videos) if videos else EMPTY,
        )
        for name, (videos, right) in (
            ("both streams", agreement.both),
            ("RGB only", agreement.only_rgb),
            ("flow only", agreement.only_flow),
            ("neither", agreement.neither),
        )
    )
    text = (
        f"At least one stream is right on {percent(agreement.either / total)} % of the videos: the most "
        "that a perfect choice between both could reach; a fusion of features can pass it."
    )
    header = ("Right", "Videos", "Share (%)", "Fused right", "Fused right (%)")
    return [
        Heading(2, "Which stream is right"),
        Table(header, rows, frozenset({"Right"})),
        Paragraph((text,)),
    ]


def _weights(figures: Figures, pictures: Sequence[str]) -> list[Block]:
    weights = figures.weights
    if weights is None or figures.evaluation.stream_weights is None:
        return []
    mean = figures.evaluation.stream_weights.mean(axis=0)
    names = figures.evaluation.classes
    order = [int(index) for index in np.argsort(-weights[:, 0]) if not np.isnan(weights[index, 0])]
    text = f"Over all videos the fusion gives RGB {percent(mean[0])} % and flow {percent(mean[1])} %."
    if len(order) > _WEIGHT_ROWS:
        half = _WEIGHT_ROWS // 2
        order = order[:half] + order[-half:]
        text += f" Below, the {half} classes with most weight on RGB and the {half} with most on flow."
    rows = tuple((names[i], percent(weights[i, 0]), percent(weights[i, 1])) for i in order)
    blocks: list[Block] = [
        Heading(2, "Stream weights per class"),
        Paragraph((text, " Means per class are in ", Code("per_class.csv"), ".")),
        Table(("Class", "RGB (%)", "Flow (%)"), rows, frozenset({"Class"})),
    ]
    if "stream_weights.png" in pictures:
        blocks.append(Picture("stream_weights.png", "Mean weight of RGB and flow in the fusion, per class"))
    return blocks


def _matrices(figures: Figures, pictures: Sequence[str]) -> list[Block]:
    evaluation = figures.evaluation
    wide = len(evaluation.classes) > WIDE
    shown = [
        Picture(file, caption, wide)
        for file, caption in zip(
            MATRIX_PICTURES,
            (f"Confusion matrix, {NAMES[evaluation.decision].lower()}", "Confusion matrices side by side"),
            strict=True,
        )
        if file in pictures
    ]
    text = (
        "True classes in rows, predicted classes in columns; the colour is the share of the class's videos"
        f"{', on a square root scale' if wide else ''}. Hatched rows have no videos. Counts: "
    )
    files: list[Span] = [Code("confusion_matrix.csv")]
    for stream in evaluation.streams if len(figures.matrices) > 1 else ():
        files += [", ", Code(f"confusion_matrix_{stream}.csv")]
    return [Heading(2, "Confusion matrices"), Paragraph((text, *files, ".")), *shown]


def _reproduce(figures: Figures) -> list[Block]:
    protocol = figures.evaluation.protocol
    blocks: list[Block] = [
        Heading(2, REPRODUCE),
        CodeBlock(protocol.command),
        Paragraph(
            (
                "Predictions of every video: ",
                Code("predictions.csv"),
                "; every probability, to draw this report again or compare runs: ",
                Code("evaluation.npz"),
                ".",
            )
        ),
    ]
    if protocol.notes:
        blocks += [Heading(2, "Notes"), Bullets(tuple((note,) for note in protocol.notes))]
    return blocks
