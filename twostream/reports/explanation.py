"""Say in plain sentences which classes each stream cannot tell apart, and which of these the fusion can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from twostream.evaluation.confusions import (
    MIN_ERRORS,
    MIN_SUPPORT,
    THRESHOLD,
    ConfusionGroup,
    Resolution,
    confusion_groups,
    resolve,
)
from twostream.reports.document import Block, Bullets, Code, Heading, Paragraph, Span, Strong, Text
from twostream.reports.tables import Figures

SENTENCE_NAMES = {"fused": "the fusion", "rgb": "RGB", "flow": "flow"}
_HEADINGS = {"fused": "Fusion", "rgb": "RGB alone", "flow": "Flow alone"}
_SUBJECTS = {"fused": "The fusion", "rgb": "RGB", "flow": "Flow"}


def explanation_blocks(figures: Figures, limit: int | None = None) -> list[Block]:
    """Write the section on classes that are not told apart.

    Args:
        figures: figures of an evaluation.
        limit: the most groups to list per output, those with the most errors; None for all.
    """
    streams = figures.evaluation.streams
    several = len(figures.matrices) > 1
    limit_text = f"{100 * THRESHOLD:.0f} % or more"
    rule = (
        "Two classes count as not told apart by an output if its answers for videos of the one and of the "
        f"other agree to {limit_text}, or if the shares of their videos that are taken for the other class "
        f"add up to {limit_text}. A group of classes is listed if that holds for its pairs on average. "
        f"Classes with fewer than {MIN_SUPPORT} videos and groups with fewer than {MIN_ERRORS} errors are "
        "left out: they would show chance, not a pattern."
    )
    if several:
        rule += (
            " The fusion resolves a group if it holds for no part of it under the fusion, and more of its "
            "videos are right."
        )
    blocks: list[Block] = [
        Heading(2, "What each stream cannot tell apart" if several else "What the stream cannot tell apart"),
        Paragraph((rule,)),
    ]
    for output in (*streams, "fused") if several else streams:
        if several:
            blocks.append(Heading(3, _HEADINGS[output]))
        blocks += _explain(figures, output, limit)
    return blocks


def join_names(names: Iterable[str]) -> Text:
    """Join class names to "A, B and C", each marked as strong."""
    spans: list[Span] = []
    listed = list(names)
    for position, name in enumerate(listed):
        if position:
            spans.append(" and " if position == len(listed) - 1 else ", ")
        spans.append(Strong(name))
    return tuple(spans)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 video", "2 videos", "2 classes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def _explain(figures: Figures, output: str, limit: int | None) -> list[Block]:
    matrix = figures.matrices[output]
    groups = confusion_groups(matrix)
    subject = _SUBJECTS[output]
    if not groups:
        errors = int(matrix.sum() - np.trace(matrix))
        ending = {0: "it makes no error", 1: "it makes 1 error"}.get(
            errors, f"its {errors} errors are spread"
        )
        return [Paragraph((f"{subject} confuses no group of classes by this measure; {ending}.",))]
    blocks: list[Block] = []
    opening = f"{subject} cannot tell apart the classes of {plural(len(groups), 'group')}"
    resolutions: Sequence[Resolution | None] = [None] * len(groups)
    if output != "fused" and "fused" in figures.matrices:
        found = [resolve(group, figures.matrices["fused"]) for group in groups]
        resolutions = found
        parts = [
            f"{count} {words}"
            for verdict, words in (
                ("resolved", "resolved by the fusion"),
                ("partly", "resolved in part"),
                ("unresolved", "not resolved"),
            )
            if (count := sum(entry.verdict == verdict for entry in found))
        ]
        opening += f": {', '.join(parts)}"
    blocks.append(Paragraph((f"{opening}.",)))
    shown = groups[:limit]
    sentences = [
        _sentence(figures, output, group, resolution)
        for group, resolution in zip(shown, resolutions, strict=False)
    ]
    blocks.append(Bullets(tuple(sentences)))
    if len(shown) < len(groups):
        rest = f"{plural(len(groups) - len(shown), 'group')} with fewer errors: see "
        blocks.append(Paragraph((rest, Code("per_class.md"), ".")))
    return blocks


def _sentence(figures: Figures, output: str, group: ConfusionGroup, resolution: Resolution | None) -> Text:
    """Say what an output confuses, how well the others do on the same videos, and whether the fusion resolves it."""
    names = figures.evaluation.classes
    text: list[Span] = [f"{_SUBJECTS[output]} cannot tell apart "]
    text += join_names(names[index] for index in group.classes)
    right = f"{group.correct} right ({_share(group.correct, group)})"
    text.append(f": of their {plural(group.videos, 'video')} it gets {right}")
    others = [name for name in (*figures.evaluation.streams, "fused") if name != output]
    compared = [(name, resolve(group, figures.matrices[name])) for name in others if name in figures.matrices]
    for position, (name, other) in enumerate(compared):
        text.append(" and " if position and position == len(compared) - 1 else ", ")
        text.append(f"{SENTENCE_NAMES[name]} {other.correct} ({_share(other.correct, group)})")
    text.append(".")
    # not confused with each other, but perhaps with others: a stream may know every motion and not who performs it
    able = [_SUBJECTS[name] for name, other in compared if name != "fused" and not other.remaining]
    if able:
        subject = f"{able[0]} does" if len(able) == 1 else "RGB and flow do"
        text.append(f" {subject} not confuse them with each other.")
    if resolution is None:
        return tuple(text)
    if resolution.verdict == "resolved":
        text.append(" The fusion resolves them.")
    elif resolution.verdict == "unresolved":
        text.append(" The fusion does not resolve them.")
    else:
        text.append(" The fusion resolves them in part: it still cannot tell apart ")
        for position, part in enumerate(resolution.remaining):
            text += ["; nor " if position else "", *join_names(names[index] for index in part)]
        text.append(".")
    return tuple(text)


def _share(correct: int, group: ConfusionGroup) -> str:
    return f"{100 * correct / group.videos:.1f} %"
