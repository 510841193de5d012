"""`twostream-evaluate`: reports of a trained checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jsonargparse

from twostream.cli.errors import run_command
from twostream.cli.parser import command_parser
from twostream.data.settings import DataConfig

PROGRAM = "twostream-evaluate"
DESCRIPTION = "Evaluate a checkpoint and write its reports; data settings default to those of its training."


def make_parser(data: DataConfig) -> jsonargparse.ArgumentParser:
    """Build the parser; `data` holds the defaults of the data settings."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    parser.add_argument("checkpoint", type=str, help="A .ckpt file written by twostream-train.")
    parser.add_argument(
        "--out", type=str, default=None, help="Folder of the reports; default: beside the checkpoint."
    )
    parser.add_argument(
        "--part",
        type=Literal["test", "validation", "train"],
        default="test",
        help="Side of the split to evaluate.",
    )
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="Evaluate also on videos that the checkpoint was trained or validated on; every report then says so.",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument("--data", type=DataConfig, default=data)
    return parser


def run(argv: Sequence[str]) -> int:
    """Evaluate as the arguments say; returns the exit status."""
    plain = make_parser(DataConfig()).parse_args(list(argv))
    # torch and Lightning, which take seconds, once the arguments are right
    from twostream.checkpoints import load_checkpoint
    from twostream.evaluation.predictions import evaluate, find_data, find_examples
    from twostream.evaluation.strips import find_strips
    from twostream.reports.console import print_summary
    from twostream.reports.write import write_reports

    checkpoint = load_checkpoint(plain.checkpoint)
    parser = make_parser(checkpoint.card.data_config())
    arguments = parser.instantiate(parser.parse_args(list(argv)))
    command = shlex.join([PROGRAM, *argv])
    data = find_data(checkpoint, arguments.data, arguments.part)
    evaluation = evaluate(checkpoint, data, arguments.part, arguments.device, command, arguments.allow_seen)
    examples = find_examples(checkpoint, data, evaluation, arguments.device)
    run_directory = checkpoint.home
    name = "evaluation" if arguments.part == "test" else f"evaluation-{arguments.part}"
    directory = Path(arguments.out) if arguments.out else run_directory / name
    history = run_directory / "metrics.csv"
    strips = find_strips(data.data, evaluation)
    write_reports(evaluation, directory, history if history.exists() else None, examples, strips)
    print_summary(evaluation, directory)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
