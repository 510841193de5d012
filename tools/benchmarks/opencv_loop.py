"""Compute TV-L1 flow the plain way, frame after frame: what `flow-cache precompute` is compared with.

    python tools/benchmarks/opencv_loop.py VIDEO ... --out FOLDER --size 320x240

As in the usual scripts: read, turn grey, `cv2.optflow` on each frame and the next, clip and scale to bytes, and write
a JPEG for u and one for v, `FOLDER/<number of the video>/flow_x_00001.jpg`. Prints what each process did as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from flow_cache.runtime import opencv

BOUND = 20.0  # pixels


def main() -> int:
    """Parse the arguments and do the videos, or share them between processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="320x240", help="width and height (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="OpenCV's threads; default: its own choice")
    parser.add_argument("--processes", type=int, default=1, help="to share the videos (default: %(default)s)")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)  # which of these processes this one is
    options = parser.parse_args()
    processes = min(options.processes, len(options.videos))
    if options.share is None and processes > 1:
        command = [sys.executable, *sys.argv, "--share"]
        runs = [subprocess.Popen([*command, str(share)]) for share in range(processes)]
        return max([run.wait() for run in runs])
    cv2 = opencv()
    width, height = map(int, options.size.split("x"))
    if options.threads is not None:
        cv2.setNumThreads(options.threads)
    started, pairs = time.perf_counter(), 0
    for number in range(options.share or 0, len(options.videos), processes):
        folder = options.out / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        pairs += write_flow(options.videos[number], folder, (width, height))
    seconds = time.perf_counter() - started
    print(json.dumps({"pairs": pairs, "seconds": seconds, "threads": cv2.getNumThreads()}))
    return 0


def write_flow(video: Path, folder: Path, size: tuple[int, int]) -> int:
    """Write the flow of one video; returns the number of pairs."""
    cv2 = opencv()
    estimator = cv2.optflow.DualTVL1OpticalFlow_create()
    capture = cv2.VideoCapture(str(video))
    previous = None
    pairs = 0
    while True:
        more, image = capture.read()
        if not more:
            break
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if grey.shape[::-1] != size:
            shrinks = size[0] <= grey.shape[1] and size[1] <= grey.shape[0]
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if previous is not None:
            flow = estimator.calc(previous, grey, None)
            pairs += 1
            for axis, values in zip("xy", cv2.split(flow), strict=True):
                levels = np.rint((np.clip(values, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND)))
                cv2.imwrite(str(folder / f"flow_{axis}_{pairs:05d}.jpg"), levels.astype(np.uint8))
        previous = grey
    return pairs


if __name__ == "__main__":
    sys.exit(main())
