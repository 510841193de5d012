"""What a page shows and a picture cannot: matrices whose cells lead to videos, and a table of every video."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.evaluation.metrics import IntArray, label_ranks, normalize_rows
from twostream.evaluation.results import Evaluation
from twostream.evaluation.strips import STRIP_BYTES, STRIP_PLACES, Strips
from twostream.reports.document import Block, Heading, Picture
from twostream.reports.explanation import plural
from twostream.reports.numbers import percent
from twostream.reports.outputs import NAMES
from twostream.reports.tables import Figures
from twostream.reports.text import MATRIX_PICTURES, REPRODUCE, WIDE

VIDEOS = "Every video"


@dataclass(frozen=True)
class Cell:
    """Hold a cell of a matrix: how many videos, and how strong its colour is, from 0 to 1."""

    count: int
    strength: float


@dataclass(frozen=True)
class Matrix:
    """Hold the confusion matrix of one output.

    Attributes:
        output: the output.
        name: what it is called.
        right: how many videos it gets right.
        rows: (C, C) cells, true classes in rows; None in place of a row without videos.
    """

    output: str
    name: str
    right: int
    rows: tuple[tuple[Cell, ...] | None, ...]


@dataclass(frozen=True)
class Matrices:
    """Hold the confusion matrices of all outputs, the deciding one first; `wide` if there are many classes."""

    classes: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    videos: int
    wide: bool


@dataclass(frozen=True)
class VideoRow:
    """Hold what was said of a video: classes by number, the answers in the order of the outputs."""

    video: str
    label: int
    answers: tuple[int, ...]
    confidence: str
    rank: int
    strip: str


@dataclass(frozen=True)
class Videos:
    """Hold a table of every video, the deciding output first, and a sentence on its pictures."""

    classes: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    rows: tuple[VideoRow, ...]
    about: str


PageBlock = Block | Matrices | Videos


def live_blocks(figures: Figures, blocks: Sequence[Block], strips: Strips | None) -> list[PageBlock]:
    """Put matrices that lead to videos in the place of their pictures, and a table of every video before the command.

    Args:
        figures: what the report is about.
        blocks: the report.
        strips: pictures of the videos; None where the cache was not at hand.
    """
    found: list[PageBlock] = []
    for block in blocks:
        if isinstance(block, Picture) and block.file in MATRIX_PICTURES:
            if block.file == MATRIX_PICTURES[0]:
                found.append(_matrices(figures))
            continue
        if block == Heading(2, REPRODUCE):
            found += [Heading(2, VIDEOS), _videos(figures.evaluation, strips)]
        found.append(block)
    return found


def _matrices(figures: Figures) -> Matrices:
    classes = figures.evaluation.classes
    wide = len(classes) > WIDE
    return Matrices(
        classes,
        tuple(_matrix(output, counts, wide) for output, counts in figures.matrices.items()),
        len(figures.evaluation.labels),
        wide,
    )


def _matrix(output: str, counts: IntArray, wide: bool) -> Matrix:
    shares = normalize_rows(counts)
    strength = (np.sqrt(shares) if wide else shares).round(3).tolist()
    rows = tuple(
        tuple(map(Cell, numbers, strong)) if sum(numbers) else None
        for numbers, strong in zip(counts.tolist(), strength, strict=True)
    )
    return Matrix(output, NAMES[output], int(np.trace(counts)), rows)


def _videos(evaluation: Evaluation, strips: Strips | None) -> Videos:
    decided = evaluation.probabilities[evaluation.decision]
    answers = np.stack([evaluation.predictions(output) for output in evaluation.outputs], axis=1).tolist()
    pictures = {} if strips is None else strips.pictures
    rows = [
        VideoRow(video, *cells, base64.b64encode(pictures.get(index, b"")).decode("ascii"))
        for index, (video, cells) in enumerate(
            zip(
                evaluation.videos,
                zip(
                    evaluation.labels.tolist(),
                    map(tuple, answers),
                    map(percent, decided.max(axis=1).tolist()),
                    label_ranks(evaluation.labels, decided).tolist(),
                    strict=True,
                ),
                strict=True,
            )
        )
    ]
    outputs = tuple((output, NAMES[output]) for output in evaluation.outputs)
    return Videos(evaluation.classes, outputs, tuple(rows), _about_strips(len(rows), strips))


def _about_strips(videos: int, strips: Strips | None) -> str:
    if strips is None:
        return (
            "There are no pictures of the videos here: the report was written from what is kept of the evaluation, "
            "without the flow cache."
        )
    shown, failed = len(strips.pictures), len(strips.unreadable)
    text = (
        f"{shown} of {plural(videos, 'video')} can be opened: up to {STRIP_PLACES} frames from start to end, above the "
        "flow at each, whose hue is its direction."
    )
    if shown + failed < videos:
        text += (
            f" These are as many as fit into {STRIP_BYTES / 1e6:g} MB, the errors first, the most confident first, "
            "then the right answers, the least confident first."
        )
    if failed:
        text += f" {plural(failed, 'video')} could not be read: {'; '.join(list(strips.unreadable.values())[:3])}."
    return text
