"""On which videos a checkpoint may be evaluated, and what is said of those that it has seen."""

from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flow_cache import CacheMeta, CacheWriter, Source, StorageSettings, cache_path, rebuild_index
from twostream.checkpoints import Checkpoint, ModelCard
from twostream.data.loading import VideoData, all_for_training, load_data
from twostream.data.settings import DataConfig, SplitConfig
from twostream.errors import CheckpointError, DataError
from twostream.evaluation.test_set import compare_with_training, load_test_set, require_unseen
from twostream.models.settings import ModelConfig

CLASSES = ("fly", "run", "sit")
VIDEOS = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in CLASSES for group in range(1, 7)]


class Folder:
    """A folder of videos and its flow cache; a video's content is a text."""

    def __init__(self, place: Path) -> None:
        self.root, self.cache = place / "videos", place / "cache"

    def add(self, video: str, content: str = "", **settings: Any) -> None:
        content = content or video
        path = self.root / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        source = Source(video, len(content), sha256(content.encode()).hexdigest())
        made: dict[str, Any] = {
            "method": "farneback",
            "parameters": {"winsize": 15},
            "bound": 20.0,
            **settings,
        }
        meta = CacheMeta(source=source, storage=StorageSettings("png"), **made)
        with CacheWriter(cache_path(self.cache, video), meta) as writer:
            writer.add_flow(np.full((5, 2, 16, 16), 128, np.uint8))

    def remove(self, video: str, *, cached: bool = True) -> None:
        (self.root / video).unlink()
        if cached:
            cache_path(self.cache, video).unlink()

    def config(self, **settings: Any) -> DataConfig:
        rebuild_index(self.cache)
        return DataConfig(str(self.root), str(self.cache), **{"stack": 2, "workers": 0, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "own")
    for video in VIDEOS:
        made.add(video)
    return made


@pytest.fixture
def other(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "other")


def checkpoint_of(config: DataConfig, videos: VideoData | None = None, **model: Any) -> Checkpoint:
    """The checkpoint of a training with these settings, without weights."""
    videos = load_data(config, ("flow",)) if videos is None else videos
    settings = ModelConfig(
        **{"streams": ["flow"], "backbone": "mobilenet_v3_small", "weights": "none", **model}
    )
    card = ModelCard(
        videos.classes,
        settings,
        asdict(config),
        dict(videos.flow),
        videos.bound,
        config.stack,
        0,
        videos.record,
    )
    return Checkpoint(Path("best.ckpt"), ModelCard.from_plain(card.to_plain()), 1, {})


def paths(videos: VideoData, part: str = "test") -> list[str]:
    return [video.path for video in getattr(videos.split, part)]


def refusal(checkpoint: Checkpoint, config: DataConfig, part: Any = "test") -> str:
    videos = load_test_set(checkpoint, config, part)
    with pytest.raises(CheckpointError) as caught:
        require_unseen(checkpoint, compare_with_training(checkpoint, videos, part), len(paths(videos)), part)
    assert "\n" not in str(caught.value)
    assert "--allow-seen" in str(caught.value)
    return str(caught.value)


def accepted(checkpoint: Checkpoint, config: DataConfig, part: Any = "test") -> VideoData:
    videos = load_test_set(checkpoint, config, part)
    require_unseen(
        checkpoint, compare_with_training(checkpoint, videos, part), len(paths(videos, part)), part
    )
    return videos


# --- the checkpoint's own split --------------------------------------------------------------------------------------


def test_videos_that_come_and_go_are_named_and_decide_nothing(folder: Folder) -> None:
    config = folder.config()
    before = load_data(config, ("flow",))
    checkpoint = checkpoint_of(config)
    test = paths(before)
    gone, moved, kept = test[0], test[1], test[2:]
    folder.remove(gone)
    folder.remove(moved, cached=False)
    for group in range(7, 10):
        folder.add(f"run/v_run_g{group:02d}_c01.avi")
    after = accepted(checkpoint, folder.config())
    assert paths(after) == [moved, *kept]
    assert after.classes == before.classes
    assert f"Gone since the split was made: 1 video (1 of test), {gone}." in after.notes
    assert f"No longer below {folder.root}, read from the flow cache: 1 video, {moved}." in after.notes
    assert any(
        note.startswith("Came since the split was made, on no side of it: 3 videos, run/v_run_g07")
        for note in after.notes
    )


def test_a_class_that_is_gone_from_the_test_side_stays_a_class(folder: Folder) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    for video in VIDEOS:
        if video.startswith("fly/"):
            folder.remove(video)
    after = accepted(checkpoint, folder.config())
    assert after.classes == CLASSES
    assert {video.label for video in after.split.test} == {1, 2}
    assert any("Gone since the split was made: 6 videos (" in note for note in after.notes)


def test_training_goes_on_with_the_split_it_was_begun_with(folder: Folder) -> None:
    config = folder.config()
    before = load_data(config, ("flow",))
    for video in (paths(before)[0], paths(before, "train")[0]):
        folder.remove(video)
    folder.add("sit/v_sit_g07_c01.avi")
    after = load_data(folder.config(), ("flow",), record=before.record)
    assert set(paths(after, "train")) == set(paths(before, "train")[1:])
    assert set(paths(after)) == set(paths(before)[1:])
    assert after.record == before.record
    for video in paths(before, "train"):
        if video.startswith("sit/") and (folder.root / video).exists():
            folder.remove(video)
    with pytest.raises(DataError, match=r"Gone since the split was made: .* no training videos for sit"):
        load_data(folder.config(), ("flow",), record=before.record)


def test_a_side_without_any_video_left_is_refused(folder: Folder) -> None:
    checkpoint = checkpoint_of(folder.config())
    for video in paths(load_data(folder.config(), ("flow",))):
        folder.remove(video)
    with pytest.raises(DataError, match="That leaves no test videos"):
        load_test_set(checkpoint, folder.config(), "test")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_its_own_training_sides_go_by_their_name(folder: Folder, part: Any) -> None:
    checkpoint = checkpoint_of(folder.config())
    videos = accepted(checkpoint, folder.config(), part)
    seen = compare_with_training(checkpoint, videos, part).seen
    assert [video.path for video in seen] == paths(videos, part)


def test_a_moved_data_set_is_the_same_one(folder: Folder, other: Folder) -> None:
    checkpoint = checkpoint_of(folder.config())
    test = paths(load_data(folder.config(), ("flow",)))
    for video in VIDEOS[:-1]:
        other.add(video)
    assert paths(accepted(checkpoint, other.config())) == [video for video in test if video in VIDEOS[:-1]]
    other.add(VIDEOS[0], "another content")
    assert "by name" in refusal(checkpoint, other.config())


def test_a_test_video_that_was_replaced_is_named_and_by_a_training_video_refused(folder: Folder) -> None:
    config = folder.config()
    videos = load_data(config, ("flow",))
    checkpoint = checkpoint_of(config)
    test, train = paths(videos)[0], paths(videos, "train")[0]
    folder.add(test, "something new")
    after = accepted(checkpoint, folder.config())
    assert f"Another file than when the split was made: 1 video, {test}." in after.notes
    folder.add(test, train)
    assert f"{test} (same content as {train})" in refusal(checkpoint, folder.config())


def test_the_record_of_a_last_training_on_all_videos_says_so(folder: Folder) -> None:
    config = folder.config()
    whole = all_for_training(load_data(config, ("flow",)))
    checkpoint = checkpoint_of(config, whole)
    record = checkpoint.card.split
    assert record is not None
    assert not record.side("validation")
    assert len(record.side("train")) == len(VIDEOS) - len(record.side("test"))
    videos = accepted(checkpoint, config)
    assert paths(videos) == paths(whole)
    assert "validation side included" in videos.notes[-1]
    with pytest.raises(DataError, match="no validation videos"):
        load_test_set(checkpoint, config, "validation")


# --- new test sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split",
    [SplitConfig(seed=3), SplitConfig(kind="kfold", folds=3), SplitConfig(test_fraction=0.5)],
    ids=str,
)
def test_another_split_of_the_same_videos_is_refused_with_the_names_that_were_seen(
    folder: Folder, split: SplitConfig
) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    record = load_data(config, ("flow",)).record
    seen = {video.path for video in record.side("train", "validation")} & set(
        paths(load_data(replace(config, split=split), ("flow",)))
    )
    assert seen
    message = refusal(checkpoint, replace(config, split=split))
    assert f"best.ckpt was trained or validated on {len(seen)} of these" in message
    assert f"{len(seen)} by name: " in message
    assert message.partition("by name: ")[2].split(",")[0] in seen


def write_lists(folder: Path) -> Path:
    """Official lists of two splits, as UCF-101's: other groups are tested in each."""
    folder.mkdir()
    for number, tested in ((1, ("g01", "g02")), (2, ("g03", "g04"))):
        for name, chosen in (("test", True), ("train", False)):
            rows = [video for video in VIDEOS if (video.split("_")[2] in tested) == chosen]
            (folder / f"{name}list{number:02d}.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_another_official_split_is_refused(folder: Folder, tmp_path: Path) -> None:
    config = folder.config(lists=str(write_lists(tmp_path / "lists")))
    checkpoint = checkpoint_of(config)
    assert len(paths(accepted(checkpoint, config))) == 6
    message = refusal(checkpoint, replace(config, split=SplitConfig(number=2)))
    assert "6 of these 6 videos" in message
    assert "fly/v_fly_g03_c01.avi" in message


def test_other_lists_are_a_new_test_set(folder: Folder, tmp_path: Path) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    test = paths(load_data(config, ("flow",)))
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{path},{path.split('/')[0]}\n" for path in test))
    assert paths(accepted(checkpoint, replace(config, lists=str(table)))) == test
    with table.open("a") as file:
        file.write("".join(f"{path},{path.split('/')[0]}\n" for path in VIDEOS if path not in test))
    assert "of these 18 videos" in refusal(checkpoint, replace(config, lists=str(table)))


def test_new_data_are_tested_whole_under_the_numbers_of_the_checkpoints_classes(
    folder: Folder, other: Folder
) -> None:
    checkpoint = checkpoint_of(folder.config())
    new = [f"{name}/v_new_g{number + 70}_c01.avi" for name in ("run", "sit") for number in range(3)]
    for video in new:
        other.add(video)
    videos = accepted(checkpoint, other.config())
    assert paths(videos) == new
    assert [video.label for video in videos.split.test] == [1, 1, 1, 2, 2, 2]
    assert (videos.name, videos.classes) == ("videos", CLASSES)
    assert "No videos for 1 of 3 classes: fly." in videos.notes
    assert not compare_with_training(checkpoint, videos, "test").note
    unknown = replace(videos, contents={new[0]: "0f"})
    assert "content of 5 of these 6 videos" in compare_with_training(checkpoint, unknown, "test").note
    other.add("swim/v_new_g90_c01.avi")
    with pytest.raises(CheckpointError, match="only in the data: swim"):
        load_test_set(checkpoint, other.config(), "test")


def test_seen_videos_are_found_by_name_by_content_and_by_source(folder: Folder, other: Folder) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    seen = [video.path for video in load_data(config, ("flow",)).record.side("train", "validation")]
    unseen = paths(load_data(config, ("flow",)))
    group = seen[2].rpartition("_c01")[0].rpartition("/")[2]
    other.add(seen[0], "other content")
    other.add("run/v_film_g77_c01.avi", seen[1])
    other.add("run/v_film_g77_c02.avi")  # another clip of what is now called film_g77
    other.add(f"{seen[2].split('/')[0]}/{group}_c02.avi")
    other.add("sit/v_film_g88_c01.avi")
    other.add("fly/v_film_g99_c01.avi", unseen[0])  # of the test side, under another name
    message = refusal(checkpoint, other.config())
    assert "4 of these 6 videos" in message
    assert f"1 by name: {seen[0]};" in message
    assert f"1 by content under another name: run/v_film_g77_c01.avi (same content as {seen[1]});" in message
    assert "2 by another clip of their source: " in message
    assert "run/v_film_g77_c02.avi (source " in message


def test_sources_that_a_split_shares_under_other_classes_are_not_refused_as_its_own_test(
    folder: Folder,
) -> None:
    config = folder.config(groups=r"_(g\d+)_", lists=None, split=SplitConfig(kind="group", leakage="report"))
    table = folder.root.parent / "table.csv"
    rows = [
        f"{path},{path.split('/')[0]},{'train' if path != VIDEOS[0] else 'test'}"
        for path in VIDEOS[:1] + VIDEOS[6:]
    ]
    rows += [f"{path},fly,train" for path in VIDEOS[1:6]]
    table.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    config = replace(config, lists=str(table), split=SplitConfig(leakage="report", val_fraction=0))
    checkpoint = checkpoint_of(config)
    videos = accepted(checkpoint, config)
    assert videos.split.shared_sources == {VIDEOS[0]}


# --- one file on two sides, other clips, other flow ------------------------------------------------------------------


def test_one_file_under_two_names_is_not_split(folder: Folder) -> None:
    videos = load_data(folder.config(), ("flow",))
    test, train = paths(videos)[0], paths(videos, "train")[0]
    folder.add(test, train)
    with pytest.raises(DataError, match=rf"1 test videos are the same file .*{test} and {train}"):
        load_data(folder.config(), ("flow",))
    kept = load_data(folder.config(split=SplitConfig(leakage="report")), ("flow",))
    assert kept.split.shared_sources == {test}
    assert kept.notes[-1].startswith("1 test videos are the same file")


def test_stacks_of_another_length_are_refused(folder: Folder) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    checkpoint.require_clips(config)
    with pytest.raises(CheckpointError, match=r"takes stacks of 2 flow fields, got data\.stack 3"):
        checkpoint.require_clips(replace(config, stack=3))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bound": 15.0}, "bound 15.0 (trained with: 20.0)"),
        ({"step": 2}, "step 2 (trained with: 1)"),
        ({"size": (16, 16)}, "size [16, 16] (trained with: None)"),
        ({"short_side": 16}, "short_side 16 (trained with: None)"),
        ({"parameters": {"winsize": 9}}, "winsize 9 (trained with: 15)"),
        ({"method": "tvl1", "parameters": {"tau": 0.25}}, "method tvl1 (trained with: farneback);"),
    ],
)
def test_flow_made_with_other_settings_is_refused(
    folder: Folder, other: Folder, settings: dict[str, Any], named: str
) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    for video in VIDEOS:
        other.add(video, **settings)
    elsewhere = replace(config, cache=other.config().cache)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.require_flow(load_test_set(checkpoint, elsewhere, "test").flow)
    assert named in str(caught.value)
    checkpoint.require_flow(load_test_set(checkpoint, config, "test").flow)


def test_flow_does_not_matter_to_a_stream_that_does_not_read_it(folder: Folder) -> None:
    checkpoint = checkpoint_of(folder.config(), streams=["rgb"], spatial="average")
    flow = load_data(folder.config(), ("flow",)).flow
    checkpoint.require_flow({**flow, "bound": 3.0, "method": "tvl1"})
    with pytest.raises(CheckpointError, match="step 2"):
        checkpoint.require_flow({**flow, "step": 2})


def test_a_checkpoint_of_an_earlier_version_is_evaluated_and_that_it_was_not_compared_is_said(
    folder: Folder,
) -> None:
    config = folder.config()
    checkpoint = checkpoint_of(config)
    early = replace(checkpoint, card=replace(checkpoint.card, split=None))
    videos = load_test_set(early, config, "test")
    comparison = compare_with_training(early, videos, "test")
    assert not comparison.seen
    assert "did not record the videos of its training" in comparison.note
