"""Measure the CUDA estimators: agreement with the CPU path first, then pairs a second and memory.

    python tools/benchmark_cuda.py [VIDEO ...] --out reports/benchmarks

Frames lie on the device, and so does the flow, unless a row says "host": then uint8 frames come from the host and
quantised flow goes back there. Bytes and operations are counted for TV-L1 from the iterations and passes that the
kernels did, and given as shares of what a large copy and a large loop of fused multiply-adds reach on the same card.
Without videos, a texture that moves is made up. cuCIM and OpenCV's CUDA version are measured where they are installed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import importlib.util
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cuda.engine import CudaMethod
from flow_cache.cuda.tvl1 import TUNINGS, TVL1, TVL1Workspace
from flow_cache.errors import DeviceError
from flow_cache.methods import get_method, preset_names

SIZES = ("320x240", "340x256", "640x480", "1920x1080")
BATCHES = (1, 4, 16, 64, 256)
BYTES_PER_PASS = 4 * (9 + 6)  # a pass reads u, p and the data term of a pixel, and writes u and p
OPERATIONS_PER_ITERATION = 62  # of a pixel; a fused multiply-add counts as two
FMA_KERNEL = """
extern "C" __global__ void multiply_add(float* out, int rounds) {
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = threadIdx.x + i;
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < 8; i++) a[i] = a[i] * 0.999f + 0.5f;
    float total = 0;
    for (int i = 0; i < 8; i++) total += a[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
"""


@dataclass(frozen=True)
class Row:
    """One estimator at one size and batch."""

    size: str
    method: str
    batch: int
    pairs_per_second: float
    slowest: float
    fastest: float
    difference: float
    """Mean end-point difference to the CPU path, pixels; NaN = not compared at this size."""
    device_mib: float
    """Device memory of the batch."""
    gigabytes_per_second: float
    """Counted traffic of TV-L1's passes; NaN = not counted."""
    bandwidth_share: float
    teraflops: float
    arithmetic_share: float


@functools.lru_cache(maxsize=4)
def moving_texture(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make frames of smooth noise that moves by about a pixel and turns a little."""
    rng = np.random.default_rng(0)
    lengths, angles = rng.uniform(8, 60, 24), rng.uniform(0, 2 * np.pi, 24)
    kx, ky = 2 * np.pi / lengths * np.cos(angles), 2 * np.pi / lengths * np.sin(angles)
    phases = rng.uniform(0, 2 * np.pi, 24)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = np.empty((count, height, width), np.uint8)
    for t in range(count):
        px, py = x - 0.9 * t + 0.004 * t * (y - height / 2), y + 0.6 * t - 0.004 * t * (x - width / 2)
        waves = sum(np.cos(a * px + b * py + c) for a, b, c in zip(kx, ky, phases, strict=True))
        frames[t] = np.clip(127.5 + 18 * waves, 0, 255)
    return frames


def seconds_of(work: Callable[[], Any], wait: Callable[[], Any], repeats: int) -> list[float]:
    """Time some work, after it was done twice to warm up (the second time its launches are recorded)."""
    for _ in range(3):
        work()
    wait()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return times


def ceilings(cupy: Any) -> tuple[float, float]:
    """Return what a large copy moves and a large loop of fused multiply-adds does: bytes and operations a second."""
    source = cupy.zeros(1 << 28, cupy.float32)
    target = cupy.empty_like(source)
    wait = cupy.cuda.get_current_stream().synchronize

    def copy() -> None:
        cupy.copyto(target, source)

    bandwidth = 2 * source.nbytes / min(seconds_of(copy, wait, 10))
    kernel = cupy.RawKernel(FMA_KERNEL, "multiply_add")
    blocks, rounds = 64 * cupy.cuda.Device().attributes["MultiProcessorCount"], 4096
    out = cupy.empty(blocks * 256, cupy.float32)

    def multiply_add() -> None:
        kernel((blocks,), (256,), (out, np.int32(rounds)))

    operations = 2 * 8 * rounds * blocks * 256 / min(seconds_of(multiply_add, wait, 10))
    return bandwidth, operations


def difference(method: CudaMethod, name: str, preset: str, frames: NDArray[np.uint8]) -> float:
    """Return the mean end-point difference to the CPU path on a few frames."""
    expected = get_method(name, preset=preset, threads=0)(frames)
    flow = method(frames)
    return float(np.hypot(flow[:, 0] - expected[:, 0], flow[:, 1] - expected[:, 1]).mean())


def measure(
    method: CudaMethod,
    label: str,
    frames: NDArray[np.uint8],
    apart: float,
    repeats: int,
    peaks: tuple[float, float],
) -> Iterator[Row]:
    """Time a method on one batch: frames and flow on the device, then bytes from and to the host."""
    device, batch = method.device, len(frames) - 1
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    method.batch = batch
    before = device.free_memory()
    there = device.empty(frames.shape, np.uint8)
    device.upload(frames, there)
    method(frames)
    memory = (before - device.free_memory()) / 2**20
    token = device.empty(1, np.int32)
    device.clear(token)
    for place, work in (("", lambda: method(there)), (", host", lambda: method.quantized(frames, 20.0))):
        times = seconds_of(work, lambda: device.download(token), repeats)
        middle = statistics.median(times)
        moved = done = float("nan")
        (workspace,) = [w for w in method._workspaces.values() if w.pairs == batch][-1:]
        if isinstance(workspace, TVL1Workspace) and not place:
            iterated, passes = workspace.work_done()
            moved, done = (
                batch * passes * BYTES_PER_PASS / middle,
                batch * iterated * OPERATIONS_PER_ITERATION / middle,
            )
        yield Row(
            size, label + place, batch, batch / middle, batch / max(times), batch / min(times), apart, memory,
            moved / 1e9, moved / peaks[0], done / 1e12, done / peaks[1],
        )  # fmt: skip


def others(frames: NDArray[np.uint8], repeats: int) -> Iterator[tuple[str, list[float]]]:
    """Time one pair by cuCIM and by OpenCV's CUDA version, where they are installed."""
    if importlib.util.find_spec("cucim"):
        import cupy

        estimate = importlib.import_module("cucim.skimage.registration").optical_flow_tvl1
        first, second = (cupy.asarray(frame) for frame in frames[:2])
        wait = cupy.cuda.get_current_stream().synchronize
        yield "cuCIM TV-L1", seconds_of(lambda: estimate(first, second), wait, repeats)
    cuda: Any = getattr(importlib.import_module("cv2"), "cuda", None)
    if cuda is not None and cuda.getCudaEnabledDeviceCount() > 0 and hasattr(cuda, "OpticalFlowDual_TVL1"):
        solver = cuda.OpticalFlowDual_TVL1.create()
        mats = [cuda.GpuMat(frame) for frame in frames[:2]]
        yield "OpenCV CUDA TV-L1", seconds_of(lambda: solver.calc(*mats, None), lambda: None, repeats)


def benchmark(
    device: str,
    sizes: list[str],
    batches: list[int],
    repeats: int,
    tune: bool,
    frames_of: Callable[[int, int, int], NDArray[np.uint8]],
) -> Iterator[Row]:
    """Compare and measure all methods, presets, sizes and batches; a batch too large for the card is left out.

    tune: also measure TV-L1 with its kernel compiled in every known way, at the last batch.
    """
    import cupy

    with cupy.cuda.Device(get_method("tvl1", device).device.index):  # type: ignore[attr-defined]
        peaks = ceilings(cupy)
        yield Row("", "ceilings (GB/s, TFLOP/s)", 0, 0, 0, 0, 0, 0, peaks[0] / 1e9, 1, peaks[1] / 1e12, 1)
        for size in sizes:
            width, height = (int(side) for side in size.split("x"))
            for name, preset in [(n, p) for n in ("tvl1", "farneback") for p in preset_names(n)]:
                method = get_method(name, device, preset=preset)
                assert isinstance(method, CudaMethod)
                few = frames_of(5 if width * height < 400_000 else 2, height, width)
                apart = difference(method, name, preset, few)
                if apart > 0.05:
                    raise SystemExit(
                        f"{name} {preset} at {size} is {apart:.4f} px off the CPU path; not timed"
                    )
                for batch in batches:
                    try:
                        yield from measure(
                            method,
                            f"{name} {preset}",
                            frames_of(batch + 1, height, width),
                            apart,
                            repeats,
                            peaks,
                        )
                    except DeviceError as error:
                        print(f"{name} {preset}, {size}, batch {batch}: {error}")
                        break
            for tuning in TUNINGS[1:] if tune else ():
                method = get_method("tvl1", device)
                assert isinstance(method, TVL1)
                method.tuning = tuning
                yield from measure(
                    method, f"tvl1 opencv {tuning}", frames_of(batches[-1] + 1, height, width), float("nan"), repeats,
                    peaks,
                )  # fmt: skip
            for label, times in others(frames_of(2, height, width), repeats):
                nan = float("nan")
                yield Row(
                    size, label, 1, 1 / statistics.median(times), 1 / max(times), 1 / min(times), nan, nan, nan, nan,
                    nan, nan,
                )  # fmt: skip


def provenance(device: str, repeats: int) -> dict[str, str]:
    """Say where and with what was measured."""
    import cupy

    runtime = cupy.cuda.runtime
    index = int(device.partition(":")[2] or 0)
    card = runtime.getDeviceProperties(index)["name"].decode()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "commit": commit.stdout.strip() or "not a git checkout",
        "card": f"{card}, driver for CUDA {runtime.driverGetVersion()}",
        "versions": f"Python {platform.python_version()}, CuPy {cupy.__version__}, CUDA {runtime.runtimeGetVersion()}",
        "repeats": f"{repeats} after three to warm up; medians, slowest and fastest",
    }


def write_report(folder: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Write flow_cuda.csv and flow_cuda.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "flow_cuda.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    lines = ["# Optical flow on CUDA", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [*(__doc__ or "").strip().splitlines()[4:], "", *table_lines(rows)]
    (folder / "flow_cuda.md").write_text("\n".join(lines) + "\n")


def table_lines(rows: list[Row]) -> list[str]:
    """Return the rows as a markdown table."""
    lines = [
        "| size | method | batch | pairs/s (slowest, fastest) | off, px | MiB | GB/s (share) | TFLOP/s (share) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.size} | {r.method} | {r.batch} | {r.pairs_per_second:.0f} ({r.slowest:.0f} to {r.fastest:.0f}) "
            f"| {r.difference:.4f} | {r.device_mib:.0f} | {r.gigabytes_per_second:.0f} ({r.bandwidth_share:.0%}) "
            f"| {r.teraflops:.1f} ({r.arithmetic_share:.0%}) |"
        )
    return lines


def read_frames(videos: list[Path], count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Read grey frames of videos one after the other, from the start again where they do not suffice."""
    from flow_cache.frames import read_frames as frames_of

    taken: list[NDArray[np.uint8]] = []
    while len(taken) < count:
        for video in videos:
            taken += [frame.grey for frame in frames_of(video, size=(width, height))]
    return np.stack(taken[:count])


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "videos", nargs="*", type=Path, help="videos to take frames from, resized to each size"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder for the report")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT, several")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="pairs at a time, several")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats")
    parser.add_argument(
        "--tune", action="store_true", help="also measure the other ways to compile the iterations"
    )
    options = parser.parse_args()

    def frames_of(count: int, height: int, width: int) -> NDArray[np.uint8]:
        if options.videos:
            return read_frames(options.videos, count, height, width)
        return moving_texture(count, height, width)

    rows = []
    sizes, batches = list(options.sizes), list(options.batches)
    for row in benchmark(options.device, sizes, batches, options.repeats, options.tune, frames_of):
        rows.append(row)
        print(table_lines([row])[-1], flush=True)
    write_report(options.out, provenance(options.device, options.repeats), rows)


if __name__ == "__main__":
    main()
