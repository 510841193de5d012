"""What a person reads of a data set that was looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from twostream.data.annotations.records import count
from twostream.data.check import DataReport
from twostream.errors import first_names

_NAMED = 10  # of each kind; the JSON has them all


def describe(report: DataReport) -> Iterator[str]:
    """Write the lines that say what was found: figures, a table of the classes, then what is wrong."""
    sides = ", ".join(f"{number} {side}" for side, number in report.sides.items())
    largest = ", ".join(f"{name} with {number}" for name, number in report.largest.items())
    facts = [
        ("videos", f"{report.videos}, of which {report.labelled} have a class" + _below(report.root)),
        ("left out", _named(report.left_out)),
        ("listed", _listed(report)),
        ("sources", f"{report.sources} ({report.group_rule}); largest: {largest}"),
        ("source not known", _named(report.ungrouped)),
        ("split", f"{report.split}: {sides}"),
        ("flow cache", _cache(report.cache)),
    ]
    yield from tabulate([(name, words) for name, words in facts if words], tablefmt="plain").splitlines()
    yield ""
    rows = [list(row.values()) for row in report.classes]
    yield from tabulate(rows, headers=list(report.classes[0])).splitlines()
    for title, found in (
        ("sources on several sides", [_leak(leak) for leak in report.leaks]),
        ("the same file under several names", [_same(same) for same in report.identical]),
        ("sources that look alike: look at them", [_alike(alike) for alike in report.alike]),
        ("not readable as a whole", [f"{path}: {why}" for path, why in report.unreadable.items()]),
        ("too short for a clip", [f"{path}: {fields} flow fields" for path, fields in report.short.items()]),
        ("not checked", report.unchecked),
        ("problems", report.problems),
    ):
        yield from _section(title, found, len(found) if found is report.problems else _NAMED)
    if not report.problems:
        yield ""
        yield "no problems"


def _section(title: str, found: Sequence[str], most: int) -> Iterator[str]:
    if found:
        yield ""
        yield f"{title} ({len(found)}):"
        yield from (f"  {line}" for line in found[:most])
        if len(found) > most:
            yield f"  and {len(found) - most} more (--json names all)"


def _below(root: str | None) -> str:
    return ", of the flow cache alone" if root is None else f", below {root}"


def _named(names: Sequence[str]) -> str:
    return f"{len(names)}: {first_names(names, _NAMED)}" if names else ""


def _listed(report: DataReport) -> str:
    if not report.listed:
        return ""
    words = f"{report.listed}"
    if report.missing:
        words += f", not on disk: {_named(report.missing)}"
    if report.absent_classes:
        words += f"; classes without videos: {_named(report.absent_classes)}"
    return words


def _cache(cache: Mapping[str, Any] | None) -> str:
    if cache is None:
        return ""
    words = f"{cache['path']} holds {cache['held']} of them"
    if cache["lacking"]:
        words += f", lacks {_named(cache['lacking'])}"
    if cache["others"]:
        words += f"; {cache['others']} others"
    for settings in cache["settings"]:
        shown = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "videos")
        words += f"\n{settings['videos']} made with {shown}"
    return words


def _leak(leak: Mapping[str, Any]) -> str:
    where = f"of {', '.join(leak['classes'])}" if leak["classes"] else "of different classes"
    return f"{leak['source']}: {' and '.join(leak['sides'])}, {where}"


def _same(same: Mapping[str, Any]) -> str:
    on = f" ({' and '.join(same['sides'])})" if same["sides"] else ""
    return " = ".join(same["videos"]) + on


def _alike(alike: Mapping[str, Any]) -> str:
    one, other = alike["sources"]
    on = f" ({' and '.join(alike['sides'])})" if alike["sides"] else ""
    return f"{one} and {other}{on}: {count(alike['pairs'], 'pair')} of videos, such as {' and '.join(alike['videos'])}"
