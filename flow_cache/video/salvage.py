"""The good frames of a damaged video file, those after the damage too, and where frames are missing between them.

What FFmpeg hands out after damage without complaint is not good by that alone: with codecs that predict, every picture
up to the next key picture is built on a missing or a wrong one. Measured with H.264, MPEG-4 and VP9, such pictures are
12 to 30 grey levels off on average, and not one of them is marked. So after a fault frames count as good again only
from the next key picture on: a packet that is marked as a key, whose picture came out sound and predicts from no other.
What is decoded after that picture and shown before it (leading pictures) is left out. With codecs that never predict,
such as MJPEG, every picture is a key picture, and only the damaged ones are lost.

Frames are told apart by the packets that they were decoded from, not by their times, which some containers do not have
(raw H.264) or only guess (AVI).
"""

from __future__ import annotations

import bisect
import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError
from flow_cache.video.container import opened
from flow_cache.video.damage import Damage
from flow_cache.video.decoder import Reading, decode_file

_UNPREDICTED = (0, 1)  # AVPictureType: not stated, I
# A picture comes out before at most 32 that were decoded after it: 16 are shown earlier, 16 wait beside it (H.264).
_MOST_LATER = 32


def decode_good_frames(path: Path, threads: int | None, damage: Damage) -> Iterator[NDArray[np.uint8]]:
    """Decode a video file as `decode_file` does, without the frames that are damaged.

    The video is decoded twice: whether it is damaged is known only at its end. If it is not, the frames are those of
    `decode_file`.

    Args:
        path: local file.
        threads: threads of the decoder while nothing is damaged; None = FFmpeg decides.
        damage: learns what is missing, before the frame after it is yielded.

    Raises:
        VideoError: the file cannot be opened, or no frame of it is good.
    """
    try:
        for _ in decode_file(path, threads):
            pass
    except VideoError as error:
        if error.frame is None:
            raise
        fault = error
    else:
        yield from decode_file(path, threads)
        return
    found = False
    with opened(path) as container:
        salvage = _Salvage(path, container, damage, fault.reason_and_frame)
        with contextlib.closing(salvage.images()) as images:
            for image in images:
                found = True
                yield image
    if not found:
        raise fault


class _Out(NamedTuple):
    """A frame that came out of the decoder: the number of its packet, its place among all, and itself."""

    number: int
    place: int
    frame: Any


class _Lost(NamedTuple):
    """A picture that will not come out: its time, if that can be compared, and how many frames came out before."""

    time: int | None
    place: int


class _Salvage(Reading):
    """One pass over a damaged file that goes on after each fault. Packets are numbered from 1 as they are decoded."""

    def __init__(self, path: Path, container: Any, damage: Damage, reason: str) -> None:
        super().__init__(path, container, 1)
        self._context.copy_opaque = True  # frames carry the number of their packet
        self._damage = damage
        self._reason = reason
        self._has_times = container.format.name != "avi"  # whose times are made up
        self._faults: list[float] = []  # numbers of packets, ascending; a half between two where data is lost
        self._due: dict[
            int, tuple[int | None, int]
        ] = {}  # pictures that have to come out: time, place when sent
        self._lost: dict[float, _Lost] = {}  # those that will not, until a frame after them is kept
        self._left_out: set[int] = (
            set()
        )  # packets whose pictures came out and were not kept, since the last that was
        self._keys: set[int] = set()
        self._first_key: int | None = None
        self._base = 0  # the last picture that nothing after it reaches beyond
        self._places = 0  # frames that came out
        self._shown: int | None = None  # time of the last of them
        self._cut: tuple[int, int | None] | None = None  # place, and lowest time of what was never read
        self._unread: int | None = None  # how many packets that is, where it is known
        self._told = False

    def images(self) -> Generator[NDArray[np.uint8], None, None]:
        """Yield the good frames, and tell `damage` of what is missing between them."""
        held: deque[_Out] = deque()
        for out in self._frames_with_numbers():
            held.append(out)
            # Whether a frame is good depends on the packets before its own: their pictures may still turn out bad.
            while held and all(number > held[0].number for number in self._due):
                yield from self._judged(held.popleft())
        for out in held:
            yield from self._judged(out)
        if self._lost:
            self._tell(len(self._lost))
        if self._cut is not None or not self._told:
            # Where nothing is known to be missing, the fault that was found before must still be told.
            self._tell(self._unread)

    def _frames_with_numbers(self) -> Iterator[_Out]:
        """Decode all packets."""
        for packet in self._packets():
            self.packets += 1
            packet.opaque = self.packets
            self._expect(packet)
            yield from self._out(packet)
        self._look_for_a_cut()
        if self._break is not None:  # behind all packets
            self._fail(self._break.reason)
        yield from self._out(None)
        for number in [*self._due]:
            self._lose(number)

    def _expect(self, packet: Any) -> None:
        """Take note of a packet before it is decoded."""
        number, time = self.packets, packet.pts
        if packet.is_corrupt:
            self._fault(number)
        if self._break is not None and packet.pos is not None and packet.pos >= self._break.position:
            self._break = None
            self._fault(number - 0.5)
            self._lost[number - 0.5] = _Lost(None, self._places)
        if packet.is_keyframe:
            self._keys.add(number)
            self._first_key = self._first_key or number
        if self._must_come_out(packet):
            # A time that is not after the last frame's is of no use: times have begun anew.
            is_later = time is not None and (self._shown is None or time > self._shown)
            self._due[number] = (time if is_later and self._has_times else None, self._places)

    def _out(self, packet: Any) -> Iterator[_Out]:
        """Decode one packet, or what is left in the decoder; a fault is noted."""
        try:
            frames = self._context.decode(packet)
        except self._av.error.EOFError:
            return
        except (self._av.error.FFmpegError, ValueError):
            if packet is not None:
                self._due.setdefault(self.packets, (None, self._places))
                self._lose(self.packets)
            return
        for frame in frames:
            number = frame.opaque if isinstance(frame.opaque, int) else self.packets
            self._places += 1
            self._due.pop(number, None)
            self._lost.pop(number, None)
            if frame.is_corrupt:
                self._fault(number)
            if not frame.interlaced_frame:  # whose packets may be half pictures
                begins_anew = self._is_key(number, frame)
                for other, (time, _) in [*self._due.items()]:
                    is_past = time is not None and frame.pts is not None and time < frame.pts
                    if is_past or other + _MOST_LATER < number or (begins_anew and other < number):
                        self._lose(other)
            if frame.pts is not None:
                self._shown = frame.pts
            yield _Out(number, self._places, frame)

    def _judged(self, out: _Out) -> Iterator[NDArray[np.uint8]]:
        """Yield the picture of a frame if it is good, and tell what is missing before it."""
        if not self._is_good(out):
            if out.number not in self._left_out:  # some decoders hand out one picture twice after a fault
                self._left_out.add(out.number)
                self._tell(1)
            return
        try:
            image = self._conversion.image(out.frame)
        except (self._av.error.FFmpegError, ValueError):
            self._fault(out.number)
            self._tell(1)
            return
        passed = [number for number, lost in self._lost.items() if _is_before(number, lost, out)]
        for number in passed:
            del self._lost[number]
        if passed:
            # Before the first key packet it is not known which packets had to give a picture, nor between two packets
            # how many there were.
            is_counted = self._first_key is not None and self._first_key <= min(passed)
            is_counted = is_counted and all(number == int(number) for number in passed)
            self._tell(len(passed) if is_counted else None)
        self._left_out.clear()
        yield image

    def _is_good(self, out: _Out) -> bool:
        """Return whether neither a frame nor anything that it may be predicted from is damaged."""
        number, time = out.number, out.frame.pts
        if self._cut is not None and out.place > self._cut[0]:  # pictures never read may stand before it
            limit = self._cut[1]
            if limit is None or time is None or not self._has_times or time >= limit:
                return False
        if self._is_faulty(number):
            return False
        if self._is_key(number, out.frame):
            self._base = max(self._base, number)
            self._keys = {key for key in self._keys if key > number}
            return True
        if number < self._base:
            return not self._faults or self._faults[0] > self._base
        after = bisect.bisect_left(self._faults, self._base)
        if after < len(self._faults) and self._faults[after] <= number:
            return False
        # Decoded before a fault and shown after it was found: before or after the picture that is lost?
        return all(
            lost.time is not None and time is not None
            for other, lost in self._lost.items()
            if other > number and lost.place < out.place
        )

    def _is_key(self, number: int, frame: Any) -> bool:
        """Return whether nothing that is shown after a frame, and decoded after it, reaches back beyond it."""
        return bool(
            number in self._keys
            and frame.key_frame
            and int(frame.pict_type) in _UNPREDICTED
            and not frame.is_corrupt
            and not self._is_faulty(number)
        )

    def _is_faulty(self, number: float) -> bool:
        """Return whether a packet is known to be damaged."""
        place = bisect.bisect_left(self._faults, number)
        return place < len(self._faults) and self._faults[place] == number

    def _lose(self, number: int) -> None:
        """Note that the picture of a packet will not come out."""
        self._fault(number)
        self._lost[number] = _Lost(*self._due.pop(number))

    def _fault(self, number: float) -> None:
        """Note a damaged packet, or a loss before the packet that follows."""
        if not self._is_faulty(number):
            bisect.insort(self._faults, number)

    def _fail(self, reason: str, pts: int | None = None) -> None:
        """Note that the file ends before its time, as the container says; all that is read later is decoded already."""
        self._cut = self._cut or (self._places, pts)
        if pts is not None:  # the index names every packet
            self._unread = len(self._stream.index_entries) - self.packets or None

    def _tell(self, missing: int | None) -> None:
        """Tell that pictures are missing before the next frame; None if it is not known how many."""
        self._told = True
        self._damage.lost(self._reason, missing)


def _is_before(number: float, lost: _Lost, out: _Out) -> bool:
    """Return whether a lost picture is shown before a frame."""
    if lost.place >= out.place:
        return False
    if number < out.number:
        return True
    return lost.time is not None and out.frame.pts is not None and lost.time < out.frame.pts
