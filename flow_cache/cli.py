"""The command `flow-cache`: arguments only.

Exit status: 0 all done, 1 some inputs failed (each named), 2 unusable arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

from flow_cache.codecs import CODECS
from flow_cache.errors import ArgumentError, CacheMismatchError, FlowCacheError
from flow_cache.info import describe_cache, render_info, render_json
from flow_cache.methods import method_names
from flow_cache.precompute import FAILURES_NAME, PrecomputeConfig, PrecomputeInterrupted, precompute
from flow_cache.progress import print_summary

_PROGRAM = "flow-cache"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flow-cache` with the given arguments (None: those of the process); returns the exit status."""
    try:
        command, arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        return _precompute(arguments) if command == "precompute" else _info(arguments)
    except FlowCacheError as error:
        _complain(str(error))
        return 2 if isinstance(error, (ArgumentError, CacheMismatchError)) else 1
    except PrecomputeInterrupted as interrupt:
        s = interrupt.summary
        _complain(
            f"interrupted: {s.done + s.skipped} videos are done, {len(s.failures)} failed, "
            f"{s.remaining} remain; the same command goes on from here"
        )
        return 130
    except SystemExit as finished:  # --help and --print_config
        return int(finished.code or 0)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def _precompute(arguments: dict[str, Any]) -> int:
    for name in ("input", "output"):
        if arguments.get(name) is None:
            flag = "INPUT" if name == "input" else "--out"
            raise ArgumentError(f"{flag} is missing: give it as an argument or in --config")
    arguments["size"] = _size(arguments["size"])
    summary = precompute(PrecomputeConfig(**arguments))
    print_summary(summary, FAILURES_NAME)
    return 1 if summary.failures else 0


def _info(arguments: dict[str, Any]) -> int:
    cache = Path(arguments["cache"])
    if not cache.exists():
        raise ArgumentError(f"{cache}: no such cache file or folder")
    info = describe_cache(cache)
    print(render_json(info)) if arguments["json"] else render_info(info)
    for error in info.damaged:
        _complain(error)
    return 1 if info.damaged else 0


def _parse(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse arguments into (command, values by name); raises ArgumentError in one line."""
    try:
        namespace = _parser().parse_args(_normalise(argv))
    except argparse.ArgumentError as error:
        raise ArgumentError(" ".join(str(error).split())) from error
    command = namespace["command"]
    values = vars(namespace[command])
    values.pop("config", None)
    return command, values


def _normalise(argv: list[str]) -> list[str]:
    """Put --config first, so that every other argument overrides it; take --short_side for --short-side."""
    configs: list[str] = []
    others: list[str] = []
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "--config":
            configs += [argument, *itertools.islice(arguments, 1)]
        elif argument.startswith("--config="):
            configs.append(argument)
        elif argument.startswith("--print_config"):  # jsonargparse's own
            others.append(argument)
        else:
            others.append(re.sub(r"^--[^=.]+", lambda flag: flag[0].replace("_", "-"), argument))
    return argv[:1] + configs + others


def _parser() -> Any:
    from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser

    parser = ArgumentParser(
        prog=_PROGRAM,
        exit_on_error=False,
        description="Compute optical flow of many videos once, store it small.",
    )
    commands = parser.add_subcommands(required=True, dest="command")

    sub = ArgumentParser(exit_on_error=False, description=f"{inspect.getdoc(precompute)}".split("\n")[0])
    sub.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments.")
    choices: dict[str, Any] = {
        "method": Literal[method_names()],
        "codec": Literal[CODECS],
        "size": str | tuple[int, int] | None,
        "output": str | None,
        "input": str | None,
    }
    hints = get_type_hints(PrecomputeConfig)
    for field, text in _documented_fields(PrecomputeConfig):
        kind = choices.get(field.name, hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        default = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name == "input":
            # Suppressed, or argparse would put its absence in the place of what --config says.
            sub.add_argument("input", nargs="?", type=kind, default=argparse.SUPPRESS, help=text)
        elif field.name == "output":
            sub.add_argument("--output", "--out", type=kind, default=None, help=text)
        elif kind is bool:
            sub.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=default, help=text)
        else:
            sub.add_argument(flag, type=kind, default=default, help=text)
    commands.add_subcommand("precompute", sub, help="fill a cache with the flow of a folder of videos")

    sub = ArgumentParser(exit_on_error=False, description="Say what is in a cache, and how it was made.")
    sub.add_argument("cache", type=str, help="A cache folder, or a single cache file.")
    sub.add_argument("--json", action="store_true", help="Print JSON.")
    commands.add_subcommand("info", sub, help="say what is in a cache and how it was made")
    return parser


def _documented_fields(config: type) -> list[tuple[dataclasses.Field[Any], str]]:
    """Pair each field of a dataclass with the docstring below it."""
    from docstring_parser import parse_from_object

    texts = {
        parameter.arg_name: parameter.description or "" for parameter in parse_from_object(config).params
    }
    return [(field, texts[field.name]) for field in dataclasses.fields(config)]


def _size(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Read `340x256` or `340,256`; a pair from a config file passes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\[?\s*(\d{1,6})\s*[x,]\s*(\d{1,6})\s*\]?", value)
    if match is None:
        raise ArgumentError(f"--size must be WIDTHxHEIGHT such as 340x256, got {value!r}")
    return int(match[1]), int(match[2])


def _complain(message: str) -> None:
    print(f"{_PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
