"""Draw the pictures of a report; matplotlib's Agg canvas through the object interface, no global state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from twostream.errors import DataError
from twostream.evaluation.metrics import Float64Array, IntArray, normalize_rows
from twostream.reports.outputs import COLOURS, NAMES, PALE_COLOURS

MARKERS = {"fused": "o", "rgb": "s", "flow": "D"}

_DPI = 110
_QUANTITIES = ("loss", "top1")
_GREY = "#767676"
_LONGEST_NAME = 28
_ROWS_PER_COLUMN = 36
_MOST_ANNOTATED = 24  # classes up to which a matrix cell has room for its count


@dataclass(frozen=True)
class Curve:
    """Name one line of the curves picture: a column of the history and how it is drawn."""

    column: str
    output: str
    validation: bool


def read_history(path: Path) -> pd.DataFrame:
    """Read a run's `metrics.csv` into one row an epoch.

    Rows of one epoch are merged, later values first; columns that are missing or blank stay so. The fusion's own
    columns (`train_loss_fused`, …) stand in place of the plain ones.

    Returns:
        Table indexed by epoch, float columns.

    Raises:
        DataError: the file is missing, is no CSV, or has no `epoch` column.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such history; expected the metrics.csv of a training run") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if "epoch" not in table.columns:
        raise DataError(f"{path}: expected a column 'epoch', got {', '.join(map(str, table.columns))}")
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce").astype(float)
    merged: pd.DataFrame = numbers.dropna(subset=["epoch"]).groupby("epoch").last()
    # The plain loss of a two-stream run is the joint one, which no curve of a single output compares with.
    own = {name: name.removesuffix("_fused") for name in merged.columns if name.endswith("_fused")}
    return merged.drop(columns=list(own.values()), errors="ignore").rename(columns=own)


def plot_confusion_matrices(matrices: Mapping[str, IntArray], classes: Sequence[str], path: Path) -> None:
    """Draw confusion matrices side by side, coloured by the share of each class's videos.

    Args:
        matrices: output name to (C, C) int64 counts, labels in rows.
        classes: C names.
        path: PNG to write.
    """
    size = len(classes)
    cell = 0.44 if size <= 12 else 0.3 if size <= _MOST_ANNOTATED else 0.145
    font = 10 if size <= 12 else 8 if size <= _MOST_ANNOTATED else 6.5
    names = [short_name(name) for name in classes]
    margin = 0.5 + max(map(len, names)) * font * 0.6 / 72
    side = size * cell
    gap, bar = 0.45, 0.9
    width = margin + len(matrices) * side + (len(matrices) - 1) * gap + bar
    height = margin + side + 0.4
    figure = Figure(figsize=(width, height), dpi=_DPI)
    # many classes make small cells and few errors each: a square root keeps one error in twenty visible
    norm = Normalize(0, 1) if size <= _MOST_ANNOTATED else PowerNorm(0.5, 0, 1)
    image = None
    for position, (output, matrix) in enumerate(matrices.items()):
        left = margin + position * (side + gap)
        axes = figure.add_axes((left / width, margin / height, side / width, side / height))
        shares = np.ma.masked_invalid(normalize_rows(matrix))
        axes.set_facecolor("#e4e4e4")
        image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
        _hatch_absent(axes, matrix)
        axes.set_xticks(range(size), names, rotation=90, fontsize=font)
        axes.set_yticks(range(size), names if position == 0 else [""] * size, fontsize=font)
        axes.tick_params(length=2 if position == 0 else 0, pad=2)
        edges = np.arange(1, size) - 0.5  # lines, not minor ticks, which take seconds for 101 classes
        thin = 0.4 if size <= _MOST_ANNOTATED else 0.2
        axes.hlines(edges, -0.5, size - 0.5, colors="#d0d0d0", linewidth=thin)
        axes.vlines(edges, -0.5, size - 0.5, colors="#d0d0d0", linewidth=thin)
        axes.set_xlabel("predicted class", fontsize=max(font, 8))
        if position == 0:
            axes.set_ylabel("true class", fontsize=max(font, 8))
        correct = int(np.trace(matrix))
        axes.set_title(f"{NAMES.get(output, output)}: {correct} of {int(matrix.sum())} right", fontsize=10)
        if size <= _MOST_ANNOTATED:
            _annotate(axes, matrix, shares, font)
    if image is not None:
        tall = min(side, 4.0)
        rectangle = (
            (width - bar + 0.2) / width,
            (margin + (side - tall) / 2) / height,
            0.14 / width,
            tall / height,
        )
        colourbar = figure.colorbar(image, cax=figure.add_axes(rectangle))
        colourbar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 %", "25 %", "50 %", "75 %", "100 %"])
        colourbar.ax.tick_params(labelsize=7, length=2)
    save_figure(figure, path)


def plot_per_class(scores: Mapping[str, Float64Array], classes: Sequence[str], path: Path) -> None:
    """Draw every class's F1 as a dot per output, the best class on top.

    Args:
        scores: output name to (C,) float64 F1 in [0, 1], NaN for absent classes; the first one sorts.
        classes: C names.
        path: PNG to write.
    """
    first = next(iter(scores.values()))
    order = np.lexsort((np.arange(len(classes)), -np.nan_to_num(first, nan=-1.0)))
    figure, panels = class_panels([classes[index] for index in order], header=0.95)
    offsets = dict(zip(scores, (0.0,) if len(scores) == 1 else (0.0, -0.2, 0.2), strict=False))
    for axes, start, stop in panels:
        rows = np.arange(stop - start)
        chosen = order[start:stop]
        for row in rows[np.isnan(first[chosen])]:
            axes.text(50, row, "no videos", fontsize=8, va="center", ha="center", color=_GREY)
        for output, values in scores.items():
            axes.plot(
                100 * values[chosen],
                rows + offsets[output],
                MARKERS[output],
                color=COLOURS[output],
                markersize=6 if output == "fused" or len(scores) == 1 else 5,
                markerfacecolor=COLOURS[output] if output == "fused" else "white",
                markeredgewidth=1.4,
                clip_on=False,
                zorder=3,
            )
        axes.set_xlim(-2, 102)
        axes.set_xlabel("F1 (%)", fontsize=9)
    _legend(figure, [(output, MARKERS[output]) for output in scores])
    set_title(figure, f"F1 per class, sorted by {_sentence_name(next(iter(scores)))}")
    save_figure(figure, path)


def plot_stream_weights(
    weights: Float64Array,
    labels: IntArray,
    rows: npt.NDArray[np.floating],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw the mean weight that the fusion gives to flow in each class, the rest being RGB's.

    Args:
        weights: (C, 2) float64 mean weights of RGB and flow, NaN for absent classes.
        labels: (N,) int64.
        rows: (N, 2) float weights of every video, for the spread.
        classes: C names.
        path: PNG to write.
    """
    share = _flow_share(weights)
    each = _flow_share(np.asarray(rows, dtype=np.float64))
    order = np.lexsort((np.arange(len(classes)), np.nan_to_num(share, nan=9.0)))
    figure, panels = class_panels([classes[index] for index in order], header=0.95)
    for axes, start, stop in panels:
        chosen = order[start:stop]
        absent = np.isnan(share[chosen])
        for row in np.flatnonzero(absent).tolist():
            axes.text(50, row, "no videos", fontsize=8, va="center", ha="center", color=_GREY)
        rows_shown = np.flatnonzero(~absent)
        chosen = chosen[rows_shown]
        rgb = 100 * (1 - share[chosen])
        axes.barh(rows_shown, rgb, color=PALE_COLOURS["rgb"], height=0.78)
        axes.barh(rows_shown, 100 - rgb, left=rgb, color=PALE_COLOURS["flow"], height=0.78)
        spread = [100 * (1 - np.quantile(each[labels == index], (0.9, 0.1))) for index in chosen]
        if spread:
            axes.hlines(rows_shown, *np.transpose(spread), color="black", linewidth=1.2, zorder=3)
        axes.plot(rgb, rows_shown, "o", color="black", markersize=3.5, zorder=4)
        axes.axvline(50, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_xlim(0, 100)
        axes.set_xlabel("RGB's share of the weight (%)", fontsize=9)
    handles = [
        Line2D([], [], color=PALE_COLOURS["rgb"], linewidth=7, label="RGB"),
        Line2D([], [], color=PALE_COLOURS["flow"], linewidth=7, label="Flow"),
        Line2D(
            [],
            [],
            color="black",
            marker="o",
            markersize=3.5,
            linewidth=1.2,
            label="Mean, 10 to 90 % of videos",
        ),
    ]
    _place_legend(figure, handles)
    set_title(figure, "Stream weights of the fusion, per class")
    save_figure(figure, path)


def plot_curves(history: pd.DataFrame, path: Path, *, best_epoch: int | None) -> None:
    """Draw loss and top-1 over the epochs, training dashed and validation solid.

    Args:
        history: table of `read_history` for which `has_curves` holds; columns `train_loss`, `train_top1`,
            `val_loss`, `val_top1`, and these with `_rgb` or `_flow` appended; top-1 in [0, 1]. Any may be
            missing or blank.
        path: PNG to write.
        best_epoch: epoch of the evaluated checkpoint, counted as in the history; marked where known.
    """
    panels = [(quantity, curves) for quantity in _QUANTITIES if (curves := _curves(history, quantity))]
    figure = Figure(figsize=(max(7.0, 5.6 * len(panels)), 4.6), dpi=_DPI, layout="constrained")
    for position, (quantity, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        for curve in curves:
            values = history[curve.column].dropna() * (100 if quantity == "top1" else 1)
            axes.plot(
                values.index,
                values.to_numpy(),
                color=COLOURS[curve.output],
                linestyle="-" if curve.validation else (0, (3, 2)),
                linewidth=1.9 if curve.validation else 1.3,
                marker=MARKERS[curve.output] if len(values) <= 15 else None,
                markersize=3.5,
                label=f"{'validation' if curve.validation else 'training'}, {_curve_name(curve, history)}",
            )
        axes.set_title("Loss" if quantity == "loss" else "Top-1 (%)", fontsize=11)
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(color="#e2e2e2", linewidth=0.6)
        axes.set_axisbelow(True)
        if quantity == "top1":
            axes.set_ylim(0, 103)
        else:
            axes.set_ylim(bottom=0)
        if best_epoch is not None and best_epoch in history.index:
            axes.axvline(best_epoch, color=_GREY, linewidth=1, linestyle=":", label="evaluated checkpoint")
        despine(axes)
    # one legend below both panels, never over a curve
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    save_figure(figure, path)


def has_curves(history: pd.DataFrame) -> bool:
    """Tell whether a history has anything for `plot_curves` to draw."""
    return any(_curves(history, quantity) for quantity in _QUANTITIES)


def _curves(history: pd.DataFrame, quantity: str) -> list[Curve]:
    every = [
        Curve(f"{side}_{quantity}" + ("" if output == "fused" else f"_{output}"), output, side == "val")
        for output in ("fused", "rgb", "flow")
        for side in ("train", "val")
    ]
    return [curve for curve in every if _has(history, curve.column)]


def _curve_name(curve: Curve, history: pd.DataFrame) -> str:
    """Name a curve's output; without per-stream columns the plain ones are the model's, fused or not."""
    if curve.output == "fused" and not any(column.endswith(("_rgb", "_flow")) for column in history.columns):
        return "model"
    return _sentence_name(curve.output)


def _has(history: pd.DataFrame, column: str) -> bool:
    return column in history.columns and bool(history[column].notna().any())


def _flow_share(weights: Float64Array) -> Float64Array:
    """Return flow's part of each row's weight; half where both are 0."""
    total = weights.sum(axis=1)
    return np.asarray(np.where(total == 0, 0.5, weights[:, 1] / np.where(total == 0, 1, total)))


def class_panels(names: Sequence[str], header: float) -> tuple[Figure, list[tuple[Axes, int, int]]]:
    """Lay out one row a class in as many equal columns as keep the picture on a screen."""
    count = math.ceil(len(names) / _ROWS_PER_COLUMN)
    rows = math.ceil(len(names) / count)
    shown = [short_name(name) for name in names]
    label = 0.25 + max(map(len, shown)) * 8.5 * 0.62 / 72
    plot = 4.6 if count == 1 else 2.9
    row, footer, right = 0.25, 0.55, 0.2
    width, height = count * (label + plot + right), header + rows * row + footer
    figure = Figure(figsize=(width, height), dpi=_DPI)
    panels = []
    for position in range(count):
        start, stop = position * rows, min((position + 1) * rows, len(names))
        tall = (stop - start) * row
        left = position * (label + plot + right) + label
        axes = figure.add_axes((left / width, (height - header - tall) / height, plot / width, tall / height))
        axes.set_yticks(range(stop - start), shown[start:stop], fontsize=8.5)
        axes.set_ylim(stop - start - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(color="#e2e2e2", linewidth=0.6)
        axes.set_axisbelow(True)
        despine(axes)
        panels.append((axes, start, stop))
    return figure, panels


def _hatch_absent(axes: Axes, matrix: IntArray) -> None:
    """Mark the rows of classes without videos, which have no colour of their own."""
    for row in np.flatnonzero(matrix.sum(axis=1) == 0):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="#b5b5b5", hatch="////", linewidth=0)


def _annotate(axes: Axes, matrix: IntArray, shares: np.ma.MaskedArray, font: float) -> None:
    for i, j in np.argwhere(matrix > 0):
        colour = "white" if shares[i, j] > 0.55 else "black"
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=font - 1, color=colour)


def _legend(figure: Figure, outputs: Sequence[tuple[str, str]]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            color=COLOURS[output],
            markerfacecolor=COLOURS[output] if output == "fused" else "white",
            markeredgewidth=1.4,
            label=NAMES[output],
        )
        for output, marker in outputs
    ]
    _place_legend(figure, handles)


def _place_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    top = 1 - 0.36 / figure.get_figheight()
    figure.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, top),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handlelength=1.6,
    )


def set_title(figure: Figure, text: str) -> None:
    """Write the title of a picture."""
    figure.suptitle(text, fontsize=12, y=1 - 0.12 / figure.get_figheight(), va="top")


def despine(axes: Axes) -> None:
    """Leave the axes of the left and the bottom."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _sentence_name(output: str) -> str:
    return {"fused": "fused", "rgb": "RGB", "flow": "flow"}[output]


def short_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """Fit a name, usually a class, into a picture, literally: a dollar sign must not start a formula."""
    text = " ".join(name.split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG that depends on nothing but what is drawn."""
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a script the font lacks is drawn as boxes; the names stand in full in the CSV and markdown files
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            path, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None}
        )
