"""What a person sees on the terminal of a finished comparison."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from flow_cache import print_line
from twostream.reports.comparison.figures import SCORE_NAMES, Comparison
from twostream.reports.comparison.text import TITLES, ends, label_of, p_value, point_range, points
from twostream.reports.explanation import plural
from twostream.reports.numbers import EMPTY, percent
from twostream.reports.outputs import NAMES

_ANY_WIDTH = 1000  # columns; a table takes what it needs


def print_comparison(comparison: Comparison, directory: Path | None) -> None:
    """Print the figures of every contender and the p-value of every pair, and where the report is."""
    figures = Table()
    figures.add_column("run")
    for name in SCORE_NAMES:
        figures.add_column(TITLES[name], justify="right")
    for index, each in enumerate(comparison.contenders):
        cells = []
        for name in SCORE_NAMES:
            value = percent(getattr(each.scores, name))
            cells.append(f"{value} %{_in_brackets(ends(each.intervals[name]))}")
        figures.add_row(label_of(comparison, index), *cells)
    console = Console(width=_ANY_WIDTH, markup=False, highlight=False)
    console.print(figures)
    for pair in comparison.pairs:
        names = label_of(comparison, pair.first), label_of(comparison, pair.second)
        difference = pair.result.top1
        print_line(
            f"{names[0]} - {names[1]}: top-1 {points(difference.value)} points"
            f"{_in_brackets(point_range(difference))}, McNemar p {p_value(pair.result.p_value)}"
        )
    for average in comparison.averages:
        mean, deviation = average.mean["top1"], average.deviation["top1"]
        runs = f"mean of {len(average.members)} runs, {average.family}, {NAMES[average.output]}"
        print_line(f"{runs}: top-1 {percent(mean)} ± {percent(deviation)} %")
    if comparison.unpaired:
        print(f"{plural(len(comparison.unpaired), 'pair')} tested on different videos: no paired test")
    if directory is not None:
        print_line(f"report: {directory / 'comparison.md'}")


def _in_brackets(text: str) -> str:
    return "" if text == EMPTY else f" ({text})"
