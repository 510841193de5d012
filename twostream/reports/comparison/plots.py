"""Draw the pictures of a comparison, like those of every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from twostream.evaluation.metrics import Float64Array
from twostream.reports.outputs import COLOURS, NAMES, OTHER_COLOUR, RUN_COLOURS
from twostream.reports.plots import MARKERS, class_panels, despine, save_figure, set_title

_OTHER_MARKER = "^"
_RUN_MARKERS = ("o", "s", "D", "^")
_LONGEST_LABEL = 44


@dataclass(frozen=True)
class ForestRow:
    """Name one row of a forest plot: its label, its output, and (value, low, high) in [0, 1] by panel."""

    label: str
    output: str
    values: Mapping[str, tuple[float, float, float]]


def plot_forest(rows: Sequence[ForestRow], path: Path) -> None:
    """Draw every row's figures as dots with their 95 % intervals, a panel a figure, the rows in the order given.

    Args:
        rows: at least one; all with the same panels; an interval of NaN is left out.
        path: PNG to write.
    """
    titles = list(rows[0].values)
    names = [_fit(row.label) for row in rows]
    label, plot, gap, right = 0.3 + max(map(len, names)) * 8.5 * 0.62 / 72, 2.7, 0.3, 0.2
    header, row_height, footer = 1.0, 0.3, 0.55
    width = label + len(titles) * plot + (len(titles) - 1) * gap + right
    height = header + len(rows) * row_height + footer
    figure = Figure(figsize=(width, height))
    for position, title in enumerate(titles):
        left, tall = label + position * (plot + gap), len(rows) * row_height
        axes = figure.add_axes((left / width, footer / height, plot / width, tall / height))
        for place, row in enumerate(rows):
            value, low, high = (100 * number for number in row.values[title])
            colour = COLOURS.get(row.output, OTHER_COLOUR)
            axes.hlines(place, low, high, color=colour, linewidth=1.6, zorder=2)
            axes.plot(
                value,
                place,
                MARKERS.get(row.output, _OTHER_MARKER),
                color=colour,
                markersize=6,
                markerfacecolor=colour if row.output == "fused" else "white",
                markeredgewidth=1.4,
                clip_on=False,
                zorder=3,
            )
        axes.set_yticks(range(len(rows)), names if position == 0 else [""] * len(rows), fontsize=8.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(color="#e2e2e2", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{title} (%)", fontsize=9)
        despine(axes)
    outputs = dict.fromkeys(row.output for row in rows)
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS.get(output, OTHER_COLOUR),
            marker=MARKERS.get(output, _OTHER_MARKER),
            markerfacecolor=COLOURS[output] if output == "fused" else "white",
            markeredgewidth=1.4,
            linewidth=1.6,
            label=NAMES.get(output, output),
        )
        for output in outputs
        if output in COLOURS
    ]
    if any(output not in COLOURS for output in outputs):
        others = ", ".join(NAMES.get(name, name) for name in outputs if name not in COLOURS)
        handles.append(
            Line2D(
                [],
                [],
                color=OTHER_COLOUR,
                marker=_OTHER_MARKER,
                markerfacecolor="white",
                markeredgewidth=1.4,
                linewidth=1.6,
                label=others,
            )
        )
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.36 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handlelength=1.6,
    )
    set_title(figure, "Figures of every run, with 95 % intervals")
    save_figure(figure, path)


def plot_class_differences(
    differences: Mapping[str, Float64Array],
    outputs: Sequence[str],
    first: str,
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw by how much each run's F1 of every class is above or below the first run's, the largest gain on top.

    Args:
        differences: label of a run to (C,) float64 in [-1, 1], NaN for absent classes; the first one sorts, and no
            more than four are drawn.
        outputs: the output of each; they give the colours where every run shows another one.
        first: label of the run that the others are held against.
        classes: C names.
        path: PNG to write.
    """
    shown = dict(list(differences.items())[: len(RUN_COLOURS)])
    leading = next(iter(shown.values()))
    order = np.lexsort((np.arange(len(classes)), -np.nan_to_num(leading, nan=-9.0)))
    chosen_outputs = list(outputs[: len(shown)])
    styles = list(zip(RUN_COLOURS, _RUN_MARKERS, strict=True))
    if len(set(chosen_outputs)) == len(shown) and set(chosen_outputs) <= set(COLOURS):
        styles = [(COLOURS[output], MARKERS[output]) for output in chosen_outputs]
    legend = 0.24 * len(shown)
    figure, panels = class_panels([classes[index] for index in order], header=0.65 + legend)
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in shown.values())
    limit = 100 * max(0.1, 1.08 * largest)  # no mark on the names at the left
    offsets = np.linspace(-0.24, 0.24, len(shown)) if len(shown) > 1 else [0.0]
    for axes, start, stop in panels:
        rows, chosen = np.arange(stop - start), order[start:stop]
        for row in rows[np.isnan(leading[chosen])]:
            axes.text(0, row, "no videos", fontsize=8, va="center", ha="center", color=OTHER_COLOUR)
        for values, (colour, marker), offset in zip(shown.values(), styles, offsets, strict=False):
            points = 100 * values[chosen]
            axes.hlines(rows + offset, 0, points, color=colour, linewidth=1.6, zorder=2)
            axes.plot(points, rows + offset, marker, color=colour, markersize=4.5, clip_on=False, zorder=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlim(-limit, limit)
        axes.set_xlabel("Difference of F1 (points)", fontsize=9)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=_fit(name))
        for name, (colour, marker) in zip(shown, styles, strict=False)
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.36 / figure.get_figheight()),
        ncols=1,
        frameon=False,
        fontsize=9,
    )
    set_title(figure, f"F1 per class, difference to {_fit(first)}")
    save_figure(figure, path)


def _fit(label: str) -> str:
    """Fit a run's name into a picture, literally: its beginning, and its end, which tells outputs apart."""
    half = _LONGEST_LABEL // 2
    text = label if len(label) <= _LONGEST_LABEL else f"{label[: half - 1]}…{label[-half:]}"
    return text.replace("$", r"\$")
