"""`twostream-compare`: several runs beside each other, with paired tests and fusions of their probabilities."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jsonargparse

from twostream.cli.errors import run_command
from twostream.cli.parser import command_parser
from twostream.errors import ConfigError

PROGRAM = "twostream-compare"
DESCRIPTION = """Compare runs: one table with intervals, averages over splits, differences of classes, and paired tests
of those that were tested on the same videos.

A RUN is a run directory, the folder of an evaluation's report, or scores of another tool: a .csv with a column video
and one for each class, or an .npz with the arrays videos, classes and scores. Labels and groups are taken from there
(columns label and group, arrays labels and groups) or from a run on the same videos. Pickles are never read."""
OUTPUTS = ("decision", "all", "fused", "rgb", "flow", "product", "mean", "weighted")


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the parser."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        help="Paths, or NAME=PATH. Runs with one NAME, and runs whose settings differ in split and seed alone, are"
        " averaged.",
    )
    parser.add_argument(
        "--out", type=str, default=None, help="Folder of the report; default: only the table is printed."
    )
    parser.add_argument(
        "--outputs",
        type=str,
        nargs="+",
        choices=OUTPUTS,
        default=None,
        help="Which outputs of each run to compare; default: the deciding one, or all of a single run.",
    )
    parser.add_argument(
        "--fuse",
        type=str,
        nargs=2,
        default=None,
        metavar=("A", "B"),
        help="Fuse the probabilities of two runs, NAME or NAME:OUTPUT, by product, mean and weights.",
    )
    parser.add_argument(
        "--validation",
        type=str,
        nargs=2,
        default=None,
        metavar=("A", "B"),
        help="Predictions of validation videos, for the weights of --fuse; default: those that the runs have kept.",
    )
    parser.add_argument(
        "--logits", action="store_true", help="Files of scores hold logits, not probabilities."
    )
    parser.add_argument(
        "--quoted",
        type=Literal["all", "same", "none"],
        default="all",
        help="Published results to quote: all, those on the same data sets, or none.",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Compare as the arguments say; returns the exit status."""
    arguments = make_parser().parse_args(list(argv))
    if arguments.validation and not arguments.fuse:
        raise ConfigError("--validation needs --fuse, whose weights are fitted on it")
    # pandas, scikit-learn and matplotlib, which take seconds, once the arguments are right
    from twostream.config import FREE_SETTINGS
    from twostream.reports.comparison.console import print_comparison
    from twostream.reports.comparison.figures import ALL, DECISION, compare
    from twostream.reports.comparison.fusion import fuse
    from twostream.reports.comparison.quoted import quoted_results
    from twostream.reports.comparison.runs import read_runs
    from twostream.reports.comparison.write import write_comparison

    runs = read_runs(arguments.runs, logits=arguments.logits, free_settings=FREE_SETTINGS)
    outputs = arguments.outputs or ([ALL] if len(runs) == 1 else [DECISION])
    fused = None
    if arguments.fuse:
        fused = fuse(runs, arguments.fuse, arguments.validation or (), logits=arguments.logits)
    comparison = compare(runs, outputs, fused)
    directory = None if arguments.out is None else Path(arguments.out)
    if directory is not None:
        data_sets = None if arguments.quoted == "all" else {each.dataset for each in runs}
        quoted = None if arguments.quoted == "none" else quoted_results(data_sets)
        command = shlex.join([PROGRAM, *argv])
        write_comparison(comparison, directory, fused=fused, quoted=quoted, command=command)
    print_comparison(comparison, directory)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
