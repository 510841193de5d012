"""What the commands print at their end, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flow_cache.cli.streams import print_line
from flow_cache.progress import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flow_cache.commands.info import CacheInfo
    from flow_cache.commands.verify import Repair, Verification
    from flow_cache.pipeline.dry_run import Estimate
    from flow_cache.pipeline.outcome import PrecomputeSummary

_SHOWN = 20  # failures and the like, before the rest is only counted


def print_summary(summary: PrecomputeSummary, failures_name: str) -> None:
    """Print what a run did, and the first of its failures, to stdout."""
    rate = summary.fields / summary.seconds if summary.seconds > 0 else 0.0
    partial = f" ({summary.partial:,} only in part)" if summary.partial else ""
    rows = (
        ("videos done", f"{summary.done:,}{partial}"),
        ("kept from before", f"{summary.skipped:,}"),
        ("failed", f"{len(summary.failures):,}"),
        ("flow fields", f"{summary.fields:,}"),
        ("time", f"{format_seconds(summary.seconds)}, {rate:,.1f} pairs/s"),
        ("cache", str(summary.output)),
    )
    _print_rows(rows)
    for failure in summary.failures[:_SHOWN]:
        print_line(f"failed: {failure.video}: {failure.reason}")
    if len(summary.failures) > _SHOWN:
        more = len(summary.failures) - _SHOWN
        print_line(f"... and {more:,} more, all in {summary.output / failures_name}")
    _print_parts(summary.parts)
    for note in summary.notes:
        print_line(note)


def print_estimate(found: Estimate) -> None:
    """Print an estimate for people."""
    plan = found.plan
    opened = f" (of {found.opened:,} opened)" if found.opened < len(plan.jobs) else ""
    per_field = f", {found.bytes / found.fields / 1e3:,.1f} kB a field" if found.fields else ""
    rows = (
        ("new videos", f"{len(plan.new):,}"),
        ("kept from before", f"{len(plan.kept):,}" + _only_in_part(plan.partial)),
        ("to be redone", f"{len(plan.redone):,}"),
        ("other settings", f"{len(plan.mismatches) + len(plan.others):,}"),
        ("cannot be read", f"{len(found.unreadable):,}{opened}"),
        ("flow fields", f"about {found.fields:,}"),
        ("size", f"about {found.bytes / 1e6:,.1f} MB{per_field}"),
        ("time", f"about {format_seconds(found.seconds)} with {found.workers} worker processes"),
        ("estimated from", f"{found.sampled_fields} fields"),
        ("cache", f"{plan.output} (nothing was written)"),
    )
    _print_rows(rows)
    for failure in found.unreadable[:_SHOWN]:
        print_line(f"cannot be read: {failure.video}: {failure.reason}")
    for video, reason in list(plan.redone.items())[:_SHOWN]:
        print_line(f"to be redone: {video}: {reason}")
    _print_parts(plan.partial)
    for note in plan.notes:
        print_line(note)


def info_as_json(info: CacheInfo) -> str:
    """Return a cache's description as JSON; there, the settings of its files are called `made`."""
    values = {"made" if name == "settings" else name: value for name, value in asdict(info).items()}
    return json.dumps(values, indent=1)


def print_info(info: CacheInfo) -> None:
    """Print a cache's description for people."""
    rows: list[tuple[str, str]] = [
        ("cache", info.path),
        ("videos", f"{info.videos:,}" + (f" ({info.partial:,} partial)" if info.partial else "")),
        ("fields", f"{info.fields:,} from {info.frames:,} frames"),
        ("RGB", f"{info.with_rgb:,} videos"),
        ("disk use", f"{info.bytes / 1e6:,.1f} MB, {info.bytes_per_field / 1e3:,.1f} kB a field"),
        ("frame sizes", _most_frequent(info.sizes)),
    ]
    if set(info.rgb_sizes) - set(info.sizes):
        rows.append(("RGB sizes", _most_frequent(info.rgb_sizes)))
    if info.clip_fraction:
        shares = ", ".join(f"{name} {info.clip_fraction[name]:.3%}" for name in ("mean", "median", "max"))
        rows.append(("clipped flow", f"{shares} (by video)"))
        histogram = ", ".join(f"{name}: {count:,}" for name, count in info.clip_histogram.items() if count)
        rows.append(("videos by clipped", histogram))
    if info.beyond:
        rows.append(
            ("would clip", ", ".join(f"bound {bound}: {share:.3%}" for bound, share in info.beyond.items()))
        )
    for settings in info.settings:
        rows.append(("made with", ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())))
    if info.damaged:
        rows.append(("damaged", f"{len(info.damaged):,} files"))
    _print_rows((name, value or "-") for name, value in rows)
    _print_parts(info.parts)


def _print_parts(parts: Mapping[str, str]) -> None:
    """Print the first videos of which only a part is there, and why."""
    for video, reason in list(parts.items())[:_SHOWN]:
        print_line(f"only in part: {video}: {reason}")
    if len(parts) > _SHOWN:
        print_line(f"... and {len(parts) - _SHOWN:,} more only in part")


def _only_in_part(parts: Mapping[str, str]) -> str:
    """Say in brackets how many videos are there only in part; nothing if none is."""
    return f" ({len(parts):,} only in part)" if parts else ""


def _most_frequent(sizes: dict[str, int]) -> str:
    """Write the first sizes, each with its number of videos."""
    return ", ".join(f"{size} ({count:,})" for size, count in list(sizes.items())[:5])


def _plain(value: Any) -> str:
    """Write a setting, or a group of them, as text."""
    if isinstance(value, dict):
        return "(" + " ".join(f"{name}={entry}" for name, entry in value.items()) + ")"
    return str(value)


def print_verification(found: Verification, repair: Repair | None) -> None:
    """Print what was found: a line for each bad file, one for each repaired file, then a summary."""
    for fault in found.faults if repair is None else repair.faults:
        print_line(f"bad: {fault.cache_file}: {' '.join(fault.reason.split())}")
    for name in [] if repair is None else repair.repaired:
        print_line(f"repaired: {name}")
    partial = f", {found.partial:,} of them partial" if found.partial else ""
    print_line(
        f"{found.files:,} files{partial}, {found.fields:,} fields, {found.bytes / 1e6:,.1f} MB: "
        f"{len(found.faults):,} bad"
        + ("" if repair is None else f", {len(repair.repaired):,} repaired, {len(repair.faults):,} still bad")
    )


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns, a line each, which a narrow terminal breaks where it must."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_line(f"{name:<{width}}  {value}")
