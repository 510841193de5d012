"""What a run was trained, validated and tested on, as the run and each of its checkpoints keep it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from twostream.data.annotations import VideoRecord
from twostream.data.splits import Split
from twostream.errors import DataError, first_names

Side = Literal["train", "validation", "test", "before"]
"""A side of a split; `before` are videos that the checkpoints saw from which a training started."""

_SEEN = frozenset(get_args(Side)) - {"test"}


@dataclass(frozen=True)
class RecordedVideo:
    """Say how a video was used: under what name, label and source group, on what side, with what content.

    `sha256` is empty where the content is not known.
    """

    video: VideoRecord
    side: Side
    sha256: str = ""

    @property
    def path(self) -> str:
        """The video's name, relative to the data root."""
        return self.video.path

    @property
    def group(self) -> str:
        """The video's source group."""
        return self.video.group


@dataclass(frozen=True)
class SeenVideo:
    """Name a video that a checkpoint has seen, and how it was found: by name, by content, or by its source group.

    `known_as` is the name of the recorded video with the same content, or the source group.
    """

    path: str
    how: Literal["name", "content", "source"]
    known_as: str = ""

    def __str__(self) -> str:
        """Write the name, and what it was found by."""
        words = {
            "name": "",
            "content": f" (same content as {self.known_as})",
            "source": f" ({self.known_as})",
        }
        return self.path + words[self.how]


@dataclass(frozen=True)
class SplitRecord:
    """Hold a whole split with the content of its videos: what a run is held to, and what a checkpoint has seen.

    Attributes:
        classes: class names in the order of the labels.
        videos: those of every side.
        name: how the split was made, in words.
        group_rule: what a source group is, in words.
        notes: sentences for the report.
        others: names of videos that were found beside them and are on no side.
    """

    classes: tuple[str, ...]
    videos: tuple[RecordedVideo, ...]
    name: str
    group_rule: str
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        split: Split,
        classes: Sequence[str],
        group_rule: str,
        contents: Mapping[str, str],
        notes: Sequence[str] = (),
        others: Iterable[str] = (),
    ) -> SplitRecord:
        """Record a split; `contents` are the hashes of the videos by path."""
        sides: tuple[Side, ...] = ("train", "validation", "test")
        videos = tuple(
            RecordedVideo(video, side, contents.get(video.path, ""))
            for side in sides
            for video in getattr(split, side)
        )
        return cls(tuple(classes), videos, split.name, group_rule, tuple(notes), tuple(others))

    def side(self, *names: Side) -> tuple[RecordedVideo, ...]:
        """Return the videos of some sides, in order."""
        return tuple(video for video in self.videos if video.side in names)

    def split(self) -> Split:
        """Return the split, with the test videos whose source, or whose content, is in training or validation too."""
        sides = {
            name: tuple(recorded.video for recorded in self.side(name))
            for name in ("train", "validation", "test")
        }
        training = self.side("train", "validation")
        groups = {video.group for video in training}
        contents = {video.sha256 for video in training} - {""}
        shared = frozenset(
            video.path for video in self.side("test") if video.group in groups or video.sha256 in contents
        )
        return Split(**sides, name=self.name, notes=self.notes, shared_sources=shared)

    def sides(self) -> dict[str, Side]:
        """Return the side of each video by its path, those seen before left out."""
        return {video.path: video.side for video in self.videos if video.side != "before"}

    def with_contents(self, contents: Mapping[str, str]) -> SplitRecord:
        """Return the record with the contents that it does not know yet."""
        videos = (
            video if video.sha256 else replace(video, sha256=contents.get(video.path, ""))
            for video in self.videos
        )
        return replace(self, videos=tuple(videos))

    def all_for_training(self, note: str) -> SplitRecord:
        """Return the record of a training that takes the validation videos too, which the note says."""
        training = sorted(self.side("train", "validation"), key=lambda video: video.path)
        videos = [replace(video, side="train") for video in training]
        return replace(self, videos=(*videos, *self.side("test", "before")), notes=(*self.notes, note))

    def after(self, earlier: SplitRecord) -> SplitRecord:
        """Return the record of a training that starts from a checkpoint with another: it has seen its videos, too."""
        known = {video.path for video in self.seen}
        added = (replace(video, side="before") for video in earlier.seen if video.path not in known)
        return replace(self, videos=(*self.videos, *added))

    @property
    def seen(self) -> tuple[RecordedVideo, ...]:
        """The videos that weights or choices depend on: all that are not kept for the test."""
        return tuple(video for video in self.videos if video.side in _SEEN)

    def find_seen(self, videos: Iterable[VideoRecord], contents: Mapping[str, str]) -> list[SeenVideo]:
        """Find which videos were seen: under their name, under another one, or by way of another clip of their source.

        A video of the record's own test side is not: whether its source is in training was judged when the split was
        made. Other clips of a source of which one is found are seen, too, whatever that source is called now.

        Args:
            videos: the videos to be evaluated.
            contents: hashes of their content by path; a missing or empty one is not known.
        """
        seen = {video.path: video for video in self.seen}
        tested = {video.path: video for video in self.side("test") if video.path not in seen}
        by_content = {video.sha256: video.path for video in self.seen if video.sha256}
        groups = {video.group for video in self.seen}
        found: dict[str, SeenVideo] = {}
        rest = []
        for video in videos:
            content = contents.get(video.path, "")
            own = tested.get(video.path)
            if own and (content == own.sha256 or "" in (content, own.sha256)):
                continue
            if video.path in seen:
                found[video.path] = SeenVideo(video.path, "name")
            elif content in by_content:
                found[video.path] = SeenVideo(video.path, "content", by_content[content])
            else:
                rest.append(video)
                continue
            groups.add(video.group)
        for video in rest:
            if video.group in groups:
                found[video.path] = SeenVideo(video.path, "source", f"source {video.group}")
        return list(found.values())

    def words(self) -> dict[str, Any]:
        """Return, as plain values, all that is not said of single videos."""
        return {
            "classes": list(self.classes),
            "name": self.name,
            "group_rule": self.group_rule,
            "notes": list(self.notes),
            "others": list(self.others),
        }

    def to_plain(self) -> dict[str, Any]:
        """Return plain values: a list a column, which is small and quick to write for many videos."""
        columns: dict[str, list[Any]] = {
            field.name: [getattr(recorded.video, field.name) for recorded in self.videos]
            for field in fields(VideoRecord)
        }
        columns |= {name: [getattr(video, name) for video in self.videos] for name in ("side", "sha256")}
        return {**self.words(), **columns}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SplitRecord:
        """Rebuild a record from plain values.

        Raises:
            DataError: they are no record.
        """
        try:
            # A record of an earlier version lacks the fields of a video that are newer.
            names = [field.name for field in fields(VideoRecord) if field.name in plain]
            rows = zip(*(plain[name] for name in names), strict=True)
            described = [VideoRecord(**dict(zip(names, map(_immutable, row), strict=True))) for row in rows]
            columns = zip(described, plain["side"], plain["sha256"], strict=True)
            videos = tuple(RecordedVideo(*row) for row in columns)
            texts = (tuple(plain[name]) for name in ("notes", "others"))
            record = cls(tuple(plain["classes"]), videos, plain["name"], plain["group_rule"], *texts)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the record of the split is damaged ({error!r})") from error
        _check(record)
        return record


def _check(record: SplitRecord) -> None:
    for recorded in record.videos:
        label = recorded.video.label
        if recorded.side not in get_args(Side) or label not in range(len(record.classes)):
            raise DataError(
                f"the record of the split is damaged: {recorded.path} has side {recorded.side!r} and label {label}"
            )


def _immutable(value: Any) -> Any:
    """Return a value of a record as it was before it was written: with tuples in place of lists."""
    return tuple(map(_immutable, value)) if isinstance(value, list) else value


def describe_seen(seen: Sequence[SeenVideo], limit: int = 5) -> str:
    """Write how many videos were seen, how they were found, and the first names of each kind."""
    words = {
        "name": "by name",
        "content": "by content under another name",
        "source": "by another clip of their source",
    }
    found = {how: [video for video in seen if video.how == how] for how in words}
    return "; ".join(
        f"{len(found[how])} {text}: {first_names(found[how], limit)}"
        for how, text in words.items()
        if found[how]
    )
