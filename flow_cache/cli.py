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
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_type_hints

from flow_cache.codecs import CODECS
from flow_cache.dry_run import estimate, print_estimate
from flow_cache.errors import ArgumentError, CacheMismatchError, FlowCacheError
from flow_cache.export import FORMATS, ExportConfig, export_cache
from flow_cache.import_folders import ImportConfig, import_folders
from flow_cache.info import describe_cache, render_info, render_json
from flow_cache.methods import method_names
from flow_cache.places import as_place, exists
from flow_cache.precompute import (
    Failure,
    PrecomputeConfig,
    PrecomputeInterrupted,
    failures_name,
    precompute,
)
from flow_cache.progress import print_summary
from flow_cache.verify import Videos, print_verification, repair_cache, verify_cache
from flow_cache.view import view

_PROGRAM = "flow-cache"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flow-cache` with the given arguments (None: those of the process); returns the exit status."""
    try:
        command, arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        return _COMMANDS[command](arguments)
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
    _require(arguments, "input")
    arguments["size"] = _size(arguments["size"])
    dry_run = arguments.pop("dry_run")
    config = PrecomputeConfig(**arguments)
    if dry_run:
        found = estimate(config)
        print_estimate(found)
        found.plan.check()
        return 1 if found.unreadable else 0
    summary = precompute(config)
    print_summary(summary, failures_name(config.shard))
    return 1 if summary.failures else 0


def _info(arguments: dict[str, Any]) -> int:
    cache = as_place(arguments["cache"])
    if not exists(cache):
        raise ArgumentError(f"{cache}: no such cache file or folder")
    info = describe_cache(cache)
    print(render_json(info)) if arguments["json"] else render_info(info)
    for error in info.damaged:
        _complain(error)
    return 1 if info.damaged else 0


def _verify(arguments: dict[str, Any]) -> int:
    if arguments["videos"] is None and (arguments["repair"] or arguments["root"] is not None):
        raise ArgumentError("--repair and --root need --videos, where the cache was made from")
    videos = None if arguments["videos"] is None else Videos(arguments["videos"], arguments["root"])
    found = verify_cache(as_place(arguments["cache"]), videos, decode=arguments["decode"])
    repair = None
    if arguments["repair"] and videos is not None:
        repair = repair_cache(found, videos, device=arguments["device"], workers=arguments["workers"])
    print_verification(found, repair)
    return 1 if (found.faults if repair is None else repair.faults) else 0


def _export(arguments: dict[str, Any]) -> int:
    _require(arguments, "cache")
    exported = export_cache(ExportConfig(**arguments))
    print(f"{exported.videos:,} videos, {exported.fields:,} fields exported to {exported.output}")
    return _report(exported.failures)


def _import(arguments: dict[str, Any]) -> int:
    _require(arguments, "input")
    imported = import_folders(ImportConfig(**arguments))
    print(
        f"{imported.done:,} videos, {imported.fields:,} fields imported to {imported.output}, "
        f"{imported.skipped:,} kept from before"
    )
    return _report(imported.failures)


def _view(arguments: dict[str, Any]) -> int:
    _require(arguments, "cache_file")
    out = arguments.pop("output")
    longest = view(arguments.pop("cache_file"), out, **arguments)
    print(f"{out}: full colour is {longest:.2f} pixels")
    return 0


_COMMANDS: dict[str, Callable[[dict[str, Any]], int]] = {
    "precompute": _precompute,
    "info": _info,
    "verify": _verify,
    "export": _export,
    "import": _import,
    "view": _view,
}


def _require(arguments: dict[str, Any], name: str) -> None:
    for key, flag in ((name, name.upper()), ("output", "--out")):
        if arguments.get(key) is None:
            hint = (
                "give it as an argument or in --config" if name != "cache_file" else "give it as an argument"
            )
            raise ArgumentError(f"{flag} is missing: {hint}")


def _report(failures: Sequence[Failure]) -> int:
    for failure in failures:
        print(f"failed: {failure.video}: {failure.reason}")
    return 1 if failures else 0


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
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=_PROGRAM,
        exit_on_error=False,
        description="Compute optical flow of many videos once, store it small.",
    )
    commands = parser.add_subcommands(required=True, dest="command")

    def add(name: str, summary: str, what: Callable[..., Any]) -> Any:
        sub = ArgumentParser(exit_on_error=False, description=f"{inspect.getdoc(what)}".split("\n")[0])
        commands.add_subcommand(name, sub, help=summary)
        return sub

    sub = add("precompute", "fill a cache with the flow of a folder of videos", precompute)
    kinds: dict[str, Any] = {
        "method": Literal[method_names()],
        "codec": Literal[CODECS],
        "size": str | tuple[int, int] | None,
        "output": str | None,
        "input": str | None,
        "root": str | None,
    }
    _add_config(sub, PrecomputeConfig, "input", kinds)
    sub.add_argument(
        "--dry-run", action="store_true", help="Only say what would be done, how long and how large."
    )

    sub = add("info", "say what is in a cache and how it was made", describe_cache)
    sub.add_argument("cache", type=str, help="A cache folder, or a single cache file.")
    sub.add_argument("--json", action="store_true", help="Print JSON.")

    sub = add("verify", "check a cache, and repair it", verify_cache)
    sub.add_argument("cache", type=str, help="A cache folder, or a single cache file.")
    text = "What the cache was made from: compared, and where bad files are redone from."
    sub.add_argument("--videos", type=str | None, default=None, help=text)
    sub.add_argument(
        "--root", type=str | None, default=None, help="Where the paths start if --videos is a list."
    )
    sub.add_argument("--decode", action="store_true", help="Decode every image too.")
    sub.add_argument("--repair", action="store_true", help="Redo bad files with the cache's parameters.")
    sub.add_argument("--device", type=str, default="cpu", help="Where flow is computed.")
    sub.add_argument("--workers", type=int, default=0, help="Worker processes; 0 = one for every core.")

    sub = add("export", "write a cache for TSN, MMAction2, I3D or as Middlebury files", export_cache)
    kinds = {
        "format": Literal[FORMATS],
        "start_index": Literal[0, 1],
        "cache": str | None,
        "output": str | None,
    }
    _add_config(sub, ExportConfig, "cache", kinds)

    sub = add("import", "fill a cache from folders of flow images", import_folders)
    _add_config(
        sub, ImportConfig, "input", {"codec": Literal[CODECS], "input": str | None, "output": str | None}
    )

    sub = add("view", "draw a file's flow in colour beside its frames", view)
    sub.add_argument("cache_file", type=str, nargs="?", default=argparse.SUPPRESS, help="A cache file.")
    sub.add_argument(
        "--output", "--out", type=str | None, default=None, help="A .png, .jpg, .mp4 or .avi file."
    )
    sub.add_argument("--fields", type=int, default=12, help="How many fields a picture shows, evenly spread.")
    text = "Length in pixels with full colour; default: 99.5 %% of the vectors do not exceed it."
    sub.add_argument("--max-motion", type=float | None, default=None, help=text)
    sub.add_argument(
        "--video", type=str | None, default=None, help="Where frames come from if there are none."
    )
    return parser


def _add_config(sub: Any, config: type, positional: str, kinds: dict[str, Any]) -> None:
    """Make a flag of every field of a dataclass; `kinds` replaces the types of some."""
    from jsonargparse import ActionConfigFile, ActionYesNo

    sub.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments.")
    hints = get_type_hints(config)
    for field, text in _documented_fields(config):
        kind = kinds.get(field.name, hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        default = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name == positional:
            # Suppressed, or argparse would put its absence in the place of what --config says.
            sub.add_argument(positional, nargs="?", type=kind, default=argparse.SUPPRESS, help=text)
        elif field.name == "output":
            sub.add_argument("--output", "--out", type=kind, default=None, help=text)
        elif kind is bool:
            sub.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=default, help=text)
        else:
            sub.add_argument(flag, type=kind, default=default, help=text)


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
