"""What is known of the frames that were left out of a damaged video, and where they are missing."""

from __future__ import annotations

from dataclasses import dataclass

from flow_cache.errors import check_whole_number


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where frames are missing.

    Attributes:
        before: index of the frame before which they are missing; the number of frames, if they are missing at the end.
        missing: how many are missing; None if that cannot be known.

    Raises:
        ArgumentError: a number outside its range.

    Example:
        >>> from flow_cache import Gap
        >>> Gap(before=12, missing=1)  # frame 11 and frame 12 are not neighbours in the video
        Gap(before=12, missing=1)
    """

    before: int
    missing: int | None = None

    def __post_init__(self) -> None:
        check_whole_number("the frame after a gap", self.before, 0, 1 << 40)
        if self.missing is not None:
            check_whole_number("the frames missing in a gap", self.missing, 1, 1 << 40)


class Damage:
    """What `read_frames` leaves out of a damaged video. It is filled while the frames are read.

    Attributes:
        reason: what is wrong where the video is damaged first, in one line; None while no damage is known.
        gaps: where frames are missing, in order. That before a frame is there as soon as the frame is.

    Example:
        >>> import pathlib, tempfile
        >>> from flow_cache import Damage, read_frames
        >>> damage = Damage()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(4):
        ...         picture = b"P5 3 2 255 " + bytes(6) if number != 1 else b"damaged"
        ...         _ = pathlib.Path(folder, f"{number}.pgm").write_bytes(picture)
        ...     frames = list(read_frames(folder, damage=damage))
        >>> len(frames), damage.gaps, damage.reason
        (3, [Gap(before=1, missing=1)], 'frame 1: image 1.pgm cannot be decoded')
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.gaps: list[Gap] = []
        self._frames = 0
        self._lost: int | None = 0  # since the last frame; None: it is not known how many
        self._is_open = False

    def lost(self, reason: str, missing: int | None = 1) -> None:
        """Note that frames are missing before the next one; the first reason is kept."""
        self.reason = self.reason or reason
        self._is_open = True
        self._lost = None if None in (self._lost, missing) else (self._lost or 0) + (missing or 0)

    def kept(self) -> None:
        """Note the next frame."""
        self.end()
        self._frames += 1

    def end(self) -> None:
        """Note that no frame follows."""
        if self._is_open:
            self.gaps.append(Gap(self._frames, self._lost or None))
        self._lost, self._is_open = 0, False

    @property
    def is_after_gap(self) -> bool:
        """Whether frames are missing before the last frame that was noted."""
        return bool(self.gaps) and self.gaps[-1].before == self._frames - 1
