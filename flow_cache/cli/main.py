"""The command `flow-cache`: what each of its subcommands calls, and its exit status.

Exit status: 0 all done, 1 some inputs failed (each named) or what was printed is lost, 2 unusable arguments,
130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cli.parser import PROGRAM, parse, take
from flow_cache.cli.printing import (
    info_as_json,
    print_estimate,
    print_info,
    print_summary,
    print_verification,
)
from flow_cache.cli.streams import complain, print_line, run_program
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.commands.import_folders import ImportConfig, import_folders
from flow_cache.commands.info import describe_cache
from flow_cache.commands.recode import RecodeConfig, recode_cache
from flow_cache.commands.verify import Videos, repair_cache, verify_cache
from flow_cache.commands.view import view
from flow_cache.errors import ArgumentError, CacheMismatchError, FlowCacheError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.outcome import Failure, PrecomputeSummary, failures_name
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.runtime import interruptible
from flow_cache.storage.paths import as_path


def main(
    argv: Sequence[str] | None = None, *, run: Callable[[PrecomputeConfig], PrecomputeSummary] = precompute
) -> int:
    """Run `flow-cache`.

    Args:
        argv: the arguments; None for those of the process.
        run: what `flow-cache precompute` calls.

    Returns:
        The exit status.
    """
    return run_program(PROGRAM, lambda: _run(sys.argv[1:] if argv is None else argv, run))


def _run(argv: Sequence[str], run: Callable[[PrecomputeConfig], PrecomputeSummary]) -> int:
    """Do what the arguments say, and say in one line what went wrong; returns the exit status."""
    commands = _COMMANDS | {"precompute": functools.partial(_precompute, run=run)}
    with interruptible() as interruption:
        try:
            command, arguments = parse(argv)
            return commands[command](arguments)
        except FlowCacheError as error:
            complain(PROGRAM, error)
            return 2 if isinstance(error, (ArgumentError, CacheMismatchError)) else 1
        except SystemExit as finished:  # --help and --print_config
            return int(finished.code or 0)
        except KeyboardInterrupt as interrupt:
            complain(PROGRAM, str(interrupt) or "interrupted")
            return interruption.exit_status


def _precompute(arguments: dict[str, Any], *, run: Callable[[PrecomputeConfig], PrecomputeSummary]) -> int:
    """Fill a cache, or say what would be done."""
    _require(arguments, "input")
    dry_run = arguments.pop("dry_run")
    flow, storage = take(FlowSettings, arguments), take(StorageSettings, arguments)
    config = PrecomputeConfig(**arguments, flow=flow, storage=storage)
    if dry_run:
        found = estimate(config)
        print_estimate(found)
        found.plan.check()
        return 1 if found.unreadable else 0
    summary = run(config)
    print_summary(summary, failures_name(config.shard))
    return 1 if summary.failures else 0


def _info(arguments: dict[str, Any]) -> int:
    """Describe a cache."""
    cache = as_path(arguments["cache"])
    if not cache.exists():
        raise ArgumentError(f"{cache}: no such cache file or folder")
    info = describe_cache(cache)
    print(info_as_json(info)) if arguments["json"] else print_info(info)
    for error in info.damaged:
        complain(PROGRAM, error)
    return 1 if info.damaged else 0


def _verify(arguments: dict[str, Any]) -> int:
    """Check a cache, and repair it if asked to."""
    if arguments["videos"] is None and (arguments["repair"] or arguments["root"] is not None):
        raise ArgumentError("--repair and --root need --videos, the videos that the cache was made from")
    videos = None if arguments["videos"] is None else Videos(arguments["videos"], arguments["root"])
    found = verify_cache(as_path(arguments["cache"]), videos, decode=arguments["decode"])
    repair = None
    if arguments["repair"] and videos is not None:
        repair = repair_cache(found, videos, device=arguments["device"], workers=arguments["workers"])
    print_verification(found, repair)
    return 1 if (found.faults if repair is None else repair.faults) else 0


def _recode(arguments: dict[str, Any]) -> int:
    """Turn a cache into another codec."""
    summary = recode_cache(RecodeConfig(**arguments))
    print_summary(summary, failures_name())
    return 1 if summary.failures else 0


def _export(arguments: dict[str, Any]) -> int:
    """Write a cache in another layout."""
    _require(arguments, "cache")
    exported = export_cache(ExportConfig(**arguments))
    print_line(f"{exported.videos:,} videos, {exported.fields:,} fields exported to {exported.output}")
    for name in exported.with_gaps:
        print_line(
            f"{name}: frames of the video are missing; the numbers of fields across a gap are left out"
        )
    return _report(exported.failures)


def _import(arguments: dict[str, Any]) -> int:
    """Fill a cache from images of flow."""
    _require(arguments, "input")
    storage = take(StorageSettings, arguments)
    imported = import_folders(ImportConfig(**arguments, storage=storage))
    print_line(
        f"{imported.done:,} videos, {imported.fields:,} fields imported to {imported.output}, "
        f"{imported.skipped:,} kept from before"
    )
    return _report(imported.failures)


def _view(arguments: dict[str, Any]) -> int:
    """Draw a cache file."""
    _require(arguments, "cache_file")
    out = arguments.pop("output")
    longest = view(arguments.pop("cache_file"), out, **arguments)
    print_line(f"{out}: full colour is {longest:.2f} pixels")
    return 0


_COMMANDS: dict[str, Callable[[dict[str, Any]], int]] = {
    "info": _info,
    "verify": _verify,
    "recode": _recode,
    "export": _export,
    "import": _import,
    "view": _view,
}


def _require(arguments: dict[str, Any], name: str) -> None:
    """Raise ArgumentError unless the positional argument and --output are given."""
    for key, flag in ((name, name.upper()), ("output", "--out")):
        if arguments.get(key) is None:
            hint = (
                "give it as an argument or in --config" if name != "cache_file" else "give it as an argument"
            )
            raise ArgumentError(f"{flag} is missing: {hint}")


def _report(failures: Sequence[Failure]) -> int:
    """Print what failed; returns the exit status."""
    for failure in failures:
        print_line(f"failed: {failure.video}: {failure.reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
