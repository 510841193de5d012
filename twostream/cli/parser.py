"""What the parsers of all commands have in common."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jsonargparse


def command_parser(program: str, description: str, **options: Any) -> jsonargparse.ArgumentParser:
    """Build the parser of a command, to which its arguments are added; it knows --help and --version.

    Args:
        program: name of the command.
        description: what it does.
        options: further options of jsonargparse's parser.
    """
    return jsonargparse.ArgumentParser(
        prog=program, description=description, exit_on_error=False, version=_version(), **options
    )


def _version() -> str:
    try:
        return importlib.metadata.version("twostream")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout, without being installed
