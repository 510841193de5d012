"""The record of a split: what it keeps, and that it survives a checkpoint."""

from pathlib import Path

import pytest
import torch

from twostream.data.annotations import VideoRecord
from twostream.data.record import RecordedVideo, SplitRecord
from twostream.data.splits import Split
from twostream.errors import DataError

TRAIN = (VideoRecord("b/2.avi", 1, "f"), VideoRecord("a/1.avi", 0, "e"))
SPLIT = Split(
    TRAIN, (VideoRecord("a/3.avi", 0, "g"),), (VideoRecord("a/caf\udce9.avi", 0, "f"),), "by hand", ("n",)
)
CONTENTS = {"b/2.avi": "22", "a/3.avi": "33", "a/caf\udce9.avi": "44"}


@pytest.fixture
def record() -> SplitRecord:
    return SplitRecord.of(SPLIT, ("a", "b"), "films", CONTENTS, ("n",), ("c/5.avi",))


def test_a_record_survives_a_checkpoint(record: SplitRecord, tmp_path: Path) -> None:
    torch.save(record.to_plain(), tmp_path / "a.ckpt")
    plain = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert SplitRecord.from_plain(plain) == record
    assert plain["sha256"] == ["22", "", "33", "44"]


def test_a_record_gives_its_split_back_and_names_shared_sources(record: SplitRecord) -> None:
    split = record.split()
    assert (split.train, split.validation, split.test) == (SPLIT.train, SPLIT.validation, SPLIT.test)
    assert split.shared_sources == {"a/caf\udce9.avi"}


def test_unknown_contents_are_filled_in_and_known_ones_stay(record: SplitRecord) -> None:
    filled = record.with_contents({"a/1.avi": "11", "b/2.avi": "other"})
    assert [video.sha256 for video in filled.videos] == ["22", "11", "33", "44"]


def test_the_validation_side_can_join_the_training_side(record: SplitRecord) -> None:
    whole = record.all_for_training("all")
    assert [video.path for video in whole.side("train")] == ["a/1.avi", "a/3.avi", "b/2.avi"]
    assert whole.split().validation == ()
    assert whole.split().test == SPLIT.test
    assert whole.notes == ("n", "all")


def test_what_was_seen_before_stays_seen(record: SplitRecord) -> None:
    seen = VideoRecord("a/9.avi", 0, "z")
    earlier = SplitRecord(
        ("a", "b"),
        (RecordedVideo(seen, "train", "99"), RecordedVideo(VideoRecord("b/8.avi", 0, "y"), "test", "88")),
        "another",
        "films",
    )
    both = record.after(earlier)
    assert both.sides() == record.sides()
    assert both.side("before") == (RecordedVideo(seen, "before", "99"),)
    found = both.find_seen([VideoRecord("x.avi", 0, "x"), VideoRecord("y.avi", 0, "z")], {"x.avi": "99"})
    assert [str(video) for video in found] == ["x.avi (same content as a/9.avi)", "y.avi (source z)"]
    assert record.after(earlier).after(both) == both


@pytest.mark.parametrize(
    "change", [{"path": ["one"]}, {"side": ["nowhere"] * 4}, {"label": [0, 1, 2, 0]}, {"notes": None}]
)
def test_a_damaged_record_is_refused(record: SplitRecord, change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="the record of the split is damaged"):
        SplitRecord.from_plain({**record.to_plain(), **change})
