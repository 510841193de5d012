"""Video files, decoded with PyAV, which has FFmpeg inside: every frame in presentation order, every fault named.

What a player shows is what we take: the main video stream, frames in presentation order, their width resized where the
file states pixels that are not square, turned upright by the display matrix. The frame count in a header is not
believed, except that an index which points past the end of the file says that the file was cut.

**Damage.** Taken for it are: the container cannot be read on, it hands out an incomplete packet, its index or its outer
structure (`structure`) points past the end of the file or breaks, the decoder refuses a packet or marks a frame as
corrupt, and a packet whose picture never comes out. Decoders run with an `err_detect` that undamaged files pass;
without `explode` many hide the fault behind a guessed picture. The frames before the damage are yielded first: the
ones that stand before every damaged or later packet in presentation order, so none of them can have been predicted from
a damaged one. What no decoder and no container notices stays unseen, since most video formats have no checksums: bytes
that decode to other pixels, and whole packets lost where nothing counts them (the end of a transport stream or a raw
stream; a gap in times may be a variable rate).

`container` opens files and reads what they say about themselves, `conversion` makes images of frames.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError
from flow_cache.runtime import pyav
from flow_cache.video.aspect import pixel_aspect
from flow_cache.video.container import MAX_PIXELS, has_times, header_of, main_stream, opened, reason_of
from flow_cache.video.conversion import Conversion
from flow_cache.video.structure import find_break

_DETECT = "crccheck+bitstream+buffer+explode"  # how strict decoders are; see the head of this page
_NOT_CODED = 8  # bytes: packets up to this size repeat the last picture (MPEG-4: "not coded")


def decode_file(path: Path, threads: int | None) -> Iterator[NDArray[np.uint8]]:
    """Decode a video file: (H, W, 3) uint8 BGR, the order of OpenCV's functions, to be read only.

    Several threads only make a whole video quicker. Where they meet anything unusual the rest is decoded by one
    thread, so that the error does not depend on their number (PyAV hides faults in what threads still hold at the end
    of a file).

    Args:
        path: local file.
        threads: threads of the decoder; None = FFmpeg decides.

    Raises:
        VideoError: the file cannot be opened, holds no frame, or is damaged; `frame` is the index of the first frame
            that is missing.
    """
    done = 0
    if threads != 1:
        with opened(path) as container:
            reading = Reading(path, container, threads or 0)
            with contextlib.closing(reading.images()) as images:
                for image in images:
                    yield image
                    done += 1
        if reading.fault is None and reading.packets == reading.good == done > 0:
            return
    with opened(path) as container:
        reading = Reading(path, container, 1)
        with contextlib.closing(reading.images()) as images:
            yield from islice(images, done, None)
        reading.check()


class Reading:
    """One pass over a file: the frames before the first fault, and what became of the others.

    Attributes:
        fault: what is wrong, in a few words; None until something is.
        packets: packets of the video stream that were read.
        good: frames that were decoded, after the fault too.
    """

    def __init__(self, path: Path, container: Any, threads: int) -> None:
        self._av = pyav()
        self._path = path
        self._container = container
        self._stream = main_stream(container, path)
        self._context = context = self._stream.codec_context
        self._has_hidden_pictures = context.name == "vp8"  # packets that are no picture of their own
        self._has_times = has_times(container, context)
        context.thread_count = threads
        context.thread_type = "NONE" if threads == 1 else "FRAME"
        context.options = {"err_detect": _DETECT, "max_pixels": str(MAX_PIXELS)}
        self._conversion = Conversion(pixel_aspect(self._stream.sample_aspect_ratio, path), threads)
        self.fault: str | None = None
        self._break = find_break(path)  # None once it was reported
        self._closed = False  # whether no further frame can stand before the fault
        self.packets = 0
        self.good = 0
        self._before = 0  # frames yielded
        self._limit: int | None = None  # after a fault: the lowest time of the packets from it on
        self._numbers: dict[int, int] = {}  # packets whose pictures are not yielded yet: time -> number
        self._waiting: dict[int, int] = {}  # those of them whose pictures have to come out of the decoder
        self._first: int | None = None  # time of the first key packet
        self._last: int | None = None  # time of the last frame that came out

    def images(self) -> Generator[NDArray[np.uint8], None, None]:
        """Yield the frames before the first fault, then read on to count what else can be decoded."""
        held: deque[Any] = deque()
        for frame in self._frames():
            self.good += 1
            held.append(frame)
            while held and self._is_settled(held[0]):
                if (image := self._released(held.popleft())) is not None:
                    yield image
        for frame in held:
            if (image := self._released(frame)) is not None:
                yield image

    def check(self) -> None:
        """Raise VideoError if the pass that has ended found a fault, or no frame."""
        if self.good == 0:
            header = header_of(self._container, self._stream, self._path)
            raise VideoError(
                self._path,
                f"no frame could be decoded (codec {header.codec}, header announces {header.frames} frames); "
                "re-encode it with a codec that this FFmpeg can decode, such as H.264",
            )
        if self.fault is not None:
            base, when = self._stream.time_base, ""
            if self._limit is not None and base:
                when = f" at {float((self._limit - (self._stream.start_time or 0)) * base):.2f} s"
            raise VideoError(
                self._path,
                f"damaged{when}: {self.fault}; {self.good} frames are readable, {self._before} of them before the "
                "damage",
                self._before,
            )

    def _is_settled(self, frame: Any) -> bool:
        """Return whether no picture can still turn out corrupt that this one may be predicted from.

        Only packets that were decoded before it count. A picture that is shown later may be one of them.
        """
        if not self._waiting:
            return True
        number = self._numbers.get(frame.pts)
        return number is None or all(number < other for other in self._waiting.values())

    def _released(self, frame: Any) -> NDArray[np.uint8] | None:
        """Return the picture of the next frame if it stands before the fault."""
        self._numbers.pop(frame.pts, None)
        if self._closed or (
            self.fault is not None and (frame.pts is None or self._limit is None or frame.pts >= self._limit)
        ):
            self._closed = True
            return None
        try:
            image = self._conversion.image(frame)
        except (self._av.error.FFmpegError, ValueError) as error:
            self._closed = True
            self.good -= 1
            self._fail(f"a frame cannot be converted ({reason_of(error)})", frame.pts)
            return None
        self._before += 1
        return image

    def _packets(self) -> Iterator[Any]:
        """Read the packets of the stream; a fault of the container ends them.

        A transport stream marks packets at every gap in its counters, and joining two files makes one. So the marks of
        the last packets before a key packet whose time begins anew are taken off.
        """
        ahead: deque[Any] = deque()
        most = 2 if self._container.format.name == "mpegts" else 0  # a mark may stand one packet early
        fault: str | None = None
        last: int | None = None
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0:
                    continue  # the last picture is shown on; the decoder would take it for the end
                if not most:
                    yield packet
                    continue
                if packet.is_keyframe and last is not None and packet.dts is not None and packet.dts < last:
                    for before in ahead:
                        before.is_corrupt = False
                last = packet.dts
                ahead.append(packet)
                if len(ahead) > most:
                    yield ahead.popleft()
        except IndexError:  # PyAV, where another stream began late in the file; there is nothing behind it
            pass
        except (self._av.error.FFmpegError, OSError) as error:
            fault = f"the file cannot be read on ({reason_of(error)})"
        yield from ahead
        if fault is not None:
            self._fail(fault)

    def _frames(self) -> Iterator[Any]:
        """Decode all packets; frames that are marked as corrupt are left out."""
        for packet in self._packets():
            self._note(packet)
            yield from self._decoded(packet)
        self._look_for_a_cut()
        yield from self._decoded(None)  # what is left in the decoder
        if self._waiting and not (self.fault is None and _all_come_out(self._path)):
            self._fail("a frame is missing", min(self._waiting))
        self._waiting.clear()
        if self._break is not None:  # behind all packets
            self._fail(self._break.reason)

    def _note(self, packet: Any) -> None:
        """Take note of a packet before it is decoded."""
        self.packets += 1
        pts = packet.pts
        if packet.is_corrupt:
            self._fail("a packet is incomplete", pts)
        if self._break is not None and packet.pos is not None and packet.pos >= self._break.position:
            self._fail(self._break.reason, pts)
            self._break = None
        if pts is None or not self._has_times:
            return
        if self._limit is not None:
            self._limit = min(self._limit, pts)
        # Otherwise times began anew.
        if self._must_come_out(packet) and (self._last is None or pts > self._last):
            self._numbers[pts] = self._waiting[pts] = self.packets

    def _must_come_out(self, packet: Any) -> bool:
        """Return whether a packet holds a picture that the decoder has to hand out; to be asked once of each packet."""
        pts = packet.pts
        if pts is None or packet.size <= _NOT_CODED or packet.is_discard:
            return False
        if self._first is None and packet.is_keyframe:
            self._first = pts
        # Pictures before the first key picture cannot be decoded where a recording begins in the middle.
        return self._first is not None and pts >= self._first and not self._has_hidden_pictures

    def _decoded(self, packet: Any) -> list[Any]:
        """Decode one packet, or what is left in the decoder."""
        try:
            frames = self._context.decode(packet)
        except self._av.error.EOFError:
            return []
        except (self._av.error.FFmpegError, ValueError) as error:
            pts = None if packet is None else packet.pts
            self._fail(f"a packet cannot be decoded ({reason_of(error)})", pts)
            return []
        for frame in frames:
            if self._has_times and frame.pts is not None:
                self._came_out(frame, frame.pts)
            if frame.is_corrupt:
                self._fail("a frame is corrupt", frame.pts)
        return [frame for frame in frames if not frame.is_corrupt]

    def _came_out(self, frame: Any, time: int) -> None:
        """Take note of a frame and its time; those that are shown before it must have come out, too."""
        self._last = time
        if self._waiting.pop(time, None) is not None and not self._waiting:
            return  # the usual case
        missing = [other for other in self._waiting if other < time]
        if missing and not frame.interlaced_frame:  # whose packets may be half pictures
            if self.fault is None and _all_come_out(self._path):  # then it is the times that are wrong
                self._has_times = False
                self._numbers.clear()
                self._waiting.clear()
                return
            self._fail("a frame is missing", min(missing))
        for other in (*missing, time):
            self._waiting.pop(other, None)

    def _fail(self, reason: str, pts: int | None = None) -> None:
        """Record a fault of the picture of a time, None if unknown. The first one is what the user hears."""
        pts = pts if self._has_times else None
        if self.fault is None:
            self.fault = reason
            self._limit = pts
        if pts is None:
            self._limit = None
            return
        number = self._numbers.get(pts, self.packets)
        self._waiting.pop(pts, None)
        if self._limit is not None:
            later = (time for time, other in self._numbers.items() if other > number)
            self._limit = min(self._limit, pts, *later)

    def _look_for_a_cut(self) -> None:
        """Record a fault if the file's index names data beyond its end."""
        index, size = self._stream.index_entries, self._container.size
        count = len(index)
        if count == 0 or index[count - 1].pos + index[count - 1].size <= size:
            return
        there = next(number for number in range(count) if index[number].pos + index[number].size > size)
        # No packet is shown before the time at which it is decoded, which is the one in the index. An index of key
        # pictures only does not tell where the first missing packet would be.
        every = self.packets in (there, there + 1)
        self._fail(
            "the file was cut, its index points past its end", index[there].timestamp if every else None
        )


def _all_come_out(path: Path) -> bool:
    """Return whether each packet of a file gives a picture, whatever its time; decodes all of it."""
    with opened(path) as container:
        reading = Reading(path, container, 1)
        reading._has_times = False
        pictures = sum(1 for _ in reading._frames())
        return reading.fault is None and pictures == reading.packets
