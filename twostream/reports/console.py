"""What a person sees on the terminal of a finished evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from twostream.evaluation.late_fusion import BASELINES
from twostream.evaluation.results import Evaluation

_ANY_WIDTH = 1000  # columns; a table takes what it needs


def print_summary(evaluation: Evaluation, directory: Path) -> None:
    """Print the protocol and its notes, the figures of an evaluation as a table, and where its report is."""
    with (directory / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    protocol = evaluation.protocol
    print("\n".join([protocol.line(), *(f"note: {note}" for note in protocol.notes)]))
    table = Table()
    columns = {
        "top1": "top-1",
        "top5": "top-5",
        "mean_class_accuracy": "mean class acc.",
        "f1_macro": "macro F1",
    }
    present = {key: text for key, text in columns.items() if any(row.get(key) for row in rows)}
    table.add_column("output")
    for text in present.values():
        table.add_column(text, justify="right")
    for row in rows:
        if row.get("subset", "all") == "all":
            name = f"{row['output']} (baseline)" if row["output"] in BASELINES else row["output"]
            table.add_row(name, *(f"{100 * float(row[key]):.1f} %" if row[key] else "" for key in present))
    # As wide as its figures: a narrow terminal breaks lines, where a table squeezed into it would show nothing.
    Console(width=_ANY_WIDTH).print(table)
    print(f"report: {directory / 'report.md'} (and report.html, per_class.md, summary.csv, per_class.csv)")
