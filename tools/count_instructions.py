"""Count the instructions of TV-L1's inner loop on CUDA, for every tuning and architecture: no GPU is needed.

    python tools/count_instructions.py [--size 340x256] [--architectures sm_80 sm_90]

Needs CuPy, whose NVRTC compiles, and nvdisasm (`pip install nvidia-cuda-nvdisasm`, or a CUDA toolkit's). The loop walks
down a row and does all iterations of a pass; what it runs once for a chunk of rows counts by its share. Prints a
markdown table: registers are those that the compiler took; *loop*, instructions of a row-step; *a pixel and iteration*,
the same for each pixel that a warp computes; *useful*, for each pixel of the frame, since strips overlap, and items of
rows where many pairs have work. Counted, not measured: how fast they are issued is another matter.
Exit status: 0; 2 where something is missing, or for unusable arguments.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table
from benchmarks.videos import parse_size
from flow_cache import run_program
from flow_cache.errors import ArgumentError, DeviceError, first_line
from flow_cache.methods.cuda.backend import COMPILE_OPTIONS, kernel_source, macro_options
from flow_cache.methods.cuda.tvl1 import LARGEST_ITEM, TUNINGS, LevelPlan, Tuning

SOURCE = "tvl1_iterate.cu"
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")
HEAD = ("architecture", "tuning", "registers", "loop", "a pixel and iteration", "useful")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop: of each turn, and of the block in it that sums up a chunk of rows."""

    each: int
    of_a_chunk: int


def find_nvdisasm() -> str:
    """Return the path of nvdisasm, on the PATH or of a package of pip's; raises DeviceError where there is none."""
    packages = Path(sysconfig.get_paths()["purelib"], "nvidia")
    found = shutil.which("nvdisasm") or next(map(str, packages.glob("*/bin/nvdisasm")), None)
    if found is None:
        raise DeviceError(
            "nvdisasm was not found; pip install nvidia-cuda-nvdisasm, or put a CUDA toolkit's on the PATH"
        )
    return found


def compile_kernels(nvrtc: Any, tuning: Tuning, architecture: str) -> tuple[bytes, int]:
    """Compile the iterations; returns the binary and the registers of the kernel `iterate`."""
    program = nvrtc.createProgram(kernel_source(SOURCE), SOURCE, (), ())
    options = (
        *COMPILE_OPTIONS,
        *macro_options(tuning.macros()),
        f"-arch={architecture}",
        "--ptxas-options=-v",
    )
    nvrtc.compileProgram(program, options)
    log, binary = nvrtc.getProgramLog(program), nvrtc.getCUBIN(program)
    nvrtc.destroyProgram(program)
    part = log.split("Compiling entry function 'iterate'")[1]
    # CuPy takes the last byte for the end of a string, and cuts it off
    return binary + b"\0", int(re.search(r"Used (\d+) registers", part)[1])  # type: ignore[index]


def disassemble(nvdisasm: str, binary: bytes) -> str:
    """Return the instructions of a binary as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"nvdisasm failed: {first_line(RuntimeError(done.stderr))}")
    return done.stdout


def inner_loop(text: str, kernel: str = "iterate") -> Loop:
    """Find the innermost loop with the most divisions and roots; of several, the shortest, which has no conditions.

    Args:
        text: what nvdisasm prints.
        kernel: whose loop is meant.

    Raises:
        DeviceError: there is none.
    """
    labels: dict[str, int] = {}
    instructions: list[str] = []
    section = ""
    for line in text.splitlines():
        if found := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            section = found[1]
        elif section != kernel:
            continue
        elif found := re.match(r"(\.L_\w+):", line):
            labels[found[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1])
    jumps = {
        n: labels[found[1]]
        for n, text_of in enumerate(instructions)
        if (found := re.search(r"\bBRA\b(?!\.DIV).*?(\.L_\w+)", text_of)) and found[1] in labels
    }
    loops = [(to, n) for n, to in jumps.items() if to <= n]
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    if not inner:
        raise DeviceError(
            f"no loop was found in the kernel {kernel}; is nvdisasm too old for the architecture?"
        )

    def rank(loop: tuple[int, int]) -> tuple[int, int]:
        part = instructions[loop[0] : loop[1] + 1]
        return sum("MUFU" in one for one in part), -len(part)

    start, end = max(inner, key=rank)
    # the sum of a chunk is the only butterfly, in a block that other rows jump over
    sums = [n for n in range(start, end + 1) if "SHFL.BFLY" in instructions[n]]
    skipped = 0
    if sums:
        over = [(n, to) for n, to in jumps.items() if start <= n < sums[0] and sums[-1] < to <= end]
        skipped = max((to - n - 1 for n, to in over), default=0)
    return Loop(end - start + 1 - skipped, skipped)


def figures(loop: Loop, tuning: Tuning, width: int, height: int) -> tuple[float, float, float]:
    """Return instructions of a row-step, of a pixel and iteration that a warp computes, and of a useful one."""
    plan = LevelPlan(height, width, tuning)
    step = loop.each + loop.of_a_chunk * tuning.iterations / plan.rows
    computed = step / (tuning.columns * tuning.iterations)
    items = -(-plan.chunks // LARGEST_ITEM)
    walked = plan.strips * tuning.strip * (height + items * 2 * tuning.iterations)
    return step, computed, computed * walked / (width * height)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the arguments; raises ArgumentError for those that make no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="340x256", help="WIDTHxHEIGHT of the frames (default: %(default)s)")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="several, such as sm_90")
    given = parser.parse_args(arguments)
    parse_size(given.size)
    for name in given.architectures:
        if not re.fullmatch(r"sm_\d+", name):
            raise ArgumentError(f"an architecture must be sm_ and a number, got {name!r}")
    return given


def rows(nvrtc: Any, nvdisasm: str, given: argparse.Namespace) -> list[list[str]]:
    """Compile and count everything; returns the rows of the table."""
    width, height = parse_size(given.size)
    table = []
    for architecture in given.architectures:
        for tuning in TUNINGS:
            binary, registers = compile_kernels(nvrtc, tuning, architecture)
            values = figures(inner_loop(disassemble(nvdisasm, binary)), tuning, width, height)
            name = f"{tuning.iterations} iterations, {tuning.columns} columns"
            table.append([architecture, name, str(registers), *(f"{value:.1f}" for value in values)])
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print the table; `arguments`: the command line's, if None."""
    try:
        given = parse(None if arguments is None else list(arguments))
        nvdisasm = find_nvdisasm()
        try:
            nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
            nvrtc.getVersion()
        except Exception as error:
            raise DeviceError(
                f"NVRTC cannot be loaded ({first_line(error)}); pip install cupy-cuda13x"
            ) from error
        table = rows(nvrtc, nvdisasm, given)
    except (ArgumentError, DeviceError) as error:
        print(f"count_instructions: {error}", file=sys.stderr)
        return 2
    print("\n".join(markdown_table(HEAD, table)))
    return 0


if __name__ == "__main__":
    sys.exit(run_program("count_instructions", main))
