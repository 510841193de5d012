"""The arguments of `flow-cache`: a flag for each field of the settings' dataclasses, with the same name."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser

from flow_cache.cache.codecs import StorageSettings
from flow_cache.commands.export import ExportConfig
from flow_cache.commands.import_folders import ImportConfig
from flow_cache.commands.recode import RecodeConfig
from flow_cache.errors import ArgumentError
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig

PROGRAM = "flow-cache"

_Settings = TypeVar("_Settings")


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parse arguments into (command, values by name); raises ArgumentError in one line."""
    try:
        namespace = _make_parser().parse_args(_in_order(list(argv)))
    except argparse.ArgumentError as error:
        raise ArgumentError(" ".join(str(error).split())) from error
    command = namespace["command"]
    values = vars(namespace[command])
    values.pop("config", None)
    return command, values


def take(settings: type[_Settings], values: dict[str, Any]) -> _Settings:
    """Build a dataclass from those values that are its fields, and remove them; raises what the class raises."""
    names = [field.name for field in fields(settings) if field.name in values]  # type: ignore[arg-type]
    return settings(**{name: values.pop(name) for name in names})


class _Parser(ArgumentParser):
    """A parser whose flags have dashes, and `--flag` and `--no-flag` for a bool."""

    def add_argument(self, *names: str, **options: Any) -> Any:
        if options.get("type") is bool:
            del options["type"]
            options["action"] = ActionYesNo(no_prefix="no-")
        if isinstance(text := options.get("help"), str):
            options["help"] = text[:1].upper() + text[1:]
        return super().add_argument(*(_with_dashes(name) for name in names), **options)

    def add_settings(self, settings: type, *left_out: str) -> None:
        """Add a flag for every field of a dataclass, except those left out."""
        self.add_class_arguments(settings, as_group=False, instantiate=False, skip={*left_out})

    def add_input(self, name: str, text: str, optional: bool = True) -> None:
        """Add the positional argument; an optional one may also be given in the file of --config."""
        # SUPPRESS: otherwise argparse sets it to None when it is absent, and overwrites the value from --config.
        options = {"nargs": "?", "default": argparse.SUPPRESS} if optional else {}
        self.add_argument(name, type=str | None if optional else str, help=text, **options)

    def add_output(self, text: str) -> None:
        """Add --output, or --out for short."""
        self.add_argument("--output", "--out", type=str | None, default=None, help=text)

    def add_config(self) -> None:
        """Add --config."""
        self.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments.")


def _make_parser() -> ArgumentParser:
    """Build the parser of all subcommands."""
    parser = _Parser(
        prog=PROGRAM,
        exit_on_error=False,
        version=_version(),
        description="Compute optical flow of many videos once, store it small.",
    )
    commands = parser.add_subcommands(required=True, dest="command")

    def add(name: str, summary: str, description: str) -> _Parser:
        sub = _Parser(exit_on_error=False, description=description)
        commands.add_subcommand(name, sub, help=summary)
        return sub

    sub = add(
        "precompute",
        "fill a cache with the flow of a folder of videos",
        "Fill a cache with the flow of many videos; complete cache files with the same settings are kept.",
    )
    sub.add_config()
    text = (
        "A video file, a folder of videos (searched recursively), a folder of images, a list (.txt, one path a line), "
        "or a manifest (.csv with a column path or video); a path, or a URL that fsspec knows, such as "
        "s3://bucket/videos."
    )
    sub.add_input("input", text)
    sub.add_output("The cache folder, a path or a URL; files appear under the videos' relative paths.")
    sub.add_settings(FlowSettings)
    sub.add_settings(StorageSettings)
    sub.add_settings(PrecomputeConfig, "input", "output", "flow", "storage")
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="Only print what would be done, how long it takes and how large it is.",
    )

    sub = add(
        "info",
        "say what is in a cache and how it was made",
        "Describe a cache folder or a single cache file; damaged files are listed, not raised.",
    )
    sub.add_input("cache", "A cache folder, or a single cache file.", optional=False)
    sub.add_argument("--json", action="store_true", help="Print JSON.")

    sub = add("verify", "check a cache, and repair it", "Check a cache folder, or one cache file.")
    sub.add_input("cache", "A cache folder, or a single cache file.", optional=False)
    text = "The videos that the cache was made from: they are compared, and bad files are redone from them."
    sub.add_argument("--videos", type=str | None, default=None, help=text)
    text = "Folder where the paths start, if --videos is a list."
    sub.add_argument("--root", type=str | None, default=None, help=text)
    sub.add_argument("--decode", action="store_true", help="Decode every image too.")
    sub.add_argument("--repair", action="store_true", help="Redo bad files with the cache's settings.")
    sub.add_argument("--device", type=str, default=FlowSettings.device, help="Where flow is computed.")
    text = "Worker processes; 0 = one for every core."
    sub.add_argument("--workers", type=int, default=PrecomputeConfig.workers, help=text)

    sub = add(
        "recode",
        "turn a cache into another codec, exactly",
        "Turn a cache into another codec without computing flow again; files that have it already are kept.",
    )
    sub.add_input("cache", "A cache folder.", optional=False)
    sub.add_output("Folder of the new cache; default: files are replaced where they are, each in one step.")
    sub.add_settings(RecodeConfig, "cache", "output")

    sub = add(
        "export",
        "write a cache for TSN, MMAction2, I3D or as Middlebury files",
        "Export a cache; a video's folder or array appears whole or not at all.",
    )
    sub.add_config()
    sub.add_input("cache", "A cache folder, or one cache file.")
    sub.add_output("Folder to be filled; videos keep their relative paths.")
    sub.add_settings(ExportConfig, "cache", "output")

    sub = add(
        "import",
        "fill a cache from folders of flow images",
        "Fill a cache from folders of flow images; complete cache files with the same settings are kept.",
    )
    sub.add_config()
    text = "A folder of flow images, or a folder with one for each video somewhere below it."
    sub.add_input("input", text)
    sub.add_output("The cache folder; files appear under the folders' relative paths.")
    sub.add_settings(StorageSettings)
    sub.add_settings(ImportConfig, "input", "output", "storage")

    sub = add(
        "view",
        "draw a file's flow in colour beside its frames",
        "Draw a cache file's flow beside its frames: a contact sheet (.png, .jpg) or a video (.mp4, .avi).",
    )
    sub.add_input("cache_file", "A cache file.")
    sub.add_output("A .png, .jpg, .mp4 or .avi file.")
    sub.add_argument("--fields", type=int, default=12, help="How many fields a picture shows, evenly spread.")
    text = "Length in pixels that has the full colour; default: 99.5 % of the vectors do not exceed it."
    sub.add_argument("--max-motion", type=float | None, default=None, help=text)
    text = "The video to take frames from, if the cache holds none."
    sub.add_argument("--video", type=str | None, default=None, help=text)
    return parser


def _in_order(argv: list[str]) -> list[str]:
    """Put --config first, so that every other argument overrides it; accept --short_side as --short-side."""
    configs: list[str] = []
    others: list[str] = []
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "--config":
            configs += [argument, *itertools.islice(arguments, 1)]
        elif argument.startswith("--config="):
            configs.append(argument)
        elif argument.startswith("--print_config"):  # a flag of jsonargparse
            others.append(argument)
        else:
            others.append(re.sub(r"^--[^=.]+", lambda flag: _with_dashes(flag[0]), argument))
    return argv[:1] + configs + others


def _with_dashes(name: str) -> str:
    """Write a flag's name with dashes."""
    own = name.startswith("--") and name != "--print_config"  # a flag of jsonargparse
    return name.replace("_", "-") if own else name


def _version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("twostream")
