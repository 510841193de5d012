"""Read damaged and hostile cache files: each must be refused with a named error, or read exactly as it was written.

    python tools/fuzz_cache.py --cases 10000 --seed 0

A case is made from the seed and its number alone, so one that fails can be repeated with `--first N --cases 1`. No
case may take more than `--seconds` of the processor (whatever else the machine does), or more memory than
`--mebibytes` beyond what the process held before the first. Files whose checksums were forged on purpose cannot be told
from others: those must be refused or give arrays of the announced shape. Exit status 1, and every broken promise by its
number, if there is any.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

from benchmarks.damaged_caches import ALWAYS_REFUSED, DAMAGED, FORGED, Case, Original, edit_meta, originals
from benchmarks.process_monitor import own_memory
from flow_cache import run_program
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import CacheFileError


class BrokenPromiseError(Exception):
    """A file was read wrongly, or failed with another error than a named one."""


def judge(
    path: Path, original: Original, kind: Case, open_reader: Callable[[Path], CacheReader] = CacheReader
) -> str:
    """Read a file in every way; returns `read` or `refused`. Raises BrokenPromiseError."""
    try:
        with open_reader(path) as reader:
            meta = reader.meta
            flow = reader.flow(range(reader.num_fields))
            rgb = reader.rgb(range(reader.num_frames)) if reader.has_rgb else None
            reader.check()
    except CacheFileError as error:
        if str(path) not in str(error) or "\n" in str(error) or len(str(error)) > 1000:
            raise BrokenPromiseError(f"an unclear message: {error!r:.300}") from error
        return "refused"
    except Exception as error:
        raise BrokenPromiseError(f"{type(error).__name__}: {error!s:.300}") from error
    if kind in ALWAYS_REFUSED:
        raise BrokenPromiseError("was read, but must be refused")
    if flow.shape != (meta.fields, 2, meta.height, meta.width):
        raise BrokenPromiseError(f"flow of shape {flow.shape}")
    means_other_levels = kind is edit_meta and meta.storage.grid != original.grid  # nothing contradicts it
    if kind in DAMAGED and not means_other_levels:
        same_rgb = rgb is original.rgb or np.array_equal(rgb, original.rgb)  # type: ignore[arg-type]
        if not np.array_equal(flow, original.flow) or not same_rgb:
            raise BrokenPromiseError("gives other arrays than were written")
    return "read"


def fuzz(
    first: int, cases: int, seed: int, seconds: float, only: str | None = None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Run cases; returns how often each kind was read or refused, and the broken promises."""
    outcomes: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []

    def too_long(number: int, frame: FrameType | None) -> None:
        raise BrokenPromiseError(f"takes more than {seconds} s")

    signal.signal(signal.SIGPROF, too_long)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = originals(folder)
        path = folder / "case.flow.zip"
        for number in range(first, first + cases):
            rng = np.random.default_rng([seed, number])
            original = files[rng.integers(len(files))]
            kinds = [kind for kind in DAMAGED + FORGED if only in (None, kind.__name__)]
            kind = kinds[rng.integers(len(kinds))]
            path.write_bytes(kind(original, rng))
            # for code that no signal can stop
            faulthandler.dump_traceback_later(10 * seconds, exit=True, file=2)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            started = time.process_time()
            try:
                outcome = judge(path, original, kind)
                taken = time.process_time() - started
                if taken > seconds:  # the alarm's exception may have been swallowed
                    raise BrokenPromiseError(f"takes {taken:.0f} s")
                outcomes[kind.__name__, outcome] += 1
            except BrokenPromiseError as error:
                broken.append(f"case {number} ({kind.__name__}): {error}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()
            if list(folder.iterdir()) != [path]:
                broken.append(f"case {number} ({kind.__name__}): other files appeared")
    return outcomes, broken


def limit_memory(mebibytes: int) -> None:
    """Limit how much memory the process may take beyond what it holds now."""
    with tempfile.TemporaryDirectory() as name:
        originals(Path(name))  # loads every codec
    limit = (int(own_memory("VmSize")) + mebibytes) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Parse the arguments, run the cases, print their outcomes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[kind.__name__ for kind in DAMAGED + FORGED])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--mebibytes", type=int, default=512)
    given = parser.parse_args()
    faulthandler.enable(2)  # whatever standard error is for Python
    limit_memory(given.mebibytes)
    before = own_memory("VmHWM")
    outcomes, broken = fuzz(given.first, given.cases, given.seed, given.seconds, given.only)
    grown = own_memory("VmHWM") - before
    for kind in DAMAGED + FORGED:
        read, refused = outcomes[kind.__name__, "read"], outcomes[kind.__name__, "refused"]
        print(f"{kind.__name__:14} {refused:6} refused, {read:6} read as announced")
    total = f"{sum(outcomes.values())} cases, {len(broken)} broken promises"
    print(f"{total}, resident memory grew by {grown:.0f} MiB", *broken[:50], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(run_program("fuzz_cache", main))
