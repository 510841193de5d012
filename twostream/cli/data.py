"""`twostream-data`: look at a data set before training on it, and write its split as a table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse
import yaml

from flow_cache import csv_bytes, print_line
from twostream.cli.errors import INPUT_FAILED, run_command
from twostream.cli.parser import command_parser
from twostream.config import TrainConfig
from twostream.data.settings import DataConfig
from twostream.errors import ConfigError
from twostream.files import write_bytes
from twostream.settings import from_plain

if TYPE_CHECKING:
    from twostream.data.check import DataReport

PROGRAM = "twostream-data"
DESCRIPTION = """Look at a data set as a training would see it.

Exit status of check: 0 nothing that a training would refuse, 1 problems (each is named), 2 unusable arguments, lists or
videos."""
_CHECK = """Say what was found and what is missing: classes, sources and the rule that finds them, the same video under
two names, sources that look alike, sources on two sides of the split, videos that cannot be read or are too short, what
the flow cache holds and how it was made."""
_SPLIT = "Write the split as a CSV table path,label,split,group, which --data.lists reads again."


def make_parser(data: DataConfig) -> jsonargparse.ArgumentParser:
    """Build the parser; `data` holds the defaults of the data settings."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    commands = parser.add_subcommands(required=True, dest="command")
    for name, words in (("check", _CHECK), ("split", _SPLIT)):
        command = command_parser(f"{PROGRAM} {name}", words)
        command.add_argument(
            "--config",
            type=str,
            default=None,
            help="YAML file of twostream-train; its data settings are used.",
        )
        if name == "check":
            command.add_argument("--json", action="store_true", help="Print everything as a JSON object.")
            command.add_argument(
                "--fast",
                action="store_true",
                help="Decode nothing: no sources that look alike, and only what the flow cache knows of the videos.",
            )
        else:
            command.add_argument(
                "--out", type=str, default=None, help="File to write; default: standard output."
            )
            command.add_argument("--overwrite", action="store_true", help="Replace the file of --out.")
        command.add_argument("--data", type=DataConfig, default=data)
        commands.add_subcommand(name, command)
    return parser


def run(argv: Sequence[str]) -> int:
    """Do as the arguments say; returns the exit status."""
    plain = make_parser(DataConfig()).parse_args(list(argv))
    parser = make_parser(_read_config(plain[plain.command].config))
    arguments = parser.instantiate(parser.parse_args(list(argv)))
    own = arguments[arguments.command]
    if arguments.command == "split":
        return write_split_table(own.data, own.out, own.overwrite)
    # Decoders and scikit-learn, which take a second, once the arguments are right
    from twostream.data.check import check_data

    report = check_data(own.data, own.fast)
    if own.json:
        print(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        print_report(report)
    return INPUT_FAILED if report.problems else 0


def _read_config(path: str | None) -> DataConfig:
    """Read the data settings of a configuration file of twostream-train."""
    if path is None:
        return DataConfig()
    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} holds no settings: expected a YAML file of twostream-train")
    return from_plain(TrainConfig, plain).data


def write_split_table(config: DataConfig, out: str | None, overwrite: bool) -> int:
    """Write the split that a training with these settings would make."""
    from twostream.data.annotations import load_annotations
    from twostream.data.check import find_all
    from twostream.data.splits import make_split

    if out is not None and Path(out).exists() and not overwrite:
        raise ConfigError(f"{out} exists: choose another --out, or --overwrite to replace it")
    videos, _ = find_all(config)
    lists = Path(config.lists) if config.lists else None
    annotations = load_annotations(videos, config.format, lists, config.groups, config.max_missing)
    split = make_split(annotations, config.split)
    rows = [
        (video.path, annotations.classes[video.label], side, video.group)
        for side, part in (("train", split.train), ("val", split.validation), ("test", split.test))
        for video in part
    ]
    table = csv_bytes([("path", "label", "split", "group"), *rows])
    if out is None:
        print(table.decode("utf-8", "surrogateescape"), end="")
    else:
        write_bytes(Path(out), table)
        print_line(
            f"{out}: {len(split.train)} training, {len(split.validation)} validation, {len(split.test)} test videos "
            f"({split.name})"
        )
    return 0


def print_report(report: DataReport) -> None:
    """Print what was found, for a person."""
    from twostream.reports.data_check import describe

    for line in describe(report):
        print_line(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
