"""Write the reports of the benchmarks: where it was measured, tables in markdown and in CSV."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flow_cache.runtime import available_cores


def add_flow_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all benchmarks of an estimator of flow take."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/benchmarks"),
        help="folder for the report (default: %(default)s)",
    )
    parser.add_argument(
        "--agreement", type=int, default=100, help="pairs to compare first (default: %(default)s)"
    )
    parser.add_argument(
        "--agreement-size", default="340x256", help="WIDTHxHEIGHT of these pairs (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats (default: %(default)s)")


def provenance(*libraries: str) -> dict[str, str]:
    """Return the command that was run, and the commit, the machine and the versions of libraries."""
    commit = _git("rev-parse", "HEAD")
    state = " with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    command = [Path(sys.executable).name, os.path.relpath(sys.argv[0]), *sys.argv[1:]]
    return {
        "command": f"`{shlex.join(command)}`",
        "commit": (commit or "not a git checkout") + state,
        "machine": f"{_processor()}, {available_cores()} cores, {platform.platform()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in libraries)]
        ),
    }


def _git(*arguments: str) -> str:
    """Return what git prints of this checkout; nothing where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_markdown(path: Path, title: str, *parts: Sequence[str]) -> None:
    """Write a title and the lines of each part, with an empty line after the title."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"# {title}", "", *(line for part in parts for line in part)]))


def bullet_list(about: Mapping[str, str]) -> list[str]:
    """Return the lines of a list, `- name: value`."""
    return [f"- {name}: {value}" for name, value in about.items()]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, and an empty line after it."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def section(title: str, intro: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a section: its title, what is to be said before the table, the table."""
    return [f"## {title}", "", intro.strip(), "", *markdown_table(head, rows)]


def format_range(median: float, lowest: float, highest: float, decimals: int) -> str:
    """Return a median with the range of the repeats in brackets."""
    return f"{median:.{decimals}f} ({lowest:.{decimals}f} to {highest:.{decimals}f})"
