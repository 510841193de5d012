"""`twostream-train`: train, evaluate, report."""

from __future__ import annotations

import importlib.resources
import shlex
import sys
from collections.abc import Sequence

import jsonargparse

from twostream.cli.errors import INPUT_FAILED, run_command
from twostream.cli.parser import command_parser
from twostream.config import TrainConfig
from twostream.errors import ConfigError

PROGRAM = "twostream-train"
DESCRIPTION = """Train a two-stream action recogniser on a folder of videos, evaluate it, and write the reports.

Without --data.root or --data.cache it trains on an embedded demo set, which it generates. Run the same command again
to go on with a run that was interrupted."""


def make_parser(demo: bool) -> jsonargparse.ArgumentParser:
    """Build the parser; with `demo`, the settings of the demo are the defaults."""
    demo_config = str(importlib.resources.files("twostream") / "configs" / "demo.yaml")
    parser = command_parser(PROGRAM, DESCRIPTION, default_config_files=[demo_config] if demo else [])
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(TrainConfig)
    return parser


def parse(argv: Sequence[str]) -> TrainConfig:
    """Turn arguments into settings; those of the demo where no data are named."""
    for argument in argv:
        flag, *deeper = argument.partition("=")[0].split(".")
        if flag == "--stages" and len(deeper) > 3:
            whole, last = f"--stages.{'.'.join(deeper[:3])}", ".".join(deeper[3:])
            raise ConfigError(f"{argument} goes too deep for a flag: give {whole} '{{{last}: …}}', all of it")
    named = [argument for argument in argv if not argument.startswith("--print_config")]
    plain = make_parser(demo=False).parse_args(named)
    parser = make_parser(demo=plain.data.root is None and plain.data.cache is None)
    settings = vars(parser.instantiate(parser.parse_args(list(argv))))
    settings.pop("config")
    return TrainConfig(**settings)


def run(argv: Sequence[str]) -> int:
    """Train as the arguments say; returns the exit status."""
    config = parse(argv)
    from twostream.run import train  # torch and Lightning, which take seconds, once the arguments are right

    result = train(config, shlex.join([PROGRAM, *argv]))
    if result.interrupted:
        raise KeyboardInterrupt
    return INPUT_FAILED if result.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
