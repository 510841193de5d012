"""Decode damaged videos: each must give a named failure, or the frames that the undamaged one gives.

    python tools/fuzz_decoder.py data/jhmdb --cases 10000 --seed 0 --csv decoder.csv

The videos are files below the folder, where one is given, and generated ones of many codecs (`check_frames.py
--encodings`). A case is made from the seed and its number alone: bytes flipped, a stretch overwritten, taken out or put
in, the end cut off. Each is decoded in a process of its own, which may take `--mebibytes` more memory than before, and
`--seconds` of the processor. With `--csv` each case is written down as soon as it is done, and a run that was stopped
goes on behind the last one. Outcomes:

    same            nothing was said, and nothing had to be: all frames are right
    named           a named failure; all frames before it are right
    late            a named failure, but a frame before it is wrong
    silent          no failure, but frames are wrong or missing: video formats have no checksums
    refused memory  a named failure, for the limit of memory; the frames before it are right
    crash, hang, other error
                    broken promises: exit status 1
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.encodings import write_all
from benchmarks.process_monitor import own_memory
from benchmarks.report import markdown_table
from check_frames import videos_below
from flow_cache import run_program
from flow_cache.errors import VideoError
from flow_cache.runtime import opencv, pyav
from flow_cache.video.decoder import decode_file

Random = np.random.Generator
Decode = Callable[[Path], Iterator[NDArray[np.uint8]]]
BROKEN = ("crash", "hang", "other error")
OUTCOMES = ("same", "named", "late", "silent", "refused memory", *BROKEN)
_LARGEST = 400_000  # bytes of a file
_LARGE = ("dirac", "dv", "h264, long still")  # generated ones that take long


def flip(content: bytes, rng: Random) -> bytes:
    """Change some bytes anywhere."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 2, 5, 20, 100]))):
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    return bytes(data)


def flip_head(content: bytes, rng: Random) -> bytes:
    """Change some bytes near the beginning or the end, where headers and indices are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(min(len(data), 800)))
        data[place if rng.random() < 0.6 else len(data) - 1 - place] ^= int(rng.integers(1, 256))
    return bytes(data)


def overwrite(content: bytes, rng: Random) -> bytes:
    """Put zeros, ones or noise over a stretch."""
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 2000))
    length = min(length, len(content) - start)
    stretch = [b"\0" * length, b"\xff" * length, rng.bytes(length)][rng.integers(3)]
    return content[:start] + stretch + content[start + length :]


def shift(content: bytes, rng: Random) -> bytes:
    """Take a stretch out, or put one in."""
    place, length = int(rng.integers(len(content))), int(rng.integers(1, 2000))
    if rng.random() < 0.5:
        return content[:place] + content[place + length :] or b"\0"
    return content[:place] + rng.bytes(length) + content[place:]


def cut(content: bytes, rng: Random) -> bytes:
    """Cut the end off."""
    return content[: rng.integers(1, len(content))]


KINDS = (flip, flip, flip, flip_head, overwrite, shift, cut)  # a flipped byte is the usual damage


@dataclass(frozen=True)
class Video:
    """An undamaged video.

    Attributes:
        name: what it is called in the report.
        content: of the file.
        suffix: of the file.
        frames: hash of each frame.
    """

    name: str
    content: bytes
    suffix: str
    frames: list[str]


@dataclass
class Case:
    """What became of one damaged video."""

    number: int
    group: str
    kind: str
    outcome: str
    frames: int
    right: int
    mebibytes: float
    reason: str


def read(path: Path, decode: Decode) -> dict[str, Any]:
    """Decode a file in this process; returns the hashes of its frames, and why they end."""
    frames: list[str] = []
    reason, named = "", True
    try:
        for image in decode(path):
            frames.append(_hash(image))
    except VideoError as error:
        reason = error.reason
    except BaseException as error:
        reason, named = f"{type(error).__name__}: {error}"[:300], False
    return {"frames": frames, "reason": reason, "named": named}


def _hash(image: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=8).hexdigest()


def in_child(path: Path, decode: Decode, mebibytes: int, seconds: int) -> dict[str, Any]:
    """Decode a file in a process with limits; `crash` or `hang` tell of one that did not end by itself."""
    output, given = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(output)
        _decode_and_leave(path, decode, mebibytes, seconds, given)
    os.close(given)
    blocks, deadline = [], time.monotonic() + 20 * seconds  # other work may take the processor
    with os.fdopen(output, "rb", 0) as stream:
        while select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (block := stream.read(1 << 16)):
                break
            blocks.append(block)
        else:
            os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"hang": f"more than {seconds} s"}
    if status != 0:
        return {"crash": signal.Signals(-status).name if status < 0 else f"exit status {status}"}
    told: dict[str, Any] = json.loads(b"".join(blocks))
    return told


def _decode_and_leave(path: Path, decode: Decode, mebibytes: int, seconds: int, output: int) -> None:
    """Be the process that decodes; does not return."""
    status = 1
    with contextlib.suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        before = own_memory("VmHWM")
        limit = (int(own_memory("VmSize")) + mebibytes) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        told = read(path, decode) | {"mebibytes": round(own_memory("VmHWM") - before, 1)}
        data = json.dumps(told).encode()
        while data:
            data = data[os.write(output, data) :]
        status = 0
    os._exit(status)


def judge(number: int, video: Video, kind: str, told: dict[str, Any]) -> Case:
    """Compare what was decoded with what the undamaged video holds."""
    case = Case(number, video.name, kind, "", 0, 0, 0.0, "")
    for outcome in ("crash", "hang"):
        if outcome in told:
            case.outcome, case.reason = outcome, told[outcome]
            return case
    frames, case.reason, case.mebibytes = told["frames"], told["reason"], told["mebibytes"]
    case.frames = len(frames)
    same = (ours == right for ours, right in zip(frames, video.frames, strict=False))
    case.right = next(
        (place for place, equal in enumerate(same) if not equal), min(len(frames), len(video.frames))
    )
    if not told["named"]:
        case.outcome = "other error"
    elif case.reason == "":
        case.outcome = "same" if frames == video.frames else "silent"
    elif case.right < case.frames:
        case.outcome = "late"
    else:
        case.outcome = "refused memory" if "annot allocate" in case.reason else "named"
    return case


def undamaged(
    folder: Path | None, scratch: Path, decode: Decode, mebibytes: int, seconds: int
) -> list[list[Video]]:
    """Read the videos that can be read: of the folder, and generated ones."""
    generated = {name: path for name, path in write_all(scratch)[0].items() if not name.startswith(_LARGE)}
    groups = [list(generated.items())]
    if folder is not None:
        small = [path for path in videos_below(folder) if path.stat().st_size <= _LARGEST]
        groups.append([("real, " + path.suffix[1:].lower(), path) for path in small])
    videos = []
    for group in groups:
        whole = []
        for name, path in group:
            told = in_child(path, decode, mebibytes, seconds)
            if told.get("reason") == "":
                whole.append(Video(name, path.read_bytes(), path.suffix, told["frames"]))
        videos.append(whole)
    return [whole for whole in videos if whole]


def fuzz(
    videos: list[list[Video]],
    numbers: list[int],
    seed: int,
    decode: Decode,
    mebibytes: int,
    seconds: int,
    folder: Path,
) -> Iterator[Case]:
    """Damage and decode; each group of videos has its equal share of the cases."""
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        group = videos[rng.integers(len(videos))]
        video = group[rng.integers(len(group))]
        kind = KINDS[rng.integers(len(KINDS))]
        path = folder / f"case{video.suffix}"
        path.write_bytes(kind(video.content, rng))
        yield judge(number, video, kind.__name__, in_child(path, decode, mebibytes, seconds))
        path.unlink()


def table(cases: list[Case]) -> list[str]:
    """Return the lines of a table: how often each kind of damage and each codec had which outcome."""
    rows = []
    for title, key in (("damage", lambda case: case.kind), ("video", lambda case: _family(case.group))):
        for name in sorted({key(case) for case in cases}):
            counts = Counter(case.outcome for case in cases if key(case) == name)
            rows.append((f"{title}: {name}", *(f"{counts[outcome]:,}" for outcome in OUTCOMES)))
    counts = Counter(case.outcome for case in cases)
    rows.append(("all", *(f"{counts[outcome]:,}" for outcome in OUTCOMES)))
    return markdown_table(("", *OUTCOMES), rows)


def _family(group: str) -> str:
    """Return the codec of a generated video, or what stands for a real one."""
    return group if group.startswith("real") else group.split(",")[0].split(" in ")[0]


def _kept(path: Path | None) -> list[Case]:
    """Read the cases that an earlier run has written down."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Case(int(row["number"]), row["group"], row["kind"], row["outcome"], int(row["frames"]), int(row["right"]),
                 float(row["mebibytes"]), row["reason"])
            for row in csv.DictReader(file)
        ]  # fmt: skip


def main() -> int:
    """Parse the arguments, run the cases, print their outcomes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="of real videos")
    parser.add_argument("--cases", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mebibytes", type=int, default=768, help="memory of a case (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="processor time (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="write each case there, and go on behind what is there")
    given = parser.parse_args()
    opencv().setNumThreads(1)  # no thread may be there when processes are forked
    pyav()
    cases = _kept(given.csv)
    done = {case.number for case in cases}
    numbers = [number for number in range(given.first, given.first + given.cases) if number not in done]
    started = told = time.monotonic()

    def decode(path: Path) -> Iterator[NDArray[np.uint8]]:
        return decode_file(path, 1)

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        scratch = Path(name)
        (scratch / "whole").mkdir()
        videos = undamaged(given.folder, scratch / "whole", decode, given.mebibytes, given.seconds)
        table_file = None
        if given.csv is not None:
            given.csv.parent.mkdir(parents=True, exist_ok=True)
            table_file = stack.enter_context(given.csv.open("a", newline="", buffering=1))
        for case in fuzz(videos, numbers, given.seed, decode, given.mebibytes, given.seconds, scratch):
            if table_file is not None:
                rows = csv.DictWriter(table_file, list(asdict(case)), lineterminator="\n")
                if not cases:
                    rows.writeheader()
                rows.writerow(asdict(case))
            cases.append(case)
            if case.outcome in BROKEN:
                print(
                    f"case {case.number} ({case.group}, {case.kind}): {case.outcome}, {case.reason}",
                    flush=True,
                )
            if time.monotonic() - told > 30:
                told = time.monotonic()
                rate = (len(cases) - len(done)) / (told - started)
                print(f"{len(cases):,} cases, {rate:.1f}/s", file=sys.stderr, flush=True)
    broken = sum(case.outcome in BROKEN for case in cases)
    print("\n".join(table(cases)))
    most = max((case.mebibytes for case in cases), default=0.0)
    print(f"{len(cases):,} cases, {broken} broken promises; a case took {most:.0f} MiB at most")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(run_program("fuzz_decoder", main))
