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

**Colour.** One conversion by libswscale makes the levels (bicubic for the chroma planes). The matrix and the range are
those that the stream states. Where it states none, libswscale takes BT.601 and the range of the pixel format (16 to
235, or 0 to 255 for JPEG formats), and the tests hold it to that. OpenCV's reader does the same.
"""

from __future__ import annotations

import contextlib
import functools
import stat
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError, one_line
from flow_cache.runtime import pyav
from flow_cache.video.aspect import SQUARE, pixel_aspect, squared
from flow_cache.video.structure import find_break

_MAX_PIXELS = 1 << 27  # 16,384 x 8,192: a forged header must not take all memory
_BICUBIC, _POINT = 4, 16  # SWS_BICUBIC, SWS_POINT
_DETECT = "crccheck+bitstream+buffer+explode"  # how strict decoders are; see the head of this page
_NOT_CODED = 8  # bytes: packets up to this size repeat the last picture (MPEG-4: "not coded")


@dataclass(frozen=True)
class Header:
    """What a video file says about itself.

    Attributes:
        fps: frames per second; 0.0 if unknown.
        frames: number of frames, which is often wrong; 0 if unknown.
        codec: four letters of the codec, or its name.
        pixel_aspect: width of a pixel to its height, by which frames are resized; 1 if they are not.
    """

    fps: float
    frames: int
    codec: str
    pixel_aspect: Fraction = SQUARE


def read_header(path: Path) -> Header:
    """Read what a video file says about itself, without decoding it.

    Raises:
        VideoError: the file cannot be opened.
    """
    with opened(path) as container:
        return _header(container, _main_stream(container, path), path)


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


class _Scaler(threading.local):
    """libswscale, for each thread: its tables take as long as 40 small frames, and suit all files of a kind.

    Attributes:
        reformatter: makes the pictures.
        thumbnails: makes tiny ones, whose side data is that of the frame.
    """

    def __init__(self) -> None:
        self.reformatter = pyav().video.reformatter.VideoReformatter()
        self.thumbnails = pyav().video.reformatter.VideoReformatter()


@functools.cache
def _scaler() -> _Scaler:
    """Return the scalers of this process; PyAV is imported with it."""
    # glibc keeps as much freed memory as twice the largest block that was freed once. Without this it gives each frame
    # back to the system and asks for it again, which takes as long as the conversion.
    np.empty(1 << 24, np.uint8)
    return _Scaler()


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
        self._stream = _main_stream(container, path)
        self._header = _header(container, self._stream, path)
        self._context = context = self._stream.codec_context
        self._has_hidden_pictures = context.name == "vp8"  # packets that are no picture of their own
        self._has_times = _has_times(container, context)
        context.thread_count = threads
        context.thread_type = "NONE" if threads == 1 else "FRAME"
        context.options = {"err_detect": _DETECT, "max_pixels": str(_MAX_PIXELS)}
        self._convert = functools.partial(
            _scaler().reformatter.reformat, format="bgr24", interpolation=_BICUBIC, threads=threads
        )
        self._turn: _Turn | None = None
        self._has_square_pixels = self._header.pixel_aspect == SQUARE
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
        codec, announced = self._header.codec, self._header.frames
        if self.good == 0:
            raise VideoError(
                self._path,
                f"no frame could be decoded (codec {codec}, header announces {announced} frames); "
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
            image = self._image(frame)
        except (self._av.error.FFmpegError, ValueError) as error:
            self._closed = True
            self.good -= 1
            self._fail(f"a frame cannot be converted ({_reason(error)})", frame.pts)
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
        packets = self._container.demux(self._stream)
        fault: str | None = None
        last: int | None = None
        while True:
            try:
                packet = next(packets)
            except (
                StopIteration,
                IndexError,
            ):  # IndexError: PyAV, where another stream began late in the file
                break
            except (self._av.error.FFmpegError, OSError) as error:
                fault = f"the file cannot be read on ({_reason(error)})"
                break
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
        pts = self._time(packet)
        if packet.is_corrupt:
            self._fail("a packet is incomplete", pts)
        if self._break is not None and packet.pos is not None and packet.pos >= self._break.position:
            self._fail(self._break.reason, pts)
            self._break = None
        if self._limit is not None and pts is not None:
            self._limit = min(self._limit, pts)
        must_come_out = self._must_come_out(packet)
        if (
            must_come_out and pts is not None and (self._last is None or pts > self._last)
        ):  # else times began anew
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

    def _time(self, item: Any) -> int | None:
        """Return the time at which a packet or frame is shown; None if unknown."""
        return item.pts if self._has_times else None

    def _decoded(self, packet: Any) -> list[Any]:
        """Decode one packet, or what is left in the decoder."""
        try:
            frames = self._context.decode(packet)
        except self._av.error.EOFError:
            return []
        except (self._av.error.FFmpegError, ValueError) as error:
            pts = None if packet is None else self._time(packet)
            self._fail(f"a packet cannot be decoded ({_reason(error)})", pts)
            return []
        good = []
        for frame in frames:
            if self._time(frame) is not None:
                self._came_out(frame)
            if frame.is_corrupt:
                self._fail("a frame is corrupt", self._time(frame))
            else:
                good.append(frame)
        return good

    def _came_out(self, frame: Any) -> None:
        """Take note of a frame; those that are shown before it must have come out, too."""
        self._last = time = frame.pts
        if len(self._waiting) == 1 and self._waiting.pop(time, None) is not None:
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

    def _image(self, frame: Any) -> NDArray[np.uint8]:
        """Convert a frame to (H, W, 3) uint8 BGR, upright; a view of it where nothing has to be turned."""
        if self._turn is None:
            self._turn = _Turn.of(frame)
        # Nothing is said about colour here: libswscale takes what the frame states, as the page's head says.
        picture = self._convert(frame)
        plane = picture.planes[0]
        image: NDArray[np.uint8] = np.ndarray(
            (picture.height, picture.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1)
        )
        if not self._has_square_pixels:
            image = squared(image, self._header.pixel_aspect)
        return image if self._turn is _UPRIGHT else self._turn.upright(image)


def _has_times(container: Any, context: Any) -> bool:
    """Return whether packets have the times of their pictures.

    Raw streams hold no times, AVI files only the order of decoding. Those that FFmpeg makes up may be the times of
    other pictures, as in UCF-101, whose packets hold two pictures.
    """
    if container.format.flags & pyav().format.Flags.no_timestamps.value:
        return False
    return container.format.name != "avi" or not (context.has_b_frames or context.name in ("h264", "hevc"))


def _all_come_out(path: Path) -> bool:
    """Return whether each packet of a file gives a picture, whatever its time; decodes all of it."""
    with opened(path) as container:
        reading = Reading(path, container, 1)
        reading._has_times = False
        pictures = sum(1 for _ in reading._frames())
        return reading.fault is None and pictures == reading.packets


@dataclass(frozen=True)
class _Turn:
    """How stored pictures are turned to stand upright: transposed first, then mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of(cls, frame: Any) -> _Turn:
        """Read it from the display matrix of a frame, x' = a x + c y and y' = b x + d y (nearest quarter turn)."""
        # PyAV's frames and their side data refer to each other. The frame itself would stay in memory, one of each
        # file, until Python looks for circles; a thumbnail may.
        thumbnail = _scaler().thumbnails.reformat(
            frame, width=2, height=2, format="gray", interpolation=_POINT, threads=1
        )
        for data in thumbnail.side_data:
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
                if abs(a) + abs(d) >= abs(b) + abs(c):
                    return cls(False, a < 0, d < 0)
                return cls(True, c < 0, b < 0)
        return _UPRIGHT

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn an image."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.mirrored_x:
            image = image[:, ::-1]
        if self.mirrored_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


_UPRIGHT = _Turn()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a video file, or raise VideoError."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        is_missing = isinstance(error, FileNotFoundError | ValueError)
        raise VideoError(path, "no such file" if is_missing else _reason(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "not a regular file")
    if status.st_size == 0:
        raise VideoError(path, "the file is empty")
    av = pyav()
    with contextlib.ExitStack() as stack:
        try:
            # An absolute path, since FFmpeg takes a relative name with a colon for a protocol.
            source: Any = str(path.absolute())
            try:
                source.encode()
            except UnicodeEncodeError:  # bytes that are no UTF-8, which PyAV cannot pass on
                source = stack.enter_context(path.open("rb"))
            container = stack.enter_context(
                av.open(
                    source,
                    options={"max_pixels": str(_MAX_PIXELS)},
                    container_options={"protocol_whitelist": "file"},  # a playlist must not reach the network
                    metadata_errors="replace",
                )
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = _reason(error) if isinstance(error, OSError) else "damaged, or not a video file"
            raise VideoError(path, f"cannot be opened as a video ({reason})") from error
        yield container


def _main_stream(container: Any, path: Path) -> Any:
    """Choose the video stream that a player shows; a cover picture is none."""
    covers = pyav().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError(path, "cannot be opened as a video (it has no video stream)")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(path, "cannot be opened as a video (this FFmpeg has no decoder for its codec)")
    return stream


def _header(container: Any, stream: Any, path: Path) -> Header:
    """Read what a container says about its main stream; raises VideoError."""
    rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
    frames = stream.frames
    if frames <= 0:
        seconds = (container.duration or 0) / pyav().time_base
        frames = int(seconds * rate + 0.5)
    try:
        codec = stream.codec_context.codec_tag.strip("\0 ").upper()
    except UnicodeDecodeError:
        codec = ""
    if not codec or not codec.isprintable():
        codec = stream.codec_context.name
    aspect = pixel_aspect(stream.sample_aspect_ratio, path)
    return Header(round(rate, 6) if 0.0 < rate < 1e5 else 0.0, max(frames, 0), codec, aspect)


def _reason(error: BaseException) -> str:
    """Return what FFmpeg said, without the file's name and the error's number."""
    text: str = getattr(error, "strerror", None) or one_line(error)
    return text
