"""`twostream-evaluate`: reports of a trained checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jsonargparse

from twostream.checkpoints import Checkpoint, load_checkpoint
from twostream.cli.errors import run_command
from twostream.config import from_plain
from twostream.data.module import ActionDataModule, DataConfig
from twostream.evaluation import evaluate
from twostream.reports import write_reports
from twostream.run import print_summary

PROGRAM = "twostream-evaluate"


def make_parser(checkpoint: Checkpoint | None) -> jsonargparse.ArgumentParser:
    """Build the parser; the data settings default to those of the checkpoint's run."""
    parser = jsonargparse.ArgumentParser(
        prog=PROGRAM,
        exit_on_error=False,
        description="Evaluate a checkpoint and write its reports; data settings default to those of its training.",
    )
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
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    default = from_plain(DataConfig, checkpoint.card.data) if checkpoint else DataConfig()
    parser.add_argument("--data", type=DataConfig, default=default)
    return parser


def run(argv: Sequence[str]) -> int:
    """Evaluate as the arguments say; returns the exit status."""
    plain = make_parser(None).parse_args(list(argv))
    checkpoint = load_checkpoint(plain.checkpoint)
    parser = make_parser(checkpoint)
    arguments = parser.instantiate(parser.parse_args(list(argv)))
    data = ActionDataModule(arguments.data, checkpoint.card.model.streams, checkpoint.card.seed)
    command = shlex.join([PROGRAM, *argv])
    evaluation = evaluate(checkpoint, data, arguments.part, arguments.device, command)
    run_directory = checkpoint.path.absolute().parent.parent
    name = "evaluation" if arguments.part == "test" else f"evaluation-{arguments.part}"
    directory = Path(arguments.out) if arguments.out else run_directory / name
    history = run_directory / "metrics.csv"
    write_reports(evaluation, directory, history if history.exists() else None)
    print_summary(evaluation, directory)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
