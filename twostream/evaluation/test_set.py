"""The videos that a checkpoint is evaluated on: the split it was trained under, or a new test set held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flow_cache import as_path, read_index
from twostream.checkpoints import Checkpoint
from twostream.data.annotations import list_videos
from twostream.data.changes import read_contents
from twostream.data.loading import VideoData, load_data
from twostream.data.record import SeenVideo, SplitRecord, describe_seen
from twostream.data.settings import DataConfig
from twostream.errors import CheckpointError
from twostream.settings import Part, StreamName


def load_test_set(checkpoint: Checkpoint, config: DataConfig, part: Part) -> VideoData:
    """Find the videos to evaluate a checkpoint on.

    With the settings of its training it is the split of its training, whatever has come or gone since; so it is with
    another root or cache where most of the split's videos are, with the same names and content, and no others. Other
    settings make a new test set: by the lists or the split that they name, or else of all videos of the other root.

    Args:
        checkpoint: the trained model.
        config: the data settings.
        part: side of the split.

    Raises:
        CheckpointError: the new test set has classes that the checkpoint does not know.
        DataError: as `load_data`.
    """
    card, record = checkpoint.card, checkpoint.card.split
    streams: Sequence[StreamName] = card.model.streams
    if record is None:  # of an earlier version
        return load_data(config, streams)
    trained = card.data_config()
    elsewhere = _place(config) != _place(trained)
    same_rules = _rules(config) == _rules(trained)
    if same_rules and (not elsewhere or _holds(config, record)):
        return load_data(config, streams, record=record, parts=_needed(part, streams))
    if elsewhere and config.name == trained.name:
        config = replace(config, name="")
    whole = config.split == trained.split
    return _with_classes(load_data(config, streams, parts=(part,), test_only=whole), checkpoint)


def _place(config: DataConfig) -> str | None:
    """Return where the videos are listed."""
    return config.root or config.cache


def _rules(config: DataConfig) -> tuple[object, ...]:
    """Return all settings that decide which of them is on which side."""
    return config.lists, config.format, config.groups, config.split


def _needed(part: Part, streams: Sequence[StreamName]) -> tuple[Part, ...]:
    """Return the sides that are read: with the test side that on which the weighted fusion is fitted, too."""
    return ("test", "validation") if part == "test" and len(streams) > 1 else (part,)


def _holds(config: DataConfig, record: SplitRecord) -> bool:
    """Tell whether nothing but most videos of a split are there: a data set that was moved, perhaps not whole."""
    cache = as_path(config.cache) if config.cache else None
    if cache is None or not cache.is_dir():
        return False
    index = {entry.video: entry for entry in read_index(cache)}
    listed = list_videos(as_path(config.root)) if config.root else list(index)
    known = {video.path: video.sha256 for video in record.side("train", "validation", "test")}
    if set(listed) - set(known) - set(record.others):
        return False
    found = read_contents(cache, [index[path] for path in known if path in index])
    same = [path for path, content in found.items() if content == known[path] or "" in (content, known[path])]
    return len(same) == len(found) and 2 * len(same) > len(known)


def _with_classes(videos: VideoData, checkpoint: Checkpoint) -> VideoData:
    """Number the classes of a new test set as the checkpoint does; it may lack some."""
    classes = checkpoint.card.classes
    if set(videos.classes) - set(classes):
        checkpoint.require_classes(videos.classes)
    numbers = [classes.index(name) for name in videos.classes]
    split = videos.split.changed(
        lambda _, members: (replace(video, label=numbers[video.label]) for video in members)
    )
    lacking = [name for name in classes if name not in videos.classes]
    notes = videos.notes
    if lacking:
        notes = (*notes, f"No videos for {len(lacking)} of {len(classes)} classes: {', '.join(lacking)}.")
    return replace(videos, classes=classes, split=split, notes=notes)


@dataclass(frozen=True)
class Comparison:
    """How the videos of an evaluation stand to what its checkpoint has seen.

    Attributes:
        seen: those that it has.
        own: they are a side of the checkpoint's own split.
        note: a sentence for the report; empty if there is nothing to say.
    """

    seen: tuple[SeenVideo, ...]
    own: bool
    note: str = ""


def compare_with_training(checkpoint: Checkpoint, videos: VideoData, part: Part) -> Comparison:
    """Find out which videos of a side the checkpoint was trained or validated on, by name, content and source group."""
    record = checkpoint.card.split
    if record is None:
        note = (
            "The checkpoint is of an earlier version, which did not record the videos of its training: whether some of"
            " them are among these is not known."
        )
        return Comparison((), own=True, note=note)
    evaluated = getattr(videos.split, part)
    found = record.find_seen(evaluated, videos.contents)
    own = videos.record.sides() == record.sides()
    unknown = sum(not videos.contents.get(video.path) for video in evaluated)
    unknown_seen = sum(not video.sha256 for video in record.seen)
    note = ""
    if not own and (unknown or unknown_seen):
        note = (
            f"The content of {unknown} of these {len(evaluated)} videos and of {unknown_seen} of the {len(record.seen)}"
            " that the checkpoint has seen is not known: copies among them under other names were not looked for."
        )
    return Comparison(tuple(found), own, note)


def require_unseen(checkpoint: Checkpoint, comparison: Comparison, total: int, part: Part) -> None:
    """Refuse an evaluation on videos that the checkpoint has seen, unless they are asked for as what they are.

    The training or validation side of the checkpoint's own split is: it goes by that name.

    Raises:
        CheckpointError: some of the videos were seen.
    """
    if comparison.seen and not (comparison.own and part != "test"):
        raise CheckpointError(
            f"{checkpoint.path} was trained or validated on {len(comparison.seen)} of these {total} videos, or on other"
            f" clips of their sources ({describe_seen(comparison.seen)}); give videos that it has not seen, or"
            " --allow-seen to evaluate them all the same, which every report then says"
        )
