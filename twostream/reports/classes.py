"""Write the parts of a report that are about single classes and pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence

from twostream.evaluation.confusions import confused_pairs
from twostream.reports.document import Block, Code, Heading, Paragraph, Span, Strong, Table
from twostream.reports.explanation import SENTENCE_NAMES, plural
from twostream.reports.numbers import EMPTY, percent
from twostream.reports.outputs import NAMES
from twostream.reports.tables import Figures

_PAIRS = 6
_HIGHLIGHTS = 5


def pair_blocks(figures: Figures) -> list[Block]:
    """List the pairs of classes each output confuses most."""
    names = figures.evaluation.classes
    rows = tuple(
        (
            NAMES[output],
            names[pair.first],
            names[pair.second],
            str(pair.first_as_second),
            str(pair.second_as_first),
            percent(pair.share),
        )
        for output, matrix in figures.matrices.items()
        for pair in confused_pairs(matrix, _PAIRS)
    )
    if not rows:
        return []
    header = ("Output", "Class", "Taken for", "Videos", "The other way", "Of both (%)")
    return [
        Heading(2, "Pairs most often confused"),
        Table(header, rows, frozenset({"Output", "Class", "Taken for"})),
    ]


def highlight_blocks(figures: Figures) -> list[Block]:
    """List the best and worst classes, and those that the fusion changes most."""
    evaluation = figures.evaluation
    names, entries = evaluation.classes, figures.classes[evaluation.decision]
    present = [index for index, entry in enumerate(entries) if entry.support]
    ranked = sorted(present, key=lambda index: (-entries[index].f1, index))
    count = min(_HIGHLIGHTS, len(ranked) // 2)
    chosen = [("best", index) for index in ranked[:count]]
    chosen += [("worst", index) for index in ranked[len(ranked) - count :][::-1]]
    rows = tuple(
        (
            place,
            names[index],
            str(entries[index].support),
            percent(entries[index].f1),
            percent(entries[index].precision),
            percent(entries[index].recall),
            _confusion(figures, evaluation.decision, index),
        )
        for place, index in chosen
    )
    if not rows:
        return []
    header = ("", "Class", "Videos", "F1 (%)", "Precision (%)", "Recall (%)", "Most often taken for")
    return [
        Heading(2, f"Best and worst classes, {NAMES[evaluation.decision].lower()}"),
        Table(header, rows, frozenset({"", "Class", "Most often taken for"})),
        *_changes(figures, present),
    ]


def _changes(figures: Figures, present: Sequence[int]) -> list[Block]:
    """List the classes whose recall the fusion raises or lowers most against their better stream."""
    if "fused" not in figures.classes:
        return []
    recall = {
        output: {index: entries[index].recall for index in present}
        for output, entries in figures.classes.items()
    }
    change = {i: recall["fused"][i] - max(recall["rgb"][i], recall["flow"][i]) for i in present}
    ranked = sorted(present, key=lambda index: (-change[index], index))
    chosen = [index for index in ranked[:_HIGHLIGHTS] if change[index] > 0]
    chosen += [index for index in ranked[-_HIGHLIGHTS:] if change[index] < 0]
    if not chosen:
        return []
    names = figures.evaluation.classes
    rows = tuple(
        (
            names[index],
            *(percent(recall[output][index]) for output in ("rgb", "flow", "fused")),
            f"{100 * change[index]:+.1f}",
        )
        for index in chosen
    )
    header = ("Class", "RGB recall (%)", "Flow recall (%)", "Fused recall (%)", "Change (points)")
    text = (
        "Classes that the fusion raises and lowers most, against the better stream of each class (chosen by "
        "hindsight, so a lowered class is no proof of harm):"
    )
    return [Paragraph((text,)), Table(header, rows, frozenset({"Class"}))]


def class_table_blocks(figures: Figures) -> list[Block]:
    """Tabulate every class, the deciding output in full."""
    decision, outputs = figures.evaluation.decision, list(figures.classes)
    rows = []
    for index, name in enumerate(figures.evaluation.classes):
        entry = figures.classes[decision][index]
        cells = {
            "Class": name,
            "Videos": str(entry.support),
            "Precision": percent(entry.precision),
            "Recall": percent(entry.recall),
            "F1": percent(entry.f1),
        }
        for output in outputs[1:]:
            cells[f"F1 {SENTENCE_NAMES[output]}"] = percent(figures.classes[output][index].f1)
        cells["Most often taken for"] = _confusion(figures, decision, index)
        for output in outputs[1:]:
            cells[f"By {SENTENCE_NAMES[output]}"] = _confusion(figures, output, index)
        rows.append(cells)
    text_columns = {"Class", "Most often taken for", *(f"By {SENTENCE_NAMES[name]}" for name in outputs[1:])}
    never = [
        name
        for name, entry in zip(figures.evaluation.classes, figures.classes[decision], strict=True)
        if entry.support and not entry.predicted
    ]
    lead = (
        f"{NAMES[decision]} output unless said otherwise, in percent; recall is the top-1 of the class's "
        "videos. A dash means that the class has no videos, or none that is wrong. All outputs in full: "
    )
    text: list[Span] = [lead, Code("per_class.csv"), "."]
    if never:
        text.append(
            f" {plural(len(never), 'class')} with videos never predicted; precision and F1 count as 0: "
        )
        for position, name in enumerate(never):
            text += [", " if position else "", Strong(name)]
        text.append(".")
    table = Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), frozenset(text_columns))
    return [Paragraph(tuple(text)), table]


def _confusion(figures: Figures, output: str, index: int) -> str:
    entry = figures.classes[output][index]
    if entry.confused_with is None:
        return EMPTY
    return f"{figures.evaluation.classes[entry.confused_with]} ({entry.confused_count})"
