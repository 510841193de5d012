"""Lists and tables as people's editors leave them, and the videos that their rows mean."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from twostream.data.groups import without_suffix
from twostream.errors import DataError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Not str.splitlines: it also breaks at characters that may be part of a file's name, such as U+2028.
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_text(path: Path) -> str:
    """Read a text file: UTF-8 with or without a byte-order mark, or UTF-16 with one; bytes that are neither are kept.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_UTF16):
            return data.decode("utf-16")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected a text file in UTF-8") from error
    return data.decode("utf-8-sig", errors="surrogateescape")


def read_rows(path: Path) -> list[tuple[int, str]]:
    """Read the rows of a text file that are not blank, with their line numbers; lines may end as on any system."""
    lines = enumerate(_LINE_END.split(read_text(path)), 1)
    return [(number, row.strip()) for number, row in lines if row.strip()]


def list_entries(folder: Path) -> list[Path]:
    """List a folder of lists, sorted; DataError if it is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder of the official split lists")
    return sorted(folder.iterdir())


class VideoFinder:
    """Find the videos that lists mean, whose suffix and case may differ from those on disk.

    UCF-101, for one, has its HandstandPushups both as that and as HandStandPushups.

    Args:
        videos: the paths that exist, by the name that lists may give them.
    """

    def __init__(self, videos: Mapping[str, str]) -> None:
        self._exact = {without_suffix(name): path for name, path in videos.items()} | dict(videos)
        folded = Counter(without_suffix(name).casefold() for name in videos)
        # Where two files differ in case alone, a list means the one that it spells.
        self._folded = {
            key: path for name, path in videos.items() if folded[key := without_suffix(name).casefold()] == 1
        }

    def find(self, listed: str) -> str | None:
        """Return the path of a listed video; None if it does not exist."""
        name = PurePosixPath(listed).as_posix()
        for key in (name, without_suffix(name)):
            if key in self._exact:
                return self._exact[key]
        return self._folded.get(without_suffix(name).casefold())


def finder_of(videos: Iterable[str]) -> VideoFinder:
    """Make a finder of videos by their paths."""
    return VideoFinder({video: video for video in videos})
