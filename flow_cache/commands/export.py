"""Write a cache's flow in the layouts that other projects read.

`jpg`: a folder per video as `dense_flow` and `denseflow` write it and TSN and MMAction2 read it,

    walk/a/flow_x_00001.jpg   u of field 0, grey     (filename_tmpl "flow_{}_{:05d}.jpg", modality "Flow")
    walk/a/flow_y_00001.jpg   v of field 0, grey
    walk/a/img_00001.jpg      frame 0                (filename_tmpl "img_{:05d}.jpg"), where the cache holds RGB

TSN, `dense_flow` and MMAction2's default (`start_index=1`) count from 1, `denseflow` from 0. TSN looks for folders one
level deep: use `flat`. With step 1 there is one frame more than fields.

Those tools write round(255 (v + b) / (2 b)), b = 20 px, and their readers subtract 128, which is also the level of no
motion in a cache. So grey levels are copied unchanged, and mean exactly the same flow. A reader that inverts the
formula instead (zero at 127.5) reads half a level, b / 255 px, too much. JPEG changes the levels a little; `png` has
the same layout and changes nothing. RGB frames are copied as they are stored, byte by byte,
whatever their size.

Fields that would lead across a gap of a damaged video are not in the cache. Their numbers are left out in folders; an
array has no place for gaps, so such a video is refused.

`npy`: walk/a.npy, (T, H, W, 2) float32, flow clipped to +-20 px and divided by 20, as I3D takes it.
`flo`: walk/a/flow_00001.flo, a Middlebury file for each field: float32 pixels.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import StorageSettings, encode_flow
from flow_cache.cache.index import cache_files_of
from flow_cache.cache.naming import CACHE_SUFFIX
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import ArgumentError, CacheFileError, CacheWriteError
from flow_cache.pipeline.inputs import collision_key
from flow_cache.pipeline.outcome import Failure
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.quantization import dequantize
from flow_cache.runtime import signals_blocked
from flow_cache.storage.atomic import probe_writable, working_folder
from flow_cache.storage.paths import absolute, as_path, relative_name

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

FORMATS = ("jpg", "png", "npy", "flo")
I3D_BOUND = 20.0
_FLO_TAG = struct.pack("<f", 202021.25)  # reads "PIEH"
_CHUNK = 32


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and how.

    Attributes:
        cache: a cache folder, or one cache file.
        output: folder to be filled; videos keep their relative paths.
        format: jpg or png (flow_x_00001, flow_y_00001 and img_00001 in a folder per video, for TSN and MMAction2), npy
            (I3D: one array per video, 20 px to 1), or flo (Middlebury, one file per field).
        start_index: number of the first field and frame: 1 as TSN and MMAction2 have it by default, 0 as denseflow.
        quality: JPEG quality of the flow images.
        images: write the RGB frames too, where the cache holds them (jpg and png).
        flat: leave out the folders above a video's own, as TSN expects.
        overwrite: replace what an earlier export left.

    Example:
        >>> from flow_cache import ExportConfig
        >>> ExportConfig("cache", "images", format="png").start_index
        1
    """

    cache: str | Path
    output: str | Path
    format: Literal["jpg", "png", "npy", "flo"] = "jpg"
    start_index: Literal[0, 1] = 1
    quality: int = StorageSettings.quality
    images: bool = True
    flat: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    Attributes:
        videos: how many were written.
        fields: how many of their flow fields.
        failures: cache files that could not be exported, and why; nothing of them was written.
        output: the folder.
        with_gaps: cache files that were written with numbers left out, since frames of their video are missing.
    """

    videos: int
    fields: int
    failures: list[Failure]
    output: Path
    with_gaps: list[str] = field(default_factory=list)


def export_cache(config: ExportConfig, progress: bool = True) -> ExportSummary:
    """Export a cache; a video's folder or array appears whole or not at all.

    Damaged cache files are listed in the summary. If an earlier export was killed, the temporary files that it left in
    the output folder are removed.

    Args:
        config: what to export, and how.
        progress: show a live line on stderr.

    Raises:
        ArgumentError: before any work, if names collide, a link leads out of the output folder, or a file or folder
            would have to be overwritten.
        CacheWriteError: the disk refuses.
        KeyboardInterrupt: with a text for the user of a command that says what is done.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from flow_cache import CacheMeta, CacheWriter, ExportConfig, Source, export_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((1, 2, 8, 8), 128, np.uint8))
        >>> export_cache(ExportConfig("cache", "images", format="png"), progress=False).fields
        1
        >>> sorted(path.name for path in Path("images/a").iterdir())
        ['flow_x_00001.png', 'flow_y_00001.png']
    """
    if config.format not in FORMATS:
        raise ArgumentError(f"unknown format {config.format!r}; choose one of {', '.join(FORMATS)}")
    if config.start_index not in (0, 1):
        raise ArgumentError(f"start_index must be 0 or 1, got {config.start_index}")
    StorageSettings(quality=config.quality)  # checks the quality
    if "://" in str(config.output):
        raise ArgumentError(
            f"{config.output}: expected a local folder to export to; a URL can only be read from"
        )
    output = Path(str(absolute(config.output)))
    targets = _targets(config, output)
    try:
        probe_writable(output)
    except CacheWriteError as error:
        raise ArgumentError(str(error)) from error
    done = fields = 0
    failures: list[Failure] = []
    with_gaps: list[str] = []
    cache = as_path(config.cache)
    try:
        with working_folder(output) as folder, ProgressLine(len(targets), len(targets), 0, progress) as line:
            for source, target in targets.items():
                failed = len(failures)
                try:
                    with CacheReader(source) as reader, _appearing(target, folder) as temporary:
                        _write(reader, temporary, config, line)
                        fields += reader.num_fields
                        if reader.num_fields < reader.num_frames - reader.meta.step:
                            with_gaps.append(_name(source, cache))
                    done += 1
                except CacheFileError as error:
                    failures.append(Failure(_name(source, cache), error.reason_and_member))
                except OSError as error:
                    raise CacheWriteError.from_os_error(target, error) from error
                line.finished(1, failed=len(failures) > failed)
    except KeyboardInterrupt as interrupt:
        counts = f"{done} of {len(targets)} videos are exported, {len(failures)} failed"
        raise KeyboardInterrupt(f"interrupted: {counts}; --overwrite exports all of them anew") from interrupt
    return ExportSummary(done, fields, failures, output, with_gaps)


def _name(source: AnyPath, cache: AnyPath) -> str:
    """Name a cache file for people."""
    return relative_name(source, cache) if source != cache else source.name


def write_flo(path: Path, flow: NDArray[np.float32]) -> None:
    """Write a flow field as a Middlebury .flo file.

    Args:
        path: the file.
        flow: (2, H, W) float32, pixels per step.
    """
    height, width = flow.shape[1:]
    pixels = np.ascontiguousarray(flow.transpose(1, 2, 0), "<f4")
    path.write_bytes(_FLO_TAG + struct.pack("<2i", width, height) + pixels.tobytes())


def _targets(config: ExportConfig, output: Path) -> dict[AnyPath, Path]:
    """Choose where each cache file goes: by the file's name, never by what is written in it."""
    cache = as_path(config.cache)
    if not cache.exists():
        raise ArgumentError(f"{cache}: no such cache file or folder")
    files = cache_files_of(cache)
    if not files:
        raise ArgumentError(f"{cache}: holds no cache files (*{CACHE_SUFFIX})")
    targets: dict[AnyPath, Path] = {}
    owners: dict[str, str] = {}
    for name, file in files.items():
        relative = Path(name.removesuffix(CACHE_SUFFIX))
        target = output / (relative.name if config.flat else relative)
        if config.format == "npy":
            target = target.with_name(target.name + ".npy")
        key = collision_key(str(target))
        if key in owners:
            raise ArgumentError(f"{owners[key]} and {name} would both be exported to {target}; rename one")
        owners[key] = name
        if not target.parent.resolve().is_relative_to(output.resolve()):
            raise ArgumentError(f"{target}: a link leads out of the output folder")
        if (target.exists() or target.is_symlink()) and not config.overwrite:
            raise ArgumentError(f"{target} exists; use --overwrite to replace it, or another output folder")
        targets[file] = target
    return targets


@contextlib.contextmanager
def _appearing(target: Path, folder: Path) -> Iterator[Path]:
    """Yield a path in `folder` for a file or a folder; without an exception it is then renamed to the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, before = folder / "new", folder / "old"
    try:
        yield temporary
        with signals_blocked():  # an interruption must not come when neither of the two is there
            if target.exists() or target.is_symlink():
                target.rename(before)
            temporary.rename(target)
    finally:
        _remove(temporary)
        _remove(before)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(reader: CacheReader, target: Path, config: ExportConfig, line: ProgressLine) -> None:
    """Write one video in the format asked for."""
    if config.format == "npy":
        _write_npy(reader, target, line)
        return
    target.mkdir()
    codec = StorageSettings("jpeg" if config.format == "jpg" else "png", quality=config.quality)
    for index, levels in zip(reader.field_numbers, _fields(reader, line), strict=True):
        number = f"{index + config.start_index:05d}"
        if config.format == "flo":
            write_flo(target / f"flow_{number}.flo", dequantize(levels, reader.meta.bound))
            continue
        for axis, image in zip("xy", levels, strict=True):
            (target / f"flow_{axis}_{number}.{config.format}").write_bytes(encode_flow(image, codec))
    if config.images and reader.has_rgb and config.format != "flo":
        for index in range(reader.num_frames):
            number = f"{index + config.start_index:05d}"
            (target / f"img_{number}.jpg").write_bytes(reader.encoded_rgb(index))


def _write_npy(reader: CacheReader, target: Path, line: ProgressLine) -> None:
    """Write one video as I3D's array, field by field: memory does not depend on its length."""
    if len(reader.runs) > 1:
        raise CacheFileError(
            reader.path,
            f"frames of its video are missing before frame {reader.runs[0].stop + reader.meta.step}, and an array has "
            "no place for a gap; use another format",
        )
    shape = (reader.num_fields, reader.height, reader.width, 2)
    with target.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for levels in _fields(reader, line):
            flow = dequantize(levels, reader.meta.bound).transpose(1, 2, 0)
            scaled = np.clip(flow / np.float32(I3D_BOUND), -1, 1)
            file.write(np.ascontiguousarray(scaled, "<f4").tobytes())


def _fields(reader: CacheReader, line: ProgressLine) -> Iterator[NDArray[np.uint8]]:
    """Iterate the quantised fields, (2, H, W) uint8, and count them."""
    numbers = reader.field_numbers
    for start in range(0, len(numbers), _CHUNK):
        fields = reader.flow(numbers[start : start + _CHUNK])
        yield from fields
        line.advance(FieldsDone(len(fields), {}))
