"""Import folders of `flow_x_00001.jpg`, `flow_y_00001.jpg` and `img_00001.jpg` into a cache.

Grey levels are used unchanged (`export.py` says what they mean); what JPEG has lost stays lost. The estimator and its
parameters are not known: the method is `imported`. The user gives the bound; for TSN and MMAction2, `dense_flow` and
`denseflow` were run with 20 px.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source, current_versions
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import ArgumentError, VideoError
from flow_cache.pipeline.inputs import choose_videos
from flow_cache.pipeline.outcome import Failure, PrecomputeInterrupted, PrecomputeSummary, record_outcome
from flow_cache.pipeline.plan import make_plan
from flow_cache.pipeline.run import prepare_output
from flow_cache.pipeline.settings import FlowSettings
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.runtime import opencv
from flow_cache.storage.paths import absolute
from flow_cache.video.aspect import resized
from flow_cache.video.frames import rgb_output_size
from flow_cache.video.source import hash_source, local_copy

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

METHOD = "imported"
_NAME = re.compile(r"(flow_x|flow_y|img)_([0-9]{1,9})\.(jpg|jpeg|png)", re.IGNORECASE)
_CHUNK = 32

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class ImportConfig:
    """What to import, and how.

    Attributes:
        input: a folder of flow images, or a folder with one for each video somewhere below it.
        output: the cache folder; files appear under the folders' relative paths.
        bound: flow of this many pixels fills the grey levels; the images themselves do not say.
        step: flow is from frame t to frame t + step.
        storage: how fields and frames are stored; frames are encoded again. Frames of another size than the fields need
            rgb_short_side.
        overwrite: redo videos that are in the cache already, whatever their parameters.

    Example:
        >>> from flow_cache import ImportConfig, StorageSettings
        >>> ImportConfig("images", "cache", storage=StorageSettings(max_error=0)).bound
        20.0
    """

    input: str | Path
    output: str | Path
    bound: float = FlowSettings.bound
    step: int = FlowSettings.step
    storage: StorageSettings = field(default_factory=StorageSettings)
    overwrite: bool = False


@dataclass(frozen=True)
class ImportSummary:
    """What an import did.

    Attributes:
        done: videos that were imported.
        skipped: videos that were in the cache already.
        failures: folders that could not be imported, and why.
        fields: flow fields that were imported.
        output: the cache folder.
    """

    done: int
    skipped: int
    failures: list[Failure]
    fields: int
    output: AnyPath


@dataclass(frozen=True)
class _Layout:
    """The images of one folder, in order."""

    x: list[Path]
    y: list[Path]
    images: list[Path]


def import_folders(config: ImportConfig, progress: bool = True) -> ImportSummary:
    """Fill a cache from folders of flow images; complete cache files with the same settings are kept.

    Folders that lack images or hold unreadable ones are listed in the summary and in `failures.csv`.

    Args:
        config: what to import, and how.
        progress: show a live line on stderr.

    Raises:
        ArgumentError, CacheMismatchError: before any work.
        CacheWriteError: the disk refuses.
        PrecomputeInterrupted: as `precompute` raises it; the same call continues from there.

    Example:
        >>> import numpy as np
        >>> from flow_cache import (
        ...     CacheMeta, CacheWriter, ExportConfig, ImportConfig, Source, export_cache, import_folders
        ... )
        >>> with CacheWriter("first/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> _ = export_cache(ExportConfig("first", "images", format="png"), progress=False)
        >>> summary = import_folders(ImportConfig("images", "cache", bound=20.0), progress=False)
        >>> summary.done, summary.fields
        (1, 3)
    """
    output = absolute(config.output)
    template = CacheMeta(
        source=Source(""),
        method=METHOD,
        backend="flow_x and flow_y images",
        bound=config.bound,
        step=config.step,
        storage=config.storage,
        versions=current_versions(storage=config.storage),
    )
    inputs = choose_videos(config.input)
    inputs = replace(inputs, names=[name for name in inputs.names if _holds_flow(inputs.root / name)])
    if not inputs.names:
        raise ArgumentError(f"{config.input}: holds no folder with flow_x_... images")
    prepare_output(output)
    plan = make_plan(template, inputs, output, overwrite=config.overwrite, flow=True)
    plan.check()
    failures = [Failure(video, reason) for video, reason in plan.refused.items()]
    stamps = {video: plan.stamps[video] for video in plan.kept}
    fields = done = 0
    started = time.monotonic()
    try:
        with ProgressLine(len(inputs.names), len(plan.jobs), len(plan.kept), progress) as line:
            for job in plan.jobs:
                failed = len(failures)
                try:
                    with local_copy(job.source) as folder:
                        fields += _import(job, folder, line).fields
                    done += 1
                    stamps[job.video] = plan.stamps[job.video]
                except VideoError as error:
                    job.target.unlink(missing_ok=True)
                    failures.append(Failure(job.video, error.reason_and_frame))
                line.finished(1, failed=len(failures) > failed)
    except KeyboardInterrupt as interrupt:
        record_outcome(output, failures, source_stamps=stamps)
        seconds = time.monotonic() - started
        remaining = len(inputs.names) - len(plan.kept) - done - len(failures)
        summary = PrecomputeSummary(
            done, len(plan.kept), failures, fields, seconds, output, remaining=remaining
        )
        raise PrecomputeInterrupted(summary) from interrupt
    record_outcome(output, failures, source_stamps=stamps)
    return ImportSummary(done, len(plan.kept), failures, fields, output)


def _import(job: Job, folder: Path, line: ProgressLine) -> CacheMeta:
    """Write one folder's cache file; raises VideoError if its images cannot be used."""
    layout = _layout(job, folder)
    meta = replace(job.meta, source=replace(job.meta.source, sha256=hash_source(folder, flow=True)))
    writer: CacheWriter | None = None
    ends = values = 0
    try:
        for start in range(0, len(layout.x), _CHUNK):
            part = slice(start, start + _CHUNK)
            levels = np.stack([_read(layout.x[part], folder), _read(layout.y[part], folder)], axis=1)
            if writer is None:
                writer = CacheWriter(job.target, meta)
            writer.add_flow(levels)
            ends += int(np.count_nonzero((levels == 0) | (levels == 255)))
            values += levels.size
            line.advance(FieldsDone(len(levels), {}))
        assert writer is not None, "a layout has at least one field"
        for frame in _of_one_size(layout.images, folder, colour=True):
            writer.add_rgb(_in_size(frame, meta.storage.own_rgb_side)[None])
        # An estimate: clipped values have the first or the last level.
        return writer.close(clip_fraction=ends / values)
    except ArgumentError as error:  # flow and frames have different sizes
        raise VideoError(folder, str(error)) from error
    finally:
        if writer is not None:
            writer.abort()


def _holds_flow(folder: AnyPath) -> bool:
    """Tell whether a folder holds an image named like those that are imported."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def _layout(job: Job, folder: Path) -> _Layout:
    """Find a folder's images and check that none is missing; raises VideoError."""
    found: dict[str, dict[int, Path]] = {"flow_x": {}, "flow_y": {}, "img": {}}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        kind, number = match[1].lower(), int(match[2])
        if number in found[kind]:
            raise VideoError(folder, f"holds {kind} number {number} twice")
        found[kind][number] = path
    if not job.meta.has_rgb:
        found["img"] = {}
    x, y, images = (_in_order(folder, kind, found[kind]) for kind in found)
    if len(x) != len(y) or min(found["flow_x"], default=0) != min(found["flow_y"], default=0):
        raise VideoError(
            folder, f"holds {len(x)} flow_x and {len(y)} flow_y images, expected the same number"
        )
    if not x:
        raise VideoError(folder, "holds no flow_x images")
    if job.meta.has_rgb:
        if len(images) == len(x):  # dense_flow writes as many images as fields: the last frame is missing
            images += images[-1:] * job.meta.step
        if len(images) != len(x) + job.meta.step:
            raise VideoError(
                folder, f"holds {len(images)} img images, {len(x)} fields need {len(x) + job.meta.step}"
            )
    return _Layout(x, y, images)


def _in_order(folder: Path, kind: str, numbered: dict[int, Path]) -> list[Path]:
    """Return images by number; raises VideoError for a gap, or a first number above 1."""
    if not numbered:
        return []
    first, last = min(numbered), max(numbered)
    if first > 1:
        raise VideoError(folder, f"{kind} starts with number {first}, expected 0 or 1")
    if last - first + 1 != len(numbered):
        missing = next(number for number in range(first, last) if number not in numbered)
        raise VideoError(folder, f"{kind} number {missing} is missing")
    return [numbered[number] for number in sorted(numbered)]


def _in_size(frame: Images, short_side: int | None) -> Images:
    """Resize an RGB frame to the size that it is stored in; None: its own."""
    if short_side is None:
        return frame
    height, width = frame.shape[:2]
    return resized(np.ascontiguousarray(frame), rgb_output_size(width, height, short_side))


def _read(paths: list[Path], folder: Path) -> Images:
    """Read grey images, (n, H, W) uint8."""
    return np.stack(list(_of_one_size(paths, folder)))


def _of_one_size(paths: list[Path], folder: Path, *, colour: bool = False) -> Iterator[Images]:
    """Decode images, (H, W) grey or (H, W, 3) RGB uint8.

    Raises VideoError for one that cannot be read or has another size than the first.
    """
    cv2 = opencv()
    shape: tuple[int, ...] | None = None
    for path in paths:
        try:
            encoded = np.fromfile(path, np.uint8)
        except OSError as error:
            raise VideoError(folder, f"image {path.name}: {error.strerror or error}") from error
        mode = cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE
        try:
            image = cv2.imdecode(encoded, mode) if encoded.size else None
        except cv2.error as error:
            raise VideoError(folder, f"image {path.name} cannot be decoded") from error
        if image is None:
            raise VideoError(folder, f"image {path.name} cannot be decoded")
        if shape not in (None, image.shape):
            raise VideoError(folder, f"image {path.name} has another size than those before it")
        shape = image.shape
        yield image[..., ::-1] if colour else image
