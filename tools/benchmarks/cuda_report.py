"""The report of the benchmark on CUDA: its rows, and the tables that are made of them."""

from __future__ import annotations

import argparse
import importlib
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cuda_ceilings import Ceilings
from benchmarks.cuda_costs import Work
from benchmarks.endpoint_errors import distribution
from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from flow_cache.methods.cuda.backend import Backend
from flow_cache.methods.cuda.cupy_backend import CupyBackend

LIBRARIES = ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "opencv-contrib-python",
             "opencv-python-headless", "torch", "cucim-cu13", "cucim-cu12")  # fmt: skip
MAX_ERROR = {"convergence": 0.02, "fixed iterations": 0.002}  # pixels, mean
KERNELS_SIZE, KERNELS_BATCH = "340x256", 16  # whose kernels are listed
ABOUT_AGREEMENT = """\
Mean end-point differences, in pixels, of our flow on the GPU to that of our CPU path, pair by pair, and of the CPU path
to itself after all grey levels have been changed by one unit in their last place: that much depends on rounding.
Expected is a mean of at most {} with convergence, {} at fixed iterations, or twice what the CPU path differs from
itself.
"""
ABOUT_SPEED = """\
Pairs of consecutive frames a second, median and range of the repeats. *device*: frames are on the device, the flow
stays there as floats; *host*: frames come from the host, the flow goes back as bytes. Memory: what a call adds, frames,
flow and workspace. Iterations: of a pair, over all levels and warps. Shares: counted bytes against a copy, counted
operations against fused multiplications and additions; the larger one says what the kernels wait for, and where neither
is large, that they wait for launches or for one another.
"""
ABOUT_REAL = """\
Consecutive pairs of whole videos, frames from the host, flow back as bytes. Iterations of a pair over all levels and
warps; launches of iterations of all batches; active: pairs with work, in a launch that has any. Milliseconds a pair by
stage: every launch waited for, so their sum is more than a pair takes otherwise.
"""
REAL_HEAD = ("preset", "videos", "pairs", "batch", "pairs/s", "iterations: mean", "99 %", "most", "launches", "active",
             "pyramids", "levels", "warps", "median", "iterations")  # fmt: skip
ABOUT_KERNELS = """\
Counted for a pair of {} frames in a batch of {}, as `tools/benchmarks/cuda_costs.py` says; share of each in the
pair's bytes and operations.
"""
AGREEMENT_HEAD = ("preset", "iterations", "pairs", "compared", "mean", "median", "90th percentile", "greatest",
                  "motion")  # fmt: skip
SPEED_HEAD = ("size", "preset", "implementation", "frames", "batch", "pairs/s", "memory", "iterations", "bandwidth",
              "arithmetic")  # fmt: skip
KERNELS_HEAD = (
    "preset",
    "kernel",
    "launches",
    "MB",
    "million operations",
    "of the bytes",
    "of the operations",
)


@dataclass(frozen=True)
class Agreement:
    """Mean end-point differences of pairs, pixels."""

    estimator: str
    setting: str
    motion: list[float]
    """Mean length of the CPU's flow, of each pair."""
    to_cpu: list[float]
    """GPU to CPU."""
    to_itself: list[float]
    """CPU to itself after a rounding."""

    def holds(self) -> bool:
        """Tell whether the GPU agrees with the CPU as far as it can be expected to; NaN does not."""
        return statistics.fmean(self.to_cpu) <= max(
            MAX_ERROR[self.setting], 2 * statistics.fmean(self.to_itself)
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the figures of both comparisons as rows of a table."""
        for compared, values in (("GPU to CPU", self.to_cpu), ("CPU to itself", self.to_itself)):
            yield {
                "estimator": self.estimator, "setting": self.setting, "pairs": len(values), "compared": compared,
                **distribution(values), "motion": statistics.fmean(self.motion),
            }  # fmt: skip

    def line(self) -> str:
        """Return the verdict and the means in one line."""
        to_cpu, to_itself = statistics.fmean(self.to_cpu), statistics.fmean(self.to_itself)
        verdict = "agrees" if self.holds() else "DISAGREES"
        return (
            f"{self.estimator}, {self.setting}, {len(self.to_cpu)} pairs: {verdict}, {to_cpu:.5f} px "
            f"(CPU to itself {to_itself:.5f}, motion {statistics.fmean(self.motion):.2f})"
        )


@dataclass(frozen=True)
class Row:
    """One measurement; rates in pairs a second."""

    size: str
    implementation: str
    estimator: str
    frames: str
    """Where they are: device or host."""
    batch: int
    rate: float = 0.0
    slowest: float = 0.0
    fastest: float = 0.0
    memory_mib: float = 0.0
    iterations: float = 0.0
    megabytes_a_pair: float = 0.0
    megaoperations_a_pair: float = 0.0
    bandwidth_share: float = 0.0
    arithmetic_share: float = 0.0
    note: str = ""
    """Why there are no figures."""

    def line(self) -> str:
        """Return the measurement in one line."""
        head = f"{self.size} {self.implementation} {self.estimator}, {self.frames}, batch {self.batch}: "
        if self.note:
            return head + self.note
        shares = (
            f", {self.bandwidth_share:.0%} of the bandwidth, {self.arithmetic_share:.0%} of the arithmetic"
        )
        return f"{head}{self.rate:.1f} pairs/s" + (shares if self.megabytes_a_pair else "")

    def cells(self) -> list[str]:
        """Return the cells of a row of the table."""
        head = [self.size, self.estimator, self.implementation, self.frames, str(self.batch)]
        if self.note:
            return [*head, self.note, "", "", "", ""]
        rate = format_range(self.rate, self.slowest, self.fastest, 1)
        if not self.megabytes_a_pair:
            return [*head, rate, "", "", "", ""]
        iterations = f"{self.iterations:.0f}" if self.iterations else ""
        shares = [f"{self.bandwidth_share:.1%}", f"{self.arithmetic_share:.1%}"]
        return [*head, rate, f"{self.memory_mib:.0f} MiB", iterations, *shares]


def device_facts(backend: Backend) -> dict[str, str]:
    """Return the GPU's name, driver, CUDA and clocks."""
    if not isinstance(backend, CupyBackend):
        return {"GPU": f"none: {type(backend).__name__}, whose times mean nothing"}
    cupy = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(backend.index)
    runtime = cupy.cuda.runtime
    facts = {
        "GPU": f"{properties['name'].decode()}, {backend.processors} multiprocessors, "
        f"{properties['totalGlobalMem'] / 2**30:.0f} GiB",
        "CUDA": f"driver's {runtime.driverGetVersion()}, CuPy's {runtime.runtimeGetVersion()}, "
        f"NVRTC {'.'.join(map(str, cupy.cuda.nvrtc.getVersion()))}",
    }
    fields = {
        "driver_version": "driver", "clocks.sm": "clock", "clocks.max.sm": "clock at most",
        "clocks.mem": "memory clock",
        "clocks.max.mem": "memory clock at most", "power.limit": "power limit", "temperature.gpu": "temperature",
    }  # fmt: skip
    if shutil.which("nvidia-smi"):
        where = cupy.cuda.runtime.deviceGetPCIBusId(backend.index)
        query = ["nvidia-smi", f"--id={where}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        values = [value.strip() for value in done.stdout.strip().split(",")]
        if done.returncode == 0 and len(values) == len(fields):
            named = zip(fields.values(), values, strict=True)
            facts["driver and clocks"] = (
                ", ".join(f"{name} {value}" for name, value in named) + " (after the ceilings)"
            )
    return facts


def short_table(
    agreed: Sequence[Agreement], rows: Sequence[Row], real: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the agreement, real video, and the fastest batch of each size and preset, as lines of plain text."""
    lines = [
        f"{'size':<10} {'preset':<18} {'pairs/s':>9} {'batch':>6} {'from host':>10} {'x CPU':>7} {'limit':>16}"
    ]
    for size, name in dict.fromkeys((row.size, row.estimator) for row in rows):
        chosen = [row for row in rows if (row.size, row.estimator) == (size, name) and not row.note]
        best = _fastest(chosen, "ours", "device")
        host, cpu = _fastest(chosen, "ours", "host"), _fastest(chosen, "ours, CPU", "host")
        if best is None:
            lines.append(f"{size:<10} {name:<18} {'-':>9}")
            continue
        share = max((best.bandwidth_share, "bandwidth"), (best.arithmetic_share, "arithmetic"))
        times = f"{best.rate / cpu.rate:.1f}" if cpu else "-"
        from_host = f"{host.rate:.1f}" if host else "-"
        limit = f"{share[0]:.0%} {share[1]}"
        lines.append(
            f"{size:<10} {name:<18} {best.rate:>9.1f} {best.batch:>6} {from_host:>10} {times:>7} {limit:>16}"
        )
    return "\n".join([*(result.line() for result in agreed), *map(real_line, real), *lines])


def _fastest(rows: Sequence[Row], implementation: str, frames: str) -> Row | None:
    chosen = [row for row in rows if (row.implementation, row.frames) == (implementation, frames)]
    return max(chosen, key=lambda row: row.rate, default=None)


def real_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row on real video."""
    head = [str(row[key]) for key in ("estimator", "videos", "pairs", "batch")]
    if row["note"]:
        return [*head, row["note"], *[""] * 10]
    counts = [
        f"{row[key]:.0f}" for key in ("iterations", "iterations_99", "iterations_most", "launches", "active")
    ]
    stages = [f"{value:.4f}" for key, value in row.items() if key.endswith("_ms_a_pair")]
    return [*head, format_range(row["rate"], row["slowest"], row["fastest"], 1), *counts, *stages]


def real_line(row: Mapping[str, Any]) -> str:
    """Return a row on real video as a line of plain text."""
    head = f"real video, {row['estimator']}, {row['pairs']} pairs of {row['videos']} videos, batch {row['batch']}: "
    if row["note"]:
        return head + str(row["note"])
    return (
        f"{head}{row['rate']:.1f} pairs/s, {row['iterations']:.0f} iterations (99 %: {row['iterations_99']:.0f}, most "
        f"{row['iterations_most']}), {row['active']:.1f} pairs active a launch"
    )


def kernel_rows(work: Mapping[tuple[str, str], Work]) -> list[dict[str, Any]]:
    """List bytes, operations and launches of each kernel, a pair."""
    listed = []
    for (size, name), counted in work.items():
        for kernel, (bytes_, operations) in counted.kernels(KERNELS_BATCH).items():
            listed.append({
                "size": size, "estimator": name, "kernel": kernel, "launches_a_batch": counted.launches[kernel],
                "megabytes_a_pair": bytes_ / 1e6, "megaoperations_a_pair": operations / 1e6,
                "byte_share": bytes_ / counted.total(KERNELS_BATCH)[0],
                "operation_share": operations / max(1.0, counted.total(KERNELS_BATCH)[1]),
            })  # fmt: skip
    return listed


def write_report(
    folder: Path,
    facts: Mapping[str, str],
    ceilings: Ceilings,
    given: argparse.Namespace,
    agreed: Sequence[Agreement],
    rows: Sequence[Row],
    work: Mapping[tuple[str, str], Work],
    missing: Sequence[str],
    real: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the tables into a folder, as CSV and together as markdown."""
    agreement_rows = [row for result in agreed for row in result.rows()]
    kernels = kernel_rows(work)
    write_csv(folder / "cuda.csv", [asdict(row) for row in rows])
    write_csv(folder / "cuda_agreement.csv", agreement_rows)
    write_csv(folder / "cuda_kernels.csv", kernels)
    if real:
        write_csv(folder / "cuda_real.csv", real)
    about = {
        **provenance(*LIBRARIES),
        **facts,
        "ceilings": f"copy {ceilings.bandwidth / 1e9:.0f} GB/s read and written, fused multiplications and additions "
        f"{ceilings.arithmetic / 1e12:.1f} Top/s",
        "frames": f"videos of {given.videos}"
        if given.videos
        else "generated by tools/benchmarks/synthetic_frames.py",
        "repeats": f"{given.repeats}, each of at least {given.timed} s, after three warm-ups; wall clock, synchronised",
        "not compared": "; ".join(missing) or "nothing",
    }
    agreement_table = [
        [f"{v:.5f}" if isinstance(v, float) else str(v) for v in row.values()] for row in agreement_rows
    ]
    size = KERNELS_SIZE if any(row["size"] == KERNELS_SIZE for row in kernels) else kernels[0]["size"]
    kernel_table = [
        [
            row["estimator"], row["kernel"], str(row["launches_a_batch"]), f"{row['megabytes_a_pair']:.2f}",
            f"{row['megaoperations_a_pair']:.2f}", f"{row['byte_share']:.1%}", f"{row['operation_share']:.1%}",
        ]
        for row in kernels if row["size"] == size
    ]  # fmt: skip
    write_markdown(
        folder / "cuda.md",
        "Optical flow on CUDA",
        [*bullet_list(about), ""],
        section("Agreement", ABOUT_AGREEMENT.format(*MAX_ERROR.values()), AGREEMENT_HEAD, agreement_table),
        *([section("Real video", ABOUT_REAL, REAL_HEAD, [real_cells(row) for row in real])] if real else []),
        section("Speed and memory", ABOUT_SPEED, SPEED_HEAD, [row.cells() for row in rows]),
        section(
            "Bytes and operations", ABOUT_KERNELS.format(size, KERNELS_BATCH), KERNELS_HEAD, kernel_table
        ),
    )
