"""Write an evaluation's report into a folder: CSV, markdown, HTML, pictures; each whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flow_cache import csv_bytes
from twostream.evaluation.examples import Example
from twostream.evaluation.files import EVALUATION_FILE, write_evaluation
from twostream.evaluation.results import Evaluation
from twostream.evaluation.strips import Strips
from twostream.files import replacing, write_bytes, write_text
from twostream.reports.document import to_markdown
from twostream.reports.example_plots import plot_examples
from twostream.reports.page.live import live_blocks
from twostream.reports.page.render import to_html
from twostream.reports.plots import (
    has_curves,
    plot_confusion_matrices,
    plot_curves,
    plot_per_class,
    plot_stream_weights,
    read_history,
)
from twostream.reports.tables import (
    Figures,
    compute_figures,
    confusion_table,
    per_class_table,
    predictions_table,
    summary_table,
)
from twostream.reports.text import per_class_blocks, report_blocks

FILES = (
    "summary.csv",
    "per_class.csv",
    "predictions.csv",
    "confusion_matrix.csv",
    "confusion_matrix_rgb.csv",
    "confusion_matrix_flow.csv",
    EVALUATION_FILE,
    "confusion_matrix.png",
    "confusion_matrix_streams.png",
    "per_class_f1.png",
    "stream_weights.png",
    "examples.png",
    "curves.png",
    "per_class.md",
    "report.md",
    "report.html",
)
"""Every file a report can have; those that an evaluation has no data for are not written."""

_SIDE_BY_SIDE = 24  # classes up to which the fused matrix stands beside those of the streams


def write_reports(
    evaluation: Evaluation,
    directory: str | Path,
    history: str | Path | None = None,
    examples: Sequence[Example] = (),
    strips: Strips | None = None,
) -> list[Path]:
    """Write every file of an evaluation's report.

    A file of `FILES` that an earlier report left in the folder and this one does not write is removed, so
    that the folder never mixes two evaluations; other files are left alone.

    Args:
        evaluation: the predictions and their protocol.
        directory: folder to write to; made if missing.
        history: the training run's `metrics.csv`, for the curves; None to leave them out.
        examples: videos of which it is shown what the network looked at, from `find_examples`; they are in the pictures
            only, and not kept for a later report.
        strips: small pictures of the videos for the HTML page, from `find_strips`; not kept for a later report either.

    Returns:
        The files written, in the order of `FILES`.

    Raises:
        DataError: the history cannot be read.

    Example:
        >>> from twostream import read_evaluation, write_reports
        >>> evaluation = read_evaluation("runs/videos/evaluation")
        >>> written = write_reports(evaluation, "report", history="runs/videos/metrics.csv")
        >>> written[0].as_posix(), written[-1].exists()
        ('report/summary.csv', True)
    """
    directory = Path(directory)
    table = None if history is None else read_history(Path(history))
    figures = compute_figures(evaluation)
    directory.mkdir(parents=True, exist_ok=True)
    written = _write_tables(figures, directory)
    write_evaluation(evaluation, directory)
    written.append(EVALUATION_FILE)
    pictures = _write_pictures(figures, directory, table, examples)
    written += pictures
    blocks = report_blocks(figures, pictures)
    data = {name: (directory / name).read_bytes() for name in pictures}
    title = f"{evaluation.protocol.dataset}: evaluation"
    texts = {
        "per_class.md": to_markdown(per_class_blocks(figures)),
        "report.md": to_markdown(blocks),
        "report.html": to_html(
            live_blocks(figures, blocks, strips), data, title=title, classes=evaluation.classes
        ),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
        written.append(name)
    for name in set(FILES) - set(written):
        (directory / name).unlink(missing_ok=True)
    return [directory / name for name in FILES if name in written]


def _write_tables(figures: Figures, directory: Path) -> list[str]:
    evaluation = figures.evaluation
    tables = {
        "summary.csv": summary_table(figures),
        "per_class.csv": per_class_table(figures),
        "predictions.csv": predictions_table(evaluation),
        "confusion_matrix.csv": confusion_table(figures.matrices[evaluation.decision], evaluation.classes),
    }
    if evaluation.decision == "fused":
        for stream in evaluation.streams:
            tables[f"confusion_matrix_{stream}.csv"] = confusion_table(
                figures.matrices[stream], evaluation.classes
            )
    for name, table in tables.items():
        text = io.StringIO(table.to_csv(index=False, lineterminator="\r\n"), newline="")
        write_bytes(directory / name, csv_bytes(csv.reader(text)))
    return list(tables)


def _write_pictures(
    figures: Figures, directory: Path, history: pd.DataFrame | None, examples: Sequence[Example]
) -> list[str]:
    evaluation = figures.evaluation
    classes, matrices = evaluation.classes, figures.matrices
    written = []

    def draw(name: str, plot: Callable[[Path], object]) -> None:
        with replacing(directory / name) as partial:
            plot(partial)
        written.append(name)

    decision = {evaluation.decision: matrices[evaluation.decision]}
    draw("confusion_matrix.png", lambda path: plot_confusion_matrices(decision, classes, path))
    if len(matrices) > 1:
        names = evaluation.outputs if len(classes) <= _SIDE_BY_SIDE else evaluation.streams
        beside = {name: matrices[name] for name in names}
        draw("confusion_matrix_streams.png", lambda path: plot_confusion_matrices(beside, classes, path))
    scores = {name: np.array([entry.f1 for entry in entries]) for name, entries in figures.classes.items()}
    draw("per_class_f1.png", lambda path: plot_per_class(scores, classes, path))
    weights, rows = figures.weights, evaluation.stream_weights
    if weights is not None and rows is not None:
        draw(
            "stream_weights.png",
            lambda path: plot_stream_weights(weights, evaluation.labels, rows, classes, path),
        )
    if examples:
        draw("examples.png", lambda path: plot_examples(evaluation, examples, path))
    if history is not None and has_curves(history):
        draw("curves.png", lambda path: plot_curves(history, path, best_epoch=evaluation.protocol.epoch))
    return written
