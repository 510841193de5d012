"""What a run has to do: which videos are new, kept or redone, or have other settings. Nothing is written here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from flow_cache.cache.index import known_sources, list_cache_files
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.naming import cache_path, unusable_name
from flow_cache.cache.reader import meta_or_error
from flow_cache.errors import (
    ArgumentError,
    CacheFileError,
    CacheMismatchError,
    CacheVersionError,
    VideoError,
    first_names,
)
from flow_cache.methods.device import check_cluster_device, check_devices
from flow_cache.pipeline.inputs import Inputs, choose_videos, shares_cache_file
from flow_cache.pipeline.settings import Damaged, PrecomputeConfig
from flow_cache.pipeline.worker import Job
from flow_cache.storage.paths import absolute, is_local, map_files
from flow_cache.video.source import hash_of_video, source_status

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath, Status

_PART_OF = {"keep-prefix": "prefix", "skip-frames": "gaps"}  # what a file holds of a damaged video


class Copy(NamedTuple):
    """A video that is the same file as another one: its cache file is copied.

    Attributes:
        job: what would be done for a video of its own.
        of: the other video, which is kept or done before.
    """

    job: Job
    of: str


@dataclass(frozen=True)
class Plan:
    """The videos of a run, by what happens to them.

    Attributes:
        template: the meta of every file, except its source.
        root: folder where the videos' relative paths start.
        output: the cache folder.
        jobs: every video that has to be done, for any reason.
        copies: the same, of videos that are the same file as another one.
        kept: videos whose cache file is complete and has the settings asked for.
        partial: those of them of which only a part is there, and why.
        redone: videos among the jobs and copies that replace an existing file, and why.
        mismatches: cache files of the videos asked for that have other settings, and how they differ.
        others: cache files of other videos that have other settings, and how they differ.
        stamps: of the videos asked for, as `source_status` gives them; empty if not known.
        refused: videos that cannot have a cache file, and why.
        notes: what the search for videos left out, a line each.
    """

    template: CacheMeta
    root: AnyPath
    output: AnyPath
    jobs: list[Job] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    partial: dict[str, str] = field(default_factory=dict)
    redone: dict[str, str] = field(default_factory=dict)
    mismatches: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def new(self) -> list[str]:
        """Videos without a cache file."""
        jobs = [*self.jobs, *(copy.job for copy in self.copies)]
        return [job.video for job in jobs if job.video not in self.redone]

    def check(self) -> None:
        """Raise CacheMismatchError if the cache holds files with other settings.

        Files of the videos asked for are allowed if they are overwritten; files of other videos never are, since they
        could not be redone.
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


def plan_run(
    config: PrecomputeConfig,
    videos: Sequence[str] | None = None,
    prepare: Callable[[AnyPath, AnyPath], None] | None = None,
) -> Plan:
    """Check the settings of a run and plan it; nothing is written.

    Args:
        config: what to precompute, and how.
        videos: paths relative to the input; None for all that are found.
        prepare: called with the folders of the videos and of the cache, once the settings are known to be usable and
            before the cache folder is listed.

    Raises:
        ArgumentError: the first setting that is unusable.
    """
    check = check_devices if config.ray is None else check_cluster_device
    check(config.flow.device)
    template = config.flow.template(config.storage)
    inputs = choose_videos(
        config.input, videos=videos, root=config.root, limit=config.limit, shard=config.shard
    )
    output = absolute(config.output)
    if prepare is not None:
        prepare(inputs.root, output)
    return make_plan(
        template,
        inputs,
        output,
        overwrite=config.overwrite,
        damaged=config.on_damage,
        check_content=config.check_content,
    )


def make_plan(
    template: CacheMeta,
    inputs: Inputs,
    output: AnyPath,
    *,
    overwrite: bool = False,
    damaged: Damaged = "fail",
    check_content: bool = False,
    flow: bool = False,
) -> Plan:
    """Compare the videos asked for with the files in the cache folder.

    A file is kept if it was made from its video as it is now: the size is the same, and so is the stamp in the index,
    or else the hash of the content, for which the video is read. So a video that was only touched is kept.

    Args:
        template: the meta of every file, except its source.
        inputs: the videos.
        output: the cache folder, which need not exist.
        overwrite: redo videos that have a cache file.
        damaged: what is done with a damaged video. Files that hold what another choice keeps of one are redone.
        check_content: compare the content even where size and stamp are the same.
        flow: the videos are folders of flow, of which all images are read.

    Raises:
        ArgumentError: a link leads out of the cache folder.
    """
    files = list_cache_files(output)
    metas = dict(
        zip(files, map_files(lambda name: meta_or_error(output / name), list(files), output), strict=True)
    )
    inputs = _with_owners(inputs, metas)
    root, names = inputs.root, inputs.names
    plan = Plan(template, root, output, refused=inputs.refused, notes=[*inputs.notes])
    statuses = map_files(lambda name: source_status(root / name, flow=flow), names, root)
    plan.stamps.update((name, status.stamp) for name, status in zip(names, statuses, strict=True))
    known = {} if check_content else known_sources(output, files)
    asked_for = {
        name: replace(template, source=Source(name, status.size))
        for name, status in zip(names, statuses, strict=True)
    }

    def is_doubtful(name: str) -> bool:
        """Tell whether only the content of a video can say if it is the one that its cache file was made from."""
        relative = cache_path("", name).as_posix()
        found, asked = metas.get(relative), asked_for[name]
        if overwrite or not isinstance(found, CacheMeta) or found.difference(asked) is not None:
            return False
        recorded = found.source.sha256 and found.source.bytes == asked.source.bytes
        return bool(recorded) and (not plan.stamps[name] or known.get(relative) != plan.stamps[name])

    doubtful = [name for name in names if is_doubtful(name)]
    hashes = map_files(lambda name: _hash_of(root / name, flow), doubtful, root)
    contents = dict(zip(doubtful, hashes, strict=True))
    originals = {} if flow else _originals(names, statuses)
    leads_out = functools.cache(lambda folder: not folder.resolve().is_relative_to(output.resolve()))
    for name, asked in asked_for.items():
        target = cache_path(output, name)
        if is_local(target) and leads_out(target.parent):
            raise ArgumentError(f"{target}: a link leads out of the cache folder")
        relative = cache_path("", name).as_posix()
        if relative in metas:
            found = metas.pop(relative)
            difference = _difference(found, asked)
            reason = _reason_to_redo(found, asked, overwrite, damaged, contents.get(name))
            if difference is not None and not overwrite:
                plan.mismatches[relative] = difference
                continue
            if reason is None:
                plan.kept.append(name)
                if isinstance(found, CacheMeta) and found.partial is not None:
                    plan.partial[name] = found.partial
                continue
            plan.redone[name] = reason
        job = Job(root / name, target, asked, damaged)
        if name in originals:
            plan.copies.append(Copy(job, originals[name]))
        else:
            plan.jobs.append(job)
    if plan.copies:
        same = first_names([f"{copy.job.video} and {copy.of}" for copy in plan.copies])
        plan.notes.append(f"computed once, since they are the same file under two names: {same}")
    for relative, found in metas.items():
        source = found.source if isinstance(found, CacheMeta) else template.source
        if (difference := _difference(found, replace(template, source=source))) is not None:
            plan.others[relative] = difference
    return plan


def _with_owners(inputs: Inputs, metas: Mapping[str, CacheMeta | CacheFileError]) -> Inputs:
    """Let each cache file stay with its video, though another one of the same cache file may come first."""
    names, refused = [], {**inputs.refused}
    for name in inputs.names:
        found = metas.get(cache_path("", name).as_posix())
        owner = found.source.path if isinstance(found, CacheMeta) else name
        if (
            owner in refused
            and unusable_name(owner) is None
            and cache_path("", owner) == cache_path("", name)
        ):
            del refused[owner]
            refused[name] = shares_cache_file(name, owner)
            names.append(owner)
        else:
            names.append(name)
    return replace(inputs, names=names, refused=dict(sorted(refused.items())))


def _originals(names: Sequence[str], statuses: Sequence[Status]) -> dict[str, str]:
    """Find videos that are the same file as an earlier one, by a hard or a symbolic link, and that one of each."""
    originals: dict[str, str] = {}
    seen: dict[tuple[int, int], str] = {}
    for name, status in zip(names, statuses, strict=True):
        if status.inode is not None and (first := seen.setdefault(status.inode, name)) != name:
            originals[name] = first
    return originals


def _hash_of(video: AnyPath, flow: bool) -> str:
    """Return the hash of a video's content; nothing if it cannot be read, which the run will report."""
    try:
        return hash_of_video(video, flow=flow)
    except VideoError:
        return ""


def _difference(found: CacheMeta | CacheFileError, asked: CacheMeta) -> str | None:
    """Say how an existing file differs from the one asked for; None if it does not, or is damaged."""
    if isinstance(found, CacheVersionError):
        return found.reason
    if not isinstance(found, CacheMeta) or (difference := found.difference(asked)) is None:
        return None
    if _is_recodable(found, asked):
        difference += f", which flow-cache recode --codec {asked.storage.codec} would change"
    return difference


def _is_recodable(found: CacheMeta, asked: CacheMeta) -> bool:
    """Tell whether a file differs in nothing but the codec of the same levels."""
    try:
        return found.recoded(asked.storage.codec).difference(asked) is None
    except ArgumentError:
        return False


def _reason_to_redo(
    found: CacheMeta | CacheFileError,
    asked: CacheMeta,
    overwrite: bool,
    damaged: Damaged,
    content: str | None,
) -> str | None:
    """Say why an existing file has to be replaced, by the hash of the video if it was needed; None if it is kept."""
    if overwrite:
        return "overwrite"
    if not isinstance(found, CacheMeta):
        return "damaged"
    if found.source.bytes != asked.source.bytes or content not in (None, found.source.sha256):
        return "the video has changed"
    return None if found.part in ("", _PART_OF.get(damaged)) else f"holds only a part ({found.part})"
