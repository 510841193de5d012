"""Write a comparison as blocks: tables in percent, and sentences that say how far they can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from twostream.evaluation.comparison import Difference
from twostream.evaluation.metrics import Interval
from twostream.reports.comparison.figures import SCORE_NAMES, Average, Comparison, Contender, Unpaired
from twostream.reports.comparison.fusion import Fused
from twostream.reports.document import (
    Block,
    Bullets,
    Code,
    CodeBlock,
    Heading,
    Paragraph,
    Picture,
    Strong,
    Table,
    Text,
)
from twostream.reports.explanation import plural
from twostream.reports.numbers import EMPTY, percent
from twostream.reports.outputs import NAMES, RUN_COLOURS

TITLES = {"top1": "Top-1", "mean_class_accuracy": "Mean class accuracy", "f1_macro": "F1 (macro)"}
_INTERVAL = "95 % interval"
_WIDEST = 6  # contenders that a table of classes has room for
_MOST_SENTENCES = 10
_FEW_GROUPS = 10  # sources below which drawing them tells too little


def comparison_blocks(
    comparison: Comparison,
    *,
    fused: Fused | None,
    quoted: pd.DataFrame,
    pictures: Sequence[str],
    command: str,
) -> list[Block]:
    """Write the report.

    Args:
        comparison: what was measured.
        fused: the fusion among the runs, or None.
        quoted: published results, as `quoted_results` gives them.
        pictures: names of the picture files that exist; only these are shown.
        command: that made the comparison; empty to leave it out.
    """
    blocks: list[Block] = [
        Bullets(tuple(_protocol(comparison, index) for index in range(len(comparison.runs)))),
        Heading(1, f"Comparison of {plural(len(comparison.runs), 'run')}"),
        *_measured(comparison),
        *_notes(comparison),
    ]
    if "comparison.png" in pictures:
        blocks.append(Picture("comparison.png", "Every row with its 95 % intervals"))
    blocks += _averages(comparison.averages)
    blocks += _pairs(comparison)
    if fused is not None:
        blocks += _fusion(fused)
    blocks += _classes(comparison, pictures)
    blocks += _quoted(quoted)
    if command:
        blocks += [Heading(2, "How to reproduce"), CodeBlock(command)]
    files: Text = (
        "At full precision: ",
        Code("comparison*.csv"),
        ". Every decision that these figures follow from: ",
        Code("comparison_predictions.csv"),
        ".",
    )
    return [*blocks, Paragraph(files)]


def label_of(comparison: Comparison, index: int) -> str:
    """Name a contender: its run, and its output where that is needed to tell contenders apart."""
    each = comparison.contenders[index]
    alone = sum(other.run is each.run for other in comparison.contenders) == 1
    return each.run.name if alone else f"{each.run.name}: {NAMES[each.output].lower()}"


def _protocol(comparison: Comparison, index: int) -> Text:
    run = comparison.runs[index]
    known = run.protocol or f"{plural(len(run.videos), 'video')} of a file of scores, protocol unknown"
    groups = "" if run.groups else " No source groups are known: every video counts as its own source."
    return Strong(run.name), f": {known}{groups}"


def _notes(comparison: Comparison) -> list[Block]:
    """Repeat what the reports of the runs note, each once, with the runs that it is about."""
    about: dict[str, list[str]] = {}
    for run in comparison.runs:
        for note in run.notes:
            about.setdefault(note, []).append(run.name)
    if not about:
        return []
    items: list[Text] = []
    for note, names in about.items():
        everywhere = len(names) == len(comparison.runs)
        items.append((note,) if everywhere else (f"{', '.join(names)}: ", note))
    return [Paragraph(("What the reports of the runs note:",)), Bullets(tuple(items))]


def _measured(comparison: Comparison) -> list[Block]:
    header = ["Run", "Output", "Data set", "Split", "Videos", "Sources"]
    for name in SCORE_NAMES:
        header += [TITLES[name], _INTERVAL]
    columns = tuple(header)
    rows = tuple(
        (
            each.run.name,
            NAMES[each.output],
            each.run.dataset,
            each.run.split,
            str(len(each.labels)),
            str(len(set(each.groups))),
            *_cells(each),
        )
        for each in comparison.contenders
    )
    text = (
        "In percent. Intervals are a bootstrap over source groups, because videos of one source are not independent. "
        "Macro averages give each class that has videos the same weight; in a draw, each class that is drawn. "
        "Where classes have few videos, macro F1 is lower in draws than over all videos, and so is its interval."
    )
    fewest = min(len(set(each.groups)) for each in comparison.contenders)
    if fewest < _FEW_GROUPS:
        text += f" {plural(fewest, 'source')} are few to draw from: these intervals are too narrow."
    sides = {each.run.side for each in comparison.contenders}
    if len(sides) > 1:
        text += f" The rows are of different sides: {', '.join(sorted(sides))}."
    return [
        Heading(2, "Measured"),
        Table(columns, rows, frozenset(columns[:4])),
        Paragraph((text,)),
    ]


def _cells(each: Contender) -> list[str]:
    cells = []
    for name in SCORE_NAMES:
        cells += [percent(getattr(each.scores, name)), ends(each.intervals[name])]
    return cells


def ends(interval: Interval) -> str:
    """Write an interval in percent; a dash where it could not be estimated."""
    return EMPTY if math.isnan(interval.low) else f"{percent(interval.low)} to {percent(interval.high)}"


def _averages(averages: Sequence[Average]) -> list[Block]:
    if not averages:
        return []
    rows = tuple(
        (
            each.family,
            NAMES[each.output],
            str(len(each.members)),
            "; ".join(dict.fromkeys(run.split for run in each.members)),
            *(f"{percent(each.mean[name])} ± {percent(each.deviation[name])}" for name in SCORE_NAMES),
        )
        for each in averages
    )
    header = ("Runs", "Output", "Number", "Splits", *(TITLES[name] for name in SCORE_NAMES))
    text = (
        "In percent: mean of the runs, each run with the same weight, ± the standard deviation between them (n - 1). "
        "It is the spread of splits and seeds, no interval of the mean; splits that share videos are not independent."
    )
    return [
        Heading(2, "Averages over splits"),
        Table(header, rows, frozenset(("Runs", "Output", "Splits"))),
        Paragraph((text,)),
    ]


def _pairs(comparison: Comparison) -> list[Block]:
    if len(comparison.contenders) < 2:
        return []
    blocks: list[Block] = [Heading(2, "On the same videos")]
    if comparison.pairs:
        header = ["A", "B", "Videos", "Only A right", "Only B right", "McNemar p", "p of all pairs"]
        for name in SCORE_NAMES:
            header += [f"{TITLES[name]}, A - B", _INTERVAL]
        columns = tuple(header)
        rows = []
        for pair in comparison.pairs:
            result, cells = pair.result, []
            for name in SCORE_NAMES:
                difference = getattr(result, name)
                cells += [points(difference.value), point_range(difference)]
            counts = result.num_videos, result.only_first, result.only_second
            rows.append(
                (
                    label_of(comparison, pair.first),
                    label_of(comparison, pair.second),
                    *map(str, counts),
                    p_value(result.p_value),
                    p_value(pair.p_holm),
                    *cells,
                )
            )
        text = (
            "Differences in points. McNemar's test is the exact one and takes videos for independent; the second p is "
            "adjusted for all pairs of the table (Holm). Intervals are a paired bootstrap over source groups: where "
            "videos of one source go right or wrong together, believe the interval. A difference whose interval holds "
            "0 is not established."
        )
        blocks += [Table(columns, tuple(rows), frozenset(("A", "B"))), Paragraph((text,))]
        other = [pair for pair in comparison.pairs if not pair.same_groups]
        if other:
            names = "; ".join(
                f"{label_of(comparison, pair.first)} and {label_of(comparison, pair.second)}"
                for pair in other[:_MOST_SENTENCES]
            )
            blocks.append(
                Paragraph((f"These group videos by other sources, of which those of A are drawn: {names}.",))
            )
    return [*blocks, *_unpaired(comparison, comparison.unpaired)]


def _unpaired(comparison: Comparison, unpaired: Sequence[Unpaired]) -> list[Block]:
    if not unpaired:
        return []
    items: list[Text] = []
    for each in unpaired[:_MOST_SENTENCES]:
        first, second = (comparison.contenders[index] for index in (each.first, each.second))
        counts = f"{len(first.labels)} and {len(second.labels)}, {each.common} in common"
        names = label_of(comparison, each.first), label_of(comparison, each.second)
        items.append((Strong(names[0]), " and ", Strong(names[1]), f": {counts}."))
    more = len(unpaired) - len(items)
    if more:
        items.append((f"{plural(more, 'further pair')}.",))
    lead = (
        "Tested on different videos, so without McNemar's test and paired bootstrap; that one interval lies above "
        "another says little:"
    )
    return [Paragraph((lead,)), Bullets(tuple(items))]


def _fusion(fused: Fused) -> list[Block]:
    a, b = fused.names
    rules: Text = (
        Strong(a),
        " and ",
        Strong(b),
        " are fused by their saved probabilities p and q: product (",
        Code("p · q"),
        ", normalised), mean (",
        Code("(p + q) / 2"),
        ") and weighted (",
        Code("p^a · q^b"),
        ", each calibrated by a temperature first, fitted on validation videos only).",
    )
    fitted = fused.weighted
    if fitted is None:
        said = f"There is no weighted fusion: {fused.reason}."
    else:
        said = (
            f"weighted: {a} {fitted.rgb_weight:.2f}, {b} {fitted.flow_weight:.2f}, temperatures "
            f"{fitted.rgb_temperature:.2f} and {fitted.flow_temperature:.2f}, exponents {fitted.rgb_exponent:.2f} and "
            f"{fitted.flow_exponent:.2f}, fitted on {plural(fitted.num_videos, 'validation video')}. The first two "
            "numbers are shares in the spread of the fused log-probabilities."
        )
    return [Heading(2, "Fusion"), Paragraph(rules), Paragraph((said,))]


def _classes(comparison: Comparison, pictures: Sequence[str]) -> list[Block]:
    shown = comparison.contenders[:_WIDEST]
    several = len(shown) > 1
    names = [label_of(comparison, index) for index in range(len(shown))]
    header = ["Class", "Videos", *(f"F1 {name}" for name in names)]
    header += [f"{name} - {names[0]}" for name in names[1:]]
    columns = tuple(header)
    rows = []
    for index, name in enumerate(comparison.class_names):
        entries = [each.classes[index] for each in shown]
        changes = [points(entry.f1 - entries[0].f1) for entry in entries[1:]]
        support = ", ".join(dict.fromkeys(str(entry.support) for entry in entries))
        rows.append((name, support, *(percent(entry.f1) for entry in entries), *changes))
    text = "F1 in percent"
    text += f", and differences to {names[0]} in points." if several else "."
    if len(comparison.contenders) > len(shown):
        text += f" The first {len(shown)} of {len(comparison.contenders)} rows; the others are in the CSV."
    text += " A class has few videos: single differences are mostly chance."
    blocks: list[Block] = [
        Heading(2, "Classes"),
        Paragraph((text, " Precision and recall: ", Code("comparison_classes.csv"), ".")),
        Table(columns, tuple(rows), frozenset(("Class",))),
    ]
    if "comparison_classes.png" in pictures:
        caption = f"F1 of every class, difference to {names[0]}"
        if len(comparison.contenders) - 1 > len(RUN_COLOURS):
            caption += f", of the {len(RUN_COLOURS)} rows that follow it"
        blocks.append(Picture("comparison_classes.png", caption))
    return blocks


def _quoted(quoted: pd.DataFrame) -> list[Block]:
    if quoted.empty:
        return []
    names = ["data_set", "split", "method", "quantity", "value", "source"]
    rows = tuple(
        tuple(percent(value) if isinstance(value, float) else str(value) for value in row)
        for row in quoted[names].itertuples(index=False)
    )
    header = ("Data set", "Split", "Method", "Figure", "Quoted (%)", "Source")
    text = (
        "Published by others and quoted from their papers, under the names that they use; nothing in this table was "
        "measured here. Other data sets, splits, pretraining and protocols: these rows are no baseline for the rows "
        "above."
    )
    return [
        Heading(2, "Quoted, not measured"),
        Paragraph((text,)),
        Table(header, rows, frozenset(header) - {"Quoted (%)"}),
    ]


def p_value(value: float) -> str:
    """Write a p-value with three decimals, or that it is below what they can show."""
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def points(value: float) -> str:
    """Write a difference in points with its sign; a dash for NaN, and never a negative zero."""
    return EMPTY if math.isnan(value) else f"{round(100 * value, 1) + 0.0:+.1f}"


def point_range(difference: Difference) -> str:
    """Write the interval of a difference in points; a dash where it could not be estimated."""
    low, high = difference.interval.low, difference.interval.high
    return EMPTY if math.isnan(low) else f"{points(low)} to {points(high)}"
