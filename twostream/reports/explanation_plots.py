"""Draw the explanation of one video: what each stream saw, where and when it looked, and what was said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter

from twostream.inference.explanation import Explanation
from twostream.inference.looks import StreamLook
from twostream.reports.outputs import COLOURS, NAMES, PALE_COLOURS
from twostream.reports.plots import despine, save_figure, short_name
from twostream.reports.shading import shade
from twostream.settings import StreamName

TOP = 5  # classes that are named of each output
_MOST_STEPS = 8  # that have room for a picture
_COLUMN, _ANSWERS, _LABEL = 1.25, 3.1, 0.9  # inches
_HEADER, _BARS, _CAPTIONS = 0.5, 0.75, 0.55


def plot_explanation(explanation: Explanation, path: Path) -> None:
    """Draw an explanation as one picture.

    For each stream the pictures that it saw, the same dark where nothing speaks for the answer (Grad-CAM) and, where
    the stream weighs places, dark where it did not look, then the weights of the steps; beside them the best classes
    of every output, and the weights of the streams. Of more than eight steps eight are shown.

    Args:
        explanation: of the video.
        path: PNG to write.
    """
    looks = explanation.looks
    shown = {name: _spread(len(explanation.frames[name])) for name in looks}
    heights = [_block_height(look) for look in looks.values()]
    width = _LABEL + _COLUMN * max(map(len, shown.values())) + _ANSWERS
    figure = Figure(figsize=(width, max(sum(heights), 3.0) + _HEADER))
    body = figure.subfigures(2, 1, height_ratios=[_HEADER, max(sum(heights), 3.0)], hspace=0, squeeze=False)[
        :, 0
    ]
    _write_header(body[0], explanation)
    left, right = body[1].subfigures(1, 2, width_ratios=[width - _ANSWERS, _ANSWERS], wspace=0)
    blocks = left.subfigures(len(looks), 1, height_ratios=heights, hspace=0, squeeze=False)[:, 0]
    for (name, look), block in zip(looks.items(), blocks, strict=True):
        _draw_stream(block, explanation, name, look, shown[name])
    _draw_answers(right, explanation)
    save_figure(figure, path)


def answer(explanation: Explanation, output: str) -> str:
    """Say what an output decided: "RGB: jump 83 %"."""
    probabilities = explanation.prediction.probabilities[output]
    best = int(probabilities.argmax())
    return f"{NAMES[output]}: {short_name(explanation.classes[best])} {100 * probabilities[best]:.0f} %"


def _spread(count: int) -> npt.NDArray[np.int64]:
    """Choose the steps to show, evenly among those that count."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_STEPS)).round().astype(np.int64))


def _block_height(look: StreamLook) -> float:
    height, width = map(int, look.pictures.shape[1:3])
    return _rows(look) * _COLUMN * height / width + _BARS + _CAPTIONS


def _rows(look: StreamLook) -> int:
    return 1 + (look.heat is not None) + (look.places is not None)


def _write_header(header: SubFigure, explanation: Explanation) -> None:
    name = explanation.prediction.video.name
    header.text(0.01, 0.62, short_name(name, 60), fontsize=12, va="center")
    outputs = list(explanation.prediction.probabilities)
    header.text(
        0.01, 0.12, ",   ".join(answer(explanation, output) for output in outputs), fontsize=9, va="center"
    )


def _draw_stream(
    block: SubFigure,
    explanation: Explanation,
    name: StreamName,
    look: StreamLook,
    steps: npt.NDArray[np.int64],
) -> None:
    said = short_name(explanation.classes[explanation.target])
    rows = [("saw", look.pictures[steps])]
    if look.heat is not None:
        largest = float(look.heat.max())
        rows.append(
            (
                f"speaks for\n{said}\n(Grad-CAM)",
                np.stack([shade(look.pictures[step], look.heat[step], largest) for step in steps]),
            )
        )
    if look.places is not None:
        rows.append(
            (
                "attention\nover places",
                np.stack([shade(look.pictures[step], look.places[step]) for step in steps]),
            )
        )
    picture = _COLUMN * look.pictures.shape[1] / look.pictures.shape[2]
    total = _block_height(look)
    block_width = block.bbox.width / block.figure.dpi
    columns = _COLUMN * len(steps)
    grid = block.add_gridspec(
        len(rows) + 1,
        len(steps),
        height_ratios=[picture] * len(rows) + [_BARS],
        left=_LABEL / block_width,
        right=(_LABEL + columns) / block_width,
        top=1 - 0.22 / total,
        bottom=0.33 / total,
        wspace=0.04,
        hspace=0.04,
    )
    for row, (label, pictures) in enumerate(rows):
        for column, step in enumerate(steps):
            axes = block.add_subplot(grid[row, column])
            axes.imshow(pictures[column], aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(f"frame {explanation.frames[name][step]}", fontsize=8, pad=3)
            if column == 0:
                text = f"{NAMES[name]}\n{label}"
                axes.set_ylabel(
                    text, fontsize=8, rotation=0, ha="right", va="center", color=COLOURS[name], labelpad=4
                )
    axes = block.add_subplot(grid[len(rows), :])
    axes.bar(np.arange(len(steps)), look.steps[steps], color=COLOURS[name], width=0.6)
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylim(0, max(float(look.steps.max()) * 1.1, 1e-6))
    axes.set_xticks(np.arange(len(steps)), [f"step {step + 1}" for step in steps], fontsize=7.5)
    axes.tick_params(axis="y", labelsize=7)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("weight\nof steps", fontsize=8, rotation=0, ha="right", va="center", labelpad=4)
    despine(axes)


def _draw_answers(side: SubFigure, explanation: Explanation) -> None:
    """Draw the best classes of every output, and below them how the streams were weighed."""
    prediction = explanation.prediction
    outputs = list(prediction.probabilities)
    weights = prediction.stream_weights
    rows = [1.0] * len(outputs) + ([0.3] if weights is not None else [])
    panels = np.atleast_1d(
        side.subplots(
            len(rows),
            1,
            height_ratios=rows,
            gridspec_kw={"left": 0.45, "right": 0.93, "top": 0.95, "bottom": 0.1, "hspace": 0.45},
        )
    )
    for axes, output in zip(panels, outputs, strict=False):
        _draw_best(axes, explanation, output)
    if weights is not None:
        total = max(float(weights.sum()), 1e-12)
        share = float(weights[0]) / total
        axes = panels[-1]
        axes.barh([0], [share], color=PALE_COLOURS["rgb"])
        axes.barh([0], [1 - share], left=[share], color=PALE_COLOURS["flow"])
        axes.set_xlim(0, 1)
        axes.set_xticks([])
        axes.set_yticks([])
        text = f"weights: RGB {100 * share:.0f} %, flow {100 - 100 * share:.0f} %"
        axes.set_title(text, fontsize=9)
        for spine in axes.spines.values():
            spine.set_visible(False)


def _draw_best(axes: Axes, explanation: Explanation, output: str) -> None:
    probabilities = explanation.prediction.probabilities[output]
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    rows = np.arange(len(best))
    axes.barh(rows, probabilities[best], color=COLOURS[output], height=0.7)
    for row, index in enumerate(best.tolist()):
        value = float(probabilities[index])
        inside = value > 0.7
        axes.text(
            value - 0.02 if inside else value + 0.02,
            row,
            f"{100 * value:.1f} %",
            ha="right" if inside else "left",
            va="center",
            fontsize=7.5,
            color="white" if inside else "black",
        )
    axes.set_yticks(rows, [short_name(explanation.classes[index]) for index in best], fontsize=8)
    axes.set_ylim(len(best) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_title(NAMES[output], fontsize=9, color=COLOURS[output])
    despine(axes)
