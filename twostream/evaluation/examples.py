"""Single videos of an evaluation, worth a look: confident errors, and what only the fusion gets right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twostream.evaluation.results import Evaluation
from twostream.inference.looks import StreamLook
from twostream.settings import StreamName

EXAMPLES = 6


@dataclass(frozen=True)
class Example:
    """A video of an evaluation, and what the network looks at in its centre clip.

    Attributes:
        video: its place among those of the evaluation.
        looks: by stream.
    """

    video: int
    looks: dict[StreamName, StreamLook]


def choose_examples(evaluation: Evaluation, count: int = EXAMPLES) -> tuple[int, ...]:
    """Choose videos by what was said of them; the same ones for the same evaluation.

    Half of them are the most confident errors, each of another confusion. The rest are the most confident right
    answers, each of another class, first where both streams alone are wrong, then where one is. Where there are too few
    of a kind, the other one fills up.

    Returns:
        Places among the evaluation's videos: errors first, then right answers.
    """
    decided = evaluation.probabilities[evaluation.decision]
    said, confidence = decided.argmax(axis=1), decided.max(axis=1)
    labels = evaluation.labels
    alone = sum(
        (evaluation.probabilities[name].argmax(axis=1) != labels).astype(int) for name in evaluation.streams
    )

    def distinct(order: np.ndarray, keys: np.ndarray) -> Iterator[int]:
        seen = set()
        for index in order.tolist():
            if (key := int(keys[index])) not in seen:
                seen.add(key)
                yield index

    classes = len(evaluation.classes)
    wrong = [i for i in np.argsort(-confidence, kind="stable") if said[i] != labels[i]]
    right = [i for i in np.lexsort((-confidence, -alone)) if said[i] == labels[i]]
    errors = list(distinct(np.array(wrong, int), labels * classes + said))
    hits = list(distinct(np.array(right, int), labels))
    kept = min(len(errors), max(count // 2, count - len(hits)))
    return (*errors[:kept], *hits[: count - kept])
