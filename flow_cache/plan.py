"""What a run would have to do: which videos are new, kept, redone, or in the way. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from flow_cache.container import CacheReader, cache_path
from flow_cache.errors import ArgumentError, CacheFileError, CacheMismatchError, CacheVersionError
from flow_cache.index import cache_files
from flow_cache.meta import CacheMeta, Source
from flow_cache.worker import Job, source_bytes


@dataclass(frozen=True)
class Plan:
    """Videos by what happens to them."""

    output: Path
    jobs: list[Job] = field(default_factory=list)
    """What has to be done, for whatever reason."""
    kept: list[str] = field(default_factory=list)
    """Videos whose cache file is whole and of the make asked for."""
    redone: dict[str, str] = field(default_factory=dict)
    """Those of the jobs that replace an existing file, and why."""
    mismatches: dict[str, str] = field(default_factory=dict)
    """Cache files of the videos asked for that were made in another way, and how they differ."""
    others: dict[str, str] = field(default_factory=dict)
    """Cache files of other videos that were made in another way, and how they differ."""

    @property
    def new(self) -> list[str]:
        """Videos without a cache file."""
        return [job.video for job in self.jobs if job.video not in self.redone]

    def check(self) -> None:
        """Raise CacheMismatchError if the cache holds files of another make.

        Those of the videos asked for count unless they are overwritten; others in any case, since they could not be
        redone.
        """
        for name, difference in self.mismatches.items():
            more = f" (and {len(self.mismatches) - 1} more files)" if len(self.mismatches) > 1 else ""
            raise CacheMismatchError(
                f"{self.output} was made with other parameters: {name} has {difference}{more}; "
                "use --overwrite to redo them, or another output folder"
            )
        for name, difference in self.others.items():
            raise CacheMismatchError(
                f"{self.output} holds other videos made with other parameters: {name} has {difference}; "
                "use another output folder"
            )


def make_plan(
    template: CacheMeta,
    root: Path,
    names: list[str],
    output: Path,
    *,
    overwrite: bool = False,
    keep_partial: bool = False,
) -> Plan:
    """Compare the videos asked for with what lies in the cache folder, which need not exist.

    template: the meta of every file, but for the source. Raises ArgumentError if a link leads out of the folder.
    """
    plan = Plan(output)
    present = cache_files(output)
    for name in names:
        target = cache_path(output, name)
        if not target.parent.resolve().is_relative_to(output.resolve()):
            raise ArgumentError(f"{target}: a link leads out of the cache folder")
        relative = target.relative_to(output).as_posix()
        asked = replace(template, source=Source(name, source_bytes(root / name)))
        path = present.pop(relative, None)
        if path is not None:
            found, difference = _look(path, asked)
            reason = _reason_to_redo(found, asked, overwrite, keep_partial)
            if difference is not None and not overwrite:
                plan.mismatches[relative] = difference
                continue
            if reason is None:
                plan.kept.append(name)
                continue
            plan.redone[name] = reason
        plan.jobs.append(Job(root / name, target, asked, keep_partial))
    for relative, path in present.items():
        _, difference = _look(path, template, any_source=True)
        if difference is not None:
            plan.others[relative] = difference
    return plan


def _look(path: Path, asked: CacheMeta, *, any_source: bool = False) -> tuple[CacheMeta | None, str | None]:
    """Return the meta of an existing file, and in what it differs from the one asked for.

    The meta is None if the file is damaged, or of another format version, which counts as a difference.
    """
    try:
        with CacheReader(path) as reader:
            found = reader.meta
    except CacheVersionError as error:
        return None, error.reason
    except CacheFileError:
        return None, None
    return found, found.difference(replace(asked, source=found.source) if any_source else asked)


def _reason_to_redo(
    found: CacheMeta | None, asked: CacheMeta, overwrite: bool, keep_partial: bool
) -> str | None:
    if overwrite:
        return "overwrite"
    if found is None:
        return "damaged"
    if found.source.bytes != asked.source.bytes:
        return "the video has changed"
    return None if found.partial is None or keep_partial else "holds only a part"
