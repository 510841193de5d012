from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from twostream.data.annotations import Annotations, OfficialSplit, VideoRecord, list_videos, load_annotations
from twostream.data.settings import SplitConfig
from twostream.data.splits import hold_out_groups, make_split
from twostream.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"


def annotate(videos, official=None):
    """Annotations of (label, group) pairs, named in order."""
    records = tuple(
        VideoRecord(f"c{label}/{i:03d}.avi", label, group) for i, (label, group) in enumerate(videos)
    )
    classes = tuple(f"c{label}" for label in range(max(label for label, _ in videos) + 1))
    parts = {}
    if official:
        parts = {1: OfficialSplit("list 1", {r.path: p for r, p in zip(records, official, strict=True) if p})}
    return Annotations(classes, records, "made up", parts, ("A note.",))


def parts(split):
    return split.train, split.validation, split.test


def assert_sound(annotations, split):
    """What must hold of every split: a partition, by groups, with every class in training."""
    paths = [video.path for part in parts(split) for video in part]
    assert len(paths) == len(set(paths))
    groups = [{video.group for video in part} for part in parts(split)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert {video.label for video in split.train} == set(range(len(annotations.classes)))
    assert split.test


# Two classes or more, each with four sources or more of its own, and some sources that span classes.
data_sets = st.integers(2, 4).flatmap(
    lambda classes: st.tuples(
        st.lists(st.integers(1, 4), min_size=4 * classes, max_size=8 * classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, 2)), max_size=6),
    ).map(
        lambda drawn: (
            [(i % classes, f"own{i}") for i, count in enumerate(drawn[0]) for _ in range(count)]
            + [(label, f"shared{group}") for label, group in drawn[1]]
        )
    )
)


@settings(deadline=None, max_examples=60)
@given(data_sets, st.integers(0, 3), st.floats(0.15, 0.5), st.floats(0.1, 0.4))
def test_group_splits_are_sound_and_deterministic(videos, seed, test_fraction, val_fraction):
    annotations = annotate(videos)
    config = SplitConfig(kind="group", test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)
    try:
        split = make_split(annotations, config)
    except DataError as error:  # too few or too large sources are left
        assume("for validation" not in str(error))
        raise
    assert_sound(annotations, split)
    assert {v.label for v in split.test} == set(range(len(annotations.classes)))
    assert sum(map(len, parts(split))) == len(videos)
    assert make_split(annotations, config) == split
    shuffled = replace(annotations, videos=tuple(reversed(annotations.videos)))
    again = make_split(shuffled, config)
    assert [set(part) for part in parts(again)] == [set(part) for part in parts(split)]


@settings(deadline=None, max_examples=25)
@given(data_sets, st.integers(0, 3))
def test_folds_are_sound_and_cover_every_video_once(videos, seed):
    annotations = annotate(videos)
    tested = defaultdict(int)
    for fold in (1, 2, 3):
        config = SplitConfig(kind="kfold", folds=3, fold=fold, val_fraction=0, seed=seed)
        try:
            split = make_split(annotations, config)
        except DataError as error:
            assume("no training videos" not in str(error) and "in a class" not in str(error))
            raise
        assert_sound(annotations, split)
        for video in split.test:
            tested[video.path] += 1
    assert tested == {video.path: 1 for video in annotations.videos}


def test_equal_groups_are_held_out_at_the_fraction_asked_for():
    annotations = annotate(
        [(label, f"g{g}_{label}") for label in range(3) for g in range(8) for _ in range(3)]
    )
    split = make_split(annotations, SplitConfig(kind="group", test_fraction=0.25, val_fraction=1 / 6))
    for part, expected in zip(parts(split), (15, 3, 6), strict=True):
        assert [sum(v.label == label for v in part) for label in range(3)] == [expected] * 3
    assert split.notes == ("A note.",)


def test_seeds_change_the_groups_and_validation_does_not_touch_the_test():
    annotations = annotate([(label, f"g{g}_{label}") for label in range(3) for g in range(8)])
    base = SplitConfig(kind="group")
    assert len({make_split(annotations, replace(base, seed=seed)).test for seed in range(5)}) > 1
    assert make_split(annotations, base).test == make_split(annotations, replace(base, val_fraction=0.3)).test
    without = make_split(annotations, replace(base, val_fraction=0))
    assert without.validation == ()


def test_a_class_of_one_source_stays_in_training_and_is_noted():
    annotations = annotate([(0, "a"), (0, "a"), *[(1, f"b{i}") for i in range(8)]])
    split = make_split(annotations, SplitConfig(kind="group"))
    assert {v.label for v in split.test} == {1}
    assert "No test videos for 1 of 2 classes: c0." in split.notes
    assert "No validation videos for 1 of 2 classes: c0." in split.notes


def test_the_cheapest_groups_cover_classes_of_few_sources():
    held_out = hold_out_groups(
        annotate([(0, "a"), (0, "b"), *[(1, f"c{i}") for i in range(10)]]).videos, 0.2, 0
    )
    assert not held_out & {"a", "b"}
    covered = hold_out_groups(
        annotate([(0, "a"), (0, "b"), *[(1, f"c{i}") for i in range(10)]]).videos, 0.2, 0, cover=True
    )
    assert len(covered & {"a", "b"}) == 1
    assert len(covered) == 3


OFFICIAL = [(0, "a"), (0, "b"), (0, "c"), (1, "d"), (1, "e"), (1, "f")]


def test_official_parts_are_kept():
    annotations = annotate(OFFICIAL, ["train", "validation", "test", "train", "validation", "test"])
    split = make_split(annotations)
    assert [[v.group for v in part] for part in parts(split)] == [["a", "d"], ["b", "e"], ["c", "f"]]
    assert split.name == "list 1"
    assert split.shared_sources == frozenset()


def test_unlisted_videos_stay_out_and_validation_comes_from_training():
    annotations = annotate(OFFICIAL, ["train", "train", "test", "train", "train", None])
    split = make_split(annotations, SplitConfig(val_fraction=0.5))
    assert [len(part) for part in parts(split)] == [2, 2, 1]
    assert "No test videos for 1 of 2 classes: c1." in split.notes


def test_a_shared_source_of_different_classes_is_refused_or_reported():
    videos = [(0, "film"), (0, "x"), (0, "y"), (1, "film"), (1, "z"), (1, "film")]
    annotations = annotate(videos, ["train", "train", "test", "test", "train", "test"])
    config = SplitConfig(kind="official", val_fraction=0)
    with pytest.raises(DataError, match=r"1 source groups .*such as film .*leakage=report"):
        make_split(annotations, config)
    split = make_split(annotations, replace(config, leakage="report"))
    assert split.shared_sources == {"c1/003.avi", "c1/005.avi"}
    assert split.notes[-1] == (
        "1 of 4 source videos have clips in training and test, never of the same class; "
        "this concerns 2 of 3 test clips."
    )


@pytest.mark.parametrize("leakage", ["refuse", "report"])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_shared_source_of_one_class_is_always_refused(leakage, part):
    annotations = annotate(
        [(0, "film"), (0, "film"), (0, "x"), (1, "y"), (1, "z")], [part, "test", "train", "train", "test"]
    )
    with pytest.raises(DataError, match="videos of one class in training and test, such as film"):
        make_split(annotations, SplitConfig(val_fraction=0, leakage=leakage))


def test_training_and_validation_never_share_a_source():
    annotations = annotate(
        [*OFFICIAL[:2], (0, "a"), *OFFICIAL[2:]], ["train", "test", "validation"] + ["train"] * 4
    )
    with pytest.raises(DataError, match="source groups a have videos in training and validation"):
        make_split(annotations, SplitConfig(leakage="report"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(kind="official", number=4), "no official split 4: expected one of 1"),
        (SplitConfig(test_fraction=0), "test_fraction is a share: got 0, expected more than 0"),
        (SplitConfig(val_fraction=1), "val_fraction is a share: got 1, expected 0 or more"),
        (SplitConfig(kind="kfold", folds=3, fold=4), "got fold 4 of 3"),
        (SplitConfig(kind="kfold", folds=1, fold=1), "got fold 1 of 1"),
        (SplitConfig(kind="kfold", folds=7), "7 folds need as many source groups"),
        (SplitConfig(val_fraction=0.1), "for validation without emptying a class"),
    ],
)
def test_unusable_settings_are_refused(config, message):
    annotations = annotate(OFFICIAL, ["train", None, "test", "train", None, "test"])
    # One source a class is left in training.
    with pytest.raises(DataError, match=message):
        make_split(annotations, config)


def test_parts_must_not_be_empty():
    with pytest.raises(DataError, match="list 1 has 6 training and 0 test videos"):
        make_split(annotate(OFFICIAL, ["train"] * 6))
    with pytest.raises(DataError, match="list 1: no training videos for c1"):
        make_split(annotate(OFFICIAL, ["train", "train", "test", "test", "test", "test"]))
    with pytest.raises(DataError, match="needs split lists"):
        make_split(annotate(OFFICIAL), SplitConfig(kind="official"))
    with pytest.raises(DataError, match=r"no source group can be held out .* 1 groups \(made up\)"):
        make_split(annotate([(0, "a"), (1, "a")]), SplitConfig(kind="group"))


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "jhmdb").is_dir(), reason="needs the clips of ../shared/data")
def test_jhmdb_shares_25_films_between_classes_and_none_within_one():
    annotations = load_annotations(list_videos(SHARED / "jhmdb"), lists=SHARED / "splits" / "hmdb51")
    with pytest.raises(DataError, match="25 source groups have videos of different classes"):
        make_split(annotations)
    split = make_split(annotations, SplitConfig(leakage="report"))
    assert len(split.train) + len(split.validation) == 650
    assert len(split.test) == 256
    assert {v.label for v in split.validation} == set(range(21))
    assert not {v.group for v in split.train} & {v.group for v in split.validation}
    assert any(note.startswith("25 of ") for note in split.notes)
    assert any(note.startswith("22 videos on disk") for note in split.notes)
    groups = {v.path: v.group for v in split.test}
    assert len({groups[path] for path in split.shared_sources}) == 25
    assert_sound(annotations, make_split(annotations, SplitConfig(kind="group")))
