"""Draw single videos: what each stream saw and where it looked, how it weighed the steps, and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from twostream.evaluation.examples import Example
from twostream.evaluation.results import Evaluation
from twostream.inference.looks import StreamLook
from twostream.reports.outputs import COLOURS, NAMES
from twostream.reports.plots import despine, save_figure, set_title, short_name
from twostream.reports.shading import shade

_ROW, _HEADER = 2.0, 0.55  # inches


def plot_examples(evaluation: Evaluation, examples: Sequence[Example], path: Path) -> None:
    """Draw a row for each example: a picture and the weights of its steps, for each stream.

    The picture is that of the step with the largest weight. Where the stream weighs places, the others are dark;
    where it averages over them, those that do not speak for the answer.

    Args:
        evaluation: what was said of the videos.
        examples: at least one.
        path: PNG to write.
    """
    names = list(examples[0].looks)
    height = len(examples) * _ROW + _HEADER
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - _HEADER / height))
    figure = Figure(figsize=(4.6 * len(names) + 0.3, height), layout=engine)
    rows = figure.subfigures(len(examples), 1, squeeze=False)[:, 0]
    for example, row in zip(examples, rows, strict=True):
        row.suptitle(_said(evaluation, example.video), fontsize=9, x=0.01, ha="left")
        axes = row.subplots(1, 2 * len(names), width_ratios=[1.6, 1] * len(names))
        for position, name in enumerate(names):
            _draw_picture(axes[2 * position], example.looks[name], name)
            _draw_steps(axes[2 * position + 1], example.looks[name], name)
    set_title(figure, "What the network looked at, at the step with the largest weight")
    save_figure(figure, path)


def _said(evaluation: Evaluation, video: int) -> str:
    """Write the label and the answers: "Fused ✗ walk 61 %, RGB ✓ run 40 %"."""
    label = int(evaluation.labels[video])
    answers = []
    for output in evaluation.outputs:
        probabilities = evaluation.probabilities[output][video]
        said = int(probabilities.argmax())
        mark = "✓" if said == label else "✗"
        answers.append(
            f"{NAMES[output]} {mark} {short_name(evaluation.classes[said])} {100 * probabilities[said]:.0f} %"
        )
    weights = evaluation.stream_weights
    if weights is not None and (total := float(weights[video].sum())) > 0:
        answers.append(f"weight of RGB {100 * float(weights[video, 0]) / total:.0f} %")
    return f"{short_name(evaluation.classes[label])}:  {',  '.join(answers)}"


def _draw_picture(axes: Axes, look: StreamLook, name: str) -> None:
    picture, title = look.pictures[look.step], f"{NAMES[name]}, step {look.step + 1}"
    if look.places is not None:
        picture = shade(picture, look.places[look.step])
    elif look.heat is not None:
        picture, title = shade(picture, look.heat[look.step], float(look.heat.max())), f"{title}, Grad-CAM"
    axes.imshow(picture)
    axes.set_title(title, fontsize=8, color=COLOURS[name])
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_steps(axes: Axes, look: StreamLook, name: str) -> None:
    steps = np.arange(1, len(look.steps) + 1)
    axes.bar(steps, look.steps, color=COLOURS[name], width=0.8)
    axes.set_xticks(steps[:: max(1, len(steps) // 5)])
    axes.set_ylim(0, max(float(look.steps.max()) * 1.1, 1e-6))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelsize=7)
    axes.set_xlabel("step", fontsize=7.5)
    axes.set_title("weight of steps", fontsize=8)
    despine(axes)
