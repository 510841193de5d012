"""Live pictures: decisions as they come, and a stated rule for what is left out when they come too fast.

A thread takes pictures from the source; the caller's thread computes. Few pictures wait between the two, so that a
decision is about now. A picture that finds as many waiting as there may be is dropped. After a decision during which
that happened, pictures are thinned evenly: only every n-th is taken, n one more than before. After eight decisions
without it n is one less. So flow is always between pictures at equal distances, as if the camera were slower.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache import Framing
from twostream.errors import ConfigError, DataError, one_line
from twostream.inference.windows import Decision, Summary, WindowClassifier

Image = NDArray[np.uint8]
_CALM = 8  # decisions
_PATIENCE = 10.0  # seconds that a stream may be silent


class Thinning:
    """Choose the pictures of a source that are taken, by the rule at the head of this page.

    Args:
        most_waiting: pictures that may wait.

    Attributes:
        arrived: pictures that came.
        dropped: those of them that were not taken.
        nth: every how many-th is taken.

    Example:
        >>> from twostream.inference.live import Thinning
        >>> thinning = Thinning(most_waiting=1)
        >>> [thinning.takes(waiting) for waiting in (0, 1, 0)]
        [True, False, True]
        >>> thinning.decided()
        >>> thinning.nth, thinning.dropped
        (2, 1)
    """

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.arrived = self.dropped = 0
        self.nth = 1
        self._overflowed = False
        self._calm = 0

    def takes(self, waiting: int) -> bool:
        """Tell whether the picture that has come is taken, given how many wait."""
        self.arrived += 1
        overflows = waiting >= self.most_waiting
        self._overflowed |= overflows
        taken = not overflows and (self.arrived - 1) % self.nth == 0
        self.dropped += not taken
        return taken

    def decided(self) -> None:
        """Note that a decision was made."""
        if self._overflowed:
            self.nth, self._calm = self.nth + 1, 0
        else:
            self._calm += 1
            if self._calm == _CALM:
                self.nth, self._calm = max(self.nth - 1, 1), 0
        self._overflowed = False


@dataclass(frozen=True)
class LiveStatus:
    """How live pictures are kept up with.

    Attributes:
        rate: pictures that were looked at in a second, since the last decision.
        source_rate: pictures that came in a second.
        latency: seconds from the arrival of a window's last picture to its decision.
        dropped: pictures that were left out so far.
        nth: every how many-th is taken now.
    """

    rate: float
    source_rate: float
    latency: float
    dropped: int
    nth: int

    def __str__(self) -> str:
        """Write it for the live line."""
        text = f"{self.rate:.1f} frames/s of {self.source_rate:.1f}, latency {self.latency:.2f} s"
        if self.dropped:
            text += f", {self.dropped} dropped"
        return text if self.nth == 1 else f"{text}, one of {self.nth} taken"


def run_live(
    images: Iterator[Image],
    classifier: WindowClassifier,
    framing: Framing,
    report: Callable[[Decision, LiveStatus], object],
    *,
    thinning: Thinning | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Decide on live pictures until they end.

    Args:
        images: (H, W, 3) uint8 BGR, each as soon as it is there.
        classifier: decides window by window.
        framing: how pictures become frames.
        report: called with each decision.
        thinning: chooses the pictures that are taken; default: as many as two decisions are apart may wait.
        clock: current time in seconds.

    Returns:
        The mean of the decisions.

    Raises:
        TwoStreamError: the source failed; what it raised.
    """
    chosen = thinning or Thinning(2 * classifier.settings.every)
    waiting: deque[tuple[float, Image]] = deque()
    changed = threading.Condition()
    state: dict[str, Any] = {"ended": False, "error": None, "stopped": False}

    def receive() -> None:
        try:
            for image in images:
                with changed:
                    if state["stopped"]:
                        return
                    if chosen.takes(len(waiting)):
                        waiting.append((clock(), image))
                        changed.notify()
        except Exception as error:  # raised again in the caller's thread
            state["error"] = error
        finally:
            with changed:
                state["ended"] = True
                changed.notify()

    threading.Thread(target=receive, name="camera", daemon=True).start()
    summary, number, size = Summary(), 0, None
    last, last_number, last_arrived = clock(), 0, 0
    try:
        while True:
            with changed:
                while not waiting and not state["ended"]:
                    changed.wait(0.2)  # so that Ctrl-C is heard
                if not waiting:
                    break
                arrival, image = waiting.popleft()
            if size not in (None, image.shape):
                raise DataError(f"the size of the pictures changes from {size} to {image.shape}; start anew")
            size = image.shape
            decision = classifier.add(framing.frame(image, number))
            number += 1
            if decision is None:
                continue
            now = clock()
            elapsed = max(now - last, 1e-9)
            with changed:
                arrived = chosen.arrived
                chosen.decided()
            rates = (number - last_number) / elapsed, (arrived - last_arrived) / elapsed
            last, last_number, last_arrived = now, number, arrived
            summary.add(decision)
            report(decision, LiveStatus(*rates, now - arrival, chosen.dropped, chosen.nth))
    finally:
        state["stopped"] = True
    if state["error"] is not None:
        raise state["error"]
    return summary


def open_source(
    name: str,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Image]:
    """Iterate the pictures of a camera, a stream or, at its own pace, a file: (H, W, 3) uint8 BGR.

    Args:
        name: the number of a camera, or what FFmpeg opens: rtsp://…, http://…, udp://…, a file.
        sleep: waits, to keep a file's pace.
        clock: current time in seconds.

    Raises:
        ConfigError: it cannot be opened.
        DataError: while iterating: it fails.
    """
    return _camera(int(name)) if name.isdecimal() else _stream(name, sleep, clock)


def _camera(number: int) -> Iterator[Image]:
    import cv2

    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise ConfigError(
            f"--camera {number} cannot be opened; is there such a camera, and is no other program using it?"
        )

    def pictures() -> Iterator[Image]:
        try:
            while True:
                there, image = capture.read()
                if not there:
                    raise DataError(f"camera {number} gives no more pictures")
                yield np.asarray(image, np.uint8)
        finally:
            capture.release()

    return pictures()


def _stream(name: str, sleep: Callable[[float], object], clock: Callable[[], float]) -> Iterator[Image]:
    import av

    is_file = Path(name).is_file()
    options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
    try:
        container = av.open(name, options=options, timeout=None if is_file else _PATIENCE)
        stream = container.streams.video[0]
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise ConfigError(f"--camera {name} cannot be opened as a video ({one_line(error)})") from error
    stream.thread_type = "SLICE"  # threads over frames would hold some of them back

    def pictures() -> Iterator[Image]:
        begin: float | None = None
        try:
            for frame in container.decode(stream):
                if is_file and frame.time is not None:
                    begin = clock() - frame.time if begin is None else begin
                    sleep(max(begin + frame.time - clock(), 0))
                yield frame.to_ndarray(format="bgr24")
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(f"{name} cannot be read on ({one_line(error)})") from error
        finally:
            container.close()

    return pictures()
