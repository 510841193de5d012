"""Measure the flow cache: codecs, opening, training reads against JPEG folders, HDF5 and LMDB; precompute end to end.

    python tools/benchmark_cache.py VIDEOS --out reports/benchmarks

Flow of `--videos` clips is computed and quantised once; every store holds the same levels and exactly the same JPEG
bytes of the RGB frames. A training read is 16 segments of a video, of each a stack of 10 fields and one frame.
Agreement is checked before time is taken, contestants take turns in every round, and one thread does the work. Every
store keeps fields that it has read for the same clip, as our reader does, but for `JPEG folders, as TSN reads`, which
opens every image each time it occurs. Cold reads follow `posix_fadvise(POSIX_FADV_DONTNEED)` on the files of that
video; names and inodes stay in the kernel's cache, which favours many small files. h5py and lmdb are left out where
they are not installed. Codecs and warm reads are measured by the time of the processor, which other work on the machine
changes little; cold reads by the wall clock. Writes cache.md and cache_codecs.csv, cache_opening.csv, cache_reads.csv.
`benchmarks/cache_pipeline.py` is the end-to-end part, which `--pipeline-videos 0` leaves out. It writes
cache_pipeline.md and cache_pipeline.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cache_pipeline import PipelineRow, measure_pipeline, pipeline_section
from benchmarks.cache_stores import FOLDERS, OURS, OURS_CODEC, RGB_QUALITY, Clip, build, write_cache
from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from benchmarks.timing import ratios, time_in_turns
from benchmarks.videos import pick_videos
from flow_cache import run_program
from flow_cache.cache.codecs import StorageSettings, decode_into, encode_flow
from flow_cache.cache.reader import CacheReader
from flow_cache.methods.registry import get_method
from flow_cache.quantization import DEFAULT_BOUND, quantize
from flow_cache.runtime import opencv
from flow_cache.video.frames import read_frames

SEGMENTS, STACK = 16, 10

USUAL, LONG = 19, 3000  # fields of a file that is opened
LIBRARIES = ("numpy", "imagecodecs", "opencv-contrib-python", "h5py", "lmdb")
SETTINGS = [
    *(StorageSettings("jpegls", max_error=error) for error in (0, 1, 2, 3)),
    *(StorageSettings(codec, max_error=error) for codec in ("zstd", "jpegxl") for error in (0, 1)),
    *(StorageSettings("jpeg", quality=quality) for quality in (75, 90, 95)),
    StorageSettings("png"),
]


@dataclass(frozen=True)
class CodecRow:
    """One codec and setting; errors are in grey levels, times in multiples of `jpegls, error 1`."""

    codec: str
    kilobytes: float
    """Of one field."""
    mean_error: float
    error_99: float
    max_error: int
    encode: float
    decode: float


@dataclass(frozen=True)
class OpeningRow:
    """What opening costs, in multiples of decoding a window of 10 fields of the same file."""

    fields: int
    opening: float
    zipfile: float
    """What Python's zipfile takes to list the file."""


@dataclass(frozen=True)
class ReadRow:
    """One store; speeds are in multiples of the JPEG folders."""

    videos: str
    store: str
    megabytes: float
    """Sizes of all files together."""
    disk: float
    """What they take on the disk, MB."""
    warm: float
    warm_low: float
    warm_high: float
    cold: float
    cold_low: float
    cold_high: float
    mean_error: float
    max_error: int


def read_clip(video: Path, method: str) -> Clip:
    """Compute a clip's levels."""
    frames = list(read_frames(video, rgb=True, threads=1))
    flow = get_method(method, threads=0)(np.stack([frame.grey for frame in frames]))
    return Clip(
        quantize(flow, DEFAULT_BOUND), np.stack([frame.rgb for frame in frames if frame.rgb is not None])
    )


def measure_codecs(clips: list[Clip], repeats: int) -> list[CodecRow]:
    """Compare codecs on every fourth field, by the times of the fastest rounds."""
    images = [field.reshape(-1, field.shape[-1]) for clip in clips for field in clip.flow[::4]]
    encoded = {setting_name(s): [encode_flow(image, s) for image in images] for s in SETTINGS}
    errors = {}
    out = np.empty_like(images[0])

    def encode(settings: StorageSettings) -> None:
        for image in images:
            encode_flow(image, settings)

    def decode(settings: StorageSettings) -> None:
        for data in encoded[setting_name(settings)]:
            decode_into(data, settings, out)

    for settings in SETTINGS:
        counts = np.zeros(256, np.int64)
        for image, data in zip(images, encoded[setting_name(settings)], strict=True):
            decode_into(data, settings, out)
            counts += np.bincount(np.abs(out.astype(np.int16) - image).reshape(-1), minlength=256)
        errors[setting_name(settings)] = counts
        limit = 255 if settings.codec == "jpeg" else settings.grid // 2
        assert not counts[limit + 1 :].any(), f"{settings} breaks its promise"
    clock = time.process_time
    encoding = time_in_turns({setting_name(s): partial(encode, s) for s in SETTINGS}, repeats, clock)
    decoding = time_in_turns({setting_name(s): partial(decode, s) for s in SETTINGS}, repeats, clock)
    reference = setting_name(StorageSettings())
    rows = []
    for settings in SETTINGS:
        key = setting_name(settings)
        share = np.cumsum(errors[key]) / errors[key].sum()
        rows.append(
            CodecRow(
                key,
                sum(map(len, encoded[key])) / len(images) / 1e3,
                float((errors[key] * np.arange(256)).sum() / errors[key].sum()),
                float(np.searchsorted(share, 0.99)),
                int(np.flatnonzero(errors[key])[-1]),
                min(encoding[key]) / min(encoding[reference]),
                min(decoding[key]) / min(decoding[reference]),
            )
        )
    return rows


def setting_name(settings: StorageSettings) -> str:
    """Name a codec and its setting."""
    if settings.codec == "png":
        return "png"
    detail = f"quality {settings.quality}" if settings.codec == "jpeg" else f"error {settings.max_error}"
    return f"{settings.codec}, {detail}"


def measure_opening(clips: list[Clip], folder: Path, repeats: int) -> list[OpeningRow]:
    """Compare opening a file with decoding a window of it, for the shortest, a usual and a long video."""
    folder.mkdir()
    rows = []
    joined = Clip(np.concatenate([c.flow for c in clips]), np.concatenate([c.rgb for c in clips]))
    for fields in sorted({min(len(clip.flow) for clip in clips), USUAL, LONG}):
        tiled = -(-(fields + 1) // len(joined.flow))
        clip = Clip(
            np.concatenate([joined.flow] * tiled)[:fields], np.concatenate([joined.rgb] * tiled)[: fields + 1]
        )
        path = folder / f"{fields}.flow.zip"
        write_cache(path, clip, StorageSettings(rgb=True, rgb_quality=RGB_QUALITY))
        with CacheReader(path) as reader:
            middle = (fields - STACK) // 2
            tasks: dict[str, Callable[[], object]] = {
                "opening": partial(_open_and_close, CacheReader, path),
                "window": partial(reader.flow, range(middle, middle + STACK)),
                "zipfile": partial(_open_and_close, zipfile.ZipFile, path),
            }
            times = time_in_turns(tasks, 20 * repeats)
        opening, listing = (min(times[key]) / min(times["window"]) for key in ("opening", "zipfile"))
        rows.append(OpeningRow(fields, opening, listing))
    return rows


def _open_and_close(kind: Callable[[Path], CacheReader | zipfile.ZipFile], path: Path) -> None:
    kind(path).close()


def training_clip(fields: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Choose the fields and frames of evenly spread segments, all shifted alike: of each, a stack and a frame."""
    last = fields - STACK
    starts = np.linspace(0, last, SEGMENTS) + rng.uniform(0, last / SEGMENTS)
    frames = starts.clip(0, last).astype(int).tolist()
    return [start + n for start in frames for n in range(STACK)], frames


def measure_reads(label: str, clips: list[Clip], folder: Path, count: int, repeats: int) -> list[ReadRow]:
    """Compare stores by training clips per second; results must agree first."""
    stores = build(clips, folder)
    rng = np.random.default_rng(0)
    wanted = []
    for _ in range(count):
        video = int(rng.integers(len(clips)))
        wanted.append((video, *training_clip(len(clips[video].flow), rng)))
    errors: dict[str, tuple[float, int]] = {}
    for key, store in stores.items():
        sums, largest, total = 0, 0, 0
        for video, fields, frames in wanted[:10]:
            flow, rgb = store.read(video, fields, frames)
            difference = np.abs(flow.astype(np.int16) - clips[video].flow[fields])
            sums, total = sums + int(difference.sum()), total + difference.size
            largest = max(largest, int(difference.max()))
            with CacheReader(folder / OURS_CODEC.codec / f"{video}.flow.zip") as reader:
                assert np.abs(rgb.astype(int) - reader.rgb(frames)).mean() < 1, f"{key} reads other frames"
        errors[key] = sums / total, largest
        assert sums / total < 2, f"{key} reads other fields"
    assert errors[OURS][1] <= 1
    os.sync()  # what is not yet on the disk cannot be dropped
    warm: dict[str, list[float]] = {key: [] for key in stores}
    cold: dict[str, list[float]] = {key: [] for key in stores}
    for _ in range(repeats):
        for key, store in stores.items():
            started = time.process_time()
            for video, fields, frames in wanted:
                store.read(video, fields, frames)
            warm[key].append(time.process_time() - started)
        for key, store in stores.items():
            seconds = 0.0
            for video, fields, frames in wanted:
                store.drop(video)
                started = time.perf_counter()
                store.read(video, fields, frames)
                seconds += time.perf_counter() - started
            cold[key].append(seconds)
    rows = []
    for key, store in stores.items():
        paths = [path for path in store.folder.rglob("*") if path.is_file()]
        rows.append(
            ReadRow(
                label,
                key,
                sum(path.stat().st_size for path in paths) / 1e6,
                sum(path.stat().st_blocks for path in paths) * 512 / 1e6,
                *ratios(warm[FOLDERS], warm[key]),
                *ratios(cold[FOLDERS], cold[key]),
                *errors[key],
            )
        )
        store.close()
    return rows


def report(
    out: Path,
    codecs: list[CodecRow],
    opening: list[OpeningRow],
    reads: list[ReadRow],
    about: str,
) -> None:
    """Write the tables. about: what the stores were filled with."""
    measured = bullet_list(provenance(*LIBRARIES))  # before the checkout changes
    for file, rows in (("codecs", codecs), ("opening", opening), ("reads", reads)):
        write_csv(out / f"cache_{file}.csv", [asdict(row) for row in rows])
    codec_rows = [
        (r.codec, f"{r.kilobytes:.2f}", f"{r.mean_error:.3f}", f"{r.error_99:.0f}", str(r.max_error),
         f"{r.encode:.2f}", f"{r.decode:.2f}")
        for r in codecs
    ]  # fmt: skip
    opening_rows = [(f"{r.fields:,}", f"{r.opening:.2f}", f"{r.zipfile:.2f}") for r in opening]
    read_rows = [
        (r.videos, r.store, f"{r.megabytes:.1f}", f"{r.disk:.1f}", format_range(r.warm, r.warm_low, r.warm_high, 2),
         format_range(r.cold, r.cold_low, r.cold_high, 2), f"{r.mean_error:.3f}", str(r.max_error))
        for r in reads
    ]  # fmt: skip
    write_markdown(
        out / "cache.md",
        "Flow cache",
        [about, "", *measured, ""],
        section(
            "Codecs",
            "Errors in grey levels (one is 0.157 px at the bound of 20 px), times as multiples of those of\n"
            f"`{setting_name(StorageSettings())}` (processor time, the fastest round of each).",
            ("codec", "kB a field", "mean error", "99 %", "largest", "encode", "decode"),
            codec_rows,
        ),
        section(
            "Opening",
            f"In multiples of decoding {STACK} fields of the same file.",
            ("fields (and as many frames)", "opening", "Python's zipfile"),
            opening_rows,
        ),
        section(
            "Training reads",
            f"Training clips of {SEGMENTS} x {STACK} fields and {SEGMENTS} frames a second, as multiples of "
            f"`{FOLDERS}` (median\nof the rounds, in brackets the lowest and highest); warm by the time of the "
            "processor, cold by the wall clock.",
            ("videos", "store", "MB", "MB on disk", "warm", "cold", "mean error", "largest"),
            read_rows,
        ),
    )


def report_pipeline(out: Path, rows: list[PipelineRow], size: str) -> None:
    """Write the table of the end-to-end part."""
    about = bullet_list(provenance(*LIBRARIES))
    write_csv(out / "cache_pipeline.csv", [asdict(row) for row in rows])
    write_markdown(out / "cache_pipeline.md", "Precompute", [*about, ""], pipeline_section(rows, size))


def main() -> int:
    """Parse the arguments, measure, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, metavar="VIDEOS", help="folder of videos of one frame size")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--method", default="tvl1")
    parser.add_argument("--clips", type=int, default=40, help="training clips in a round")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--pipeline-videos", type=int, default=100, help="that precompute does, end to end; 0: none"
    )
    parser.add_argument("--loop-videos", type=int, default=4, help="that the plain loop does of these")
    parser.add_argument("--pipeline-size", default="320x240", help="their width and height")
    parser.add_argument("--rounds", type=int, default=3, help="of the pipeline")
    parser.add_argument(
        "--scratch", type=Path, default=None, help="where stores are written; not a memory disk"
    )
    arguments = parser.parse_args()
    opencv().setNumThreads(1)
    clips = [read_clip(video, arguments.method) for video in pick_videos(arguments.source, arguments.videos)]
    if len({clip.flow.shape[2:] for clip in clips}) > 1 or min(len(clip.flow) for clip in clips) <= STACK:
        raise SystemExit(f"expected videos of one frame size with more than {STACK + 1} frames")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        codecs = measure_codecs(clips, arguments.repeats)
        opening = measure_opening(clips, folder / "opening", arguments.repeats)
        reads = measure_reads("clips", clips, folder / "clips", arguments.clips, arguments.repeats)
        frames = [clip.rgb[:-1] for clip in clips] + [clips[-1].rgb[-1:]]
        joined = Clip(np.concatenate([clip.flow for clip in clips]), np.concatenate(frames))
        reads += measure_reads("one long", [joined], folder / "long", arguments.clips, arguments.repeats)
        del joined, frames
        report(arguments.out, codecs, opening, reads, _about(clips, arguments))
        if arguments.pipeline_videos:
            names = [
                video.relative_to(arguments.source).as_posix()
                for video in pick_videos(arguments.source, arguments.pipeline_videos)
            ]
            pipeline = measure_pipeline(
                arguments.source, names, arguments.loop_videos, arguments.pipeline_size, folder / "pipeline",
                arguments.rounds,
            )  # fmt: skip
            report_pipeline(arguments.out, pipeline, arguments.pipeline_size)
    return 0


def _about(clips: list[Clip], arguments: argparse.Namespace) -> str:
    """Say what the stores were filled with."""
    lengths = sorted(len(clip.flow) for clip in clips)
    height, width = clips[0].flow.shape[2:]
    return (
        f"{len(clips)} videos of {width}x{height} with {lengths[0]} to {lengths[-1]} fields by\n"
        f"`{arguments.method}`, RGB as JPEG of quality {RGB_QUALITY}; the long video is all of them. One thread;\n"
        f"{arguments.clips} clips in each of {arguments.repeats} rounds."
    )


if __name__ == "__main__":
    sys.exit(run_program("benchmark_cache", main))
