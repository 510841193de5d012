"""Write a comparison into a folder: markdown, CSV, pictures, fused scores; each whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from flow_cache import csv_bytes
from twostream.evaluation.scores import ScoreTable, write_scores
from twostream.files import replacing, write_bytes, write_text
from twostream.reports.comparison.figures import SCORE_NAMES, Comparison
from twostream.reports.comparison.fusion import Fused
from twostream.reports.comparison.plots import ForestRow, plot_class_differences, plot_forest
from twostream.reports.comparison.runs import labels_of
from twostream.reports.comparison.tables import (
    averages_table,
    classes_table,
    decisions_table,
    measured_table,
    pairs_table,
)
from twostream.reports.comparison.text import TITLES, comparison_blocks, label_of
from twostream.reports.document import to_markdown

FILES = (
    "comparison.csv",
    "comparison_averages.csv",
    "comparison_pairs.csv",
    "comparison_classes.csv",
    "comparison_predictions.csv",
    "comparison_quoted.csv",
    "comparison_product.npz",
    "comparison_mean.npz",
    "comparison_weighted.npz",
    "comparison.png",
    "comparison_classes.png",
    "comparison.md",
)
"""Every file a comparison can have; those that there is nothing for are not written."""


def write_comparison(
    comparison: Comparison,
    directory: Path,
    *,
    fused: Fused | None = None,
    quoted: pd.DataFrame | None = None,
    command: str = "",
) -> list[Path]:
    """Write every file of a comparison.

    A file of `FILES` that an earlier comparison left in the folder and this one does not write is removed; other
    files are left alone.

    Args:
        comparison: what was measured.
        directory: folder to write to; made if missing.
        fused: the fusion among the runs; its probabilities are kept as files of scores, which can be compared again.
        quoted: published results to show beside, or None.
        command: that made the comparison.

    Returns:
        The files written, in the order of `FILES`.
    """
    quoted = pd.DataFrame() if quoted is None else quoted
    directory.mkdir(parents=True, exist_ok=True)
    written = _write_tables(comparison, quoted, directory)
    if fused is not None:
        written += _write_fused(fused, directory)
    pictures = _write_pictures(comparison, directory)
    blocks = comparison_blocks(comparison, fused=fused, quoted=quoted, pictures=pictures, command=command)
    write_text(directory / "comparison.md", to_markdown(blocks))
    written += [*pictures, "comparison.md"]
    for name in set(FILES) - set(written):
        (directory / name).unlink(missing_ok=True)
    return [directory / name for name in FILES if name in written]


def _write_tables(comparison: Comparison, quoted: pd.DataFrame, directory: Path) -> list[str]:
    tables = {
        "comparison.csv": measured_table(comparison),
        "comparison_averages.csv": averages_table(comparison),
        "comparison_pairs.csv": pairs_table(comparison),
        "comparison_classes.csv": classes_table(comparison),
        "comparison_predictions.csv": decisions_table(comparison),
        "comparison_quoted.csv": quoted,
    }
    written = []
    for name, table in tables.items():
        if not table.empty:
            text = io.StringIO(table.to_csv(index=False, lineterminator="\r\n"), newline="")
            write_bytes(directory / name, csv_bytes(csv.reader(text)))
            written.append(name)
    return written


def _write_fused(fused: Fused, directory: Path) -> list[str]:
    run = fused.run
    labels = tuple(run.classes[index] for index in labels_of(run).tolist())
    written = []
    for rule, values in run.probabilities.items():
        table = ScoreTable(run.classes, run.videos, values, labels, run.groups)
        write_scores(directory / f"comparison_{rule}.npz", table)
        written.append(f"comparison_{rule}.npz")
    return written


def _write_pictures(comparison: Comparison, directory: Path) -> list[str]:
    written = []

    def draw(name: str, plot: Callable[[Path], object]) -> None:
        with replacing(directory / name) as partial:
            plot(partial)
        written.append(name)

    contenders = comparison.contenders
    names = [label_of(comparison, index) for index in range(len(contenders))]
    rows = [
        ForestRow(
            name,
            each.output,
            {
                TITLES[key]: (getattr(each.scores, key), each.intervals[key].low, each.intervals[key].high)
                for key in SCORE_NAMES
            },
        )
        for name, each in zip(names, contenders, strict=True)
    ]
    draw("comparison.png", lambda path: plot_forest(rows, path))
    if len(contenders) > 1:
        f1 = [np.array([entry.f1 for entry in each.classes]) for each in contenders]
        differences = {name: values - f1[0] for name, values in zip(names[1:], f1[1:], strict=True)}
        draw(
            "comparison_classes.png",
            lambda path: plot_class_differences(
                differences, [each.output for each in contenders[1:]], names[0], comparison.class_names, path
            ),
        )
    return written
