"""Formats of annotations beside HMDB's and UCF's lists, text files as editors leave them, and what is not on disk."""

import codecs
import random
import warnings
from collections import Counter
from pathlib import Path

import pytest

from twostream.data.annotations import list_videos, load_annotations, read_annotations
from twostream.data.settings import DataConfig, SplitConfig
from twostream.data.splits import make_split
from twostream.errors import DataError, DataWarning

SHARED = Path(__file__).parents[4] / "shared" / "data"
SPLITS = SHARED / "splits"
real_lists = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SPLITS.is_dir(), reason="needs the lists of ../shared/data"),
]


def with_marks(*marks):
    def mark(test):
        for one in marks:
            test = one(test)
        return test

    return mark


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def counts(annotations, number=1):
    found = Counter(annotations.official[number].parts.values())
    return found["train"], found["validation"], found["test"]


UCF_VIDEOS = [f"{name}/v_{name}_g{g:02d}_c01.avi" for name in ("Zoo", "Art") for g in (1, 2, 3)]
UCF_LISTS = {
    "classInd.txt": "1 Zoo\n2 Art\n",
    "trainlist01.txt": "".join(
        f"{video} {1 if 'Zoo' in video else 2}\n" for video in UCF_VIDEOS if "g01" not in video
    ),
    "testlist01.txt": "".join(f"{video}\n" for video in UCF_VIDEOS if "g01" in video),
}
HMDB_VIDEOS = [f"{name}/film{n}_{name}_f_cm_np1_ba_bad_0.avi" for name in ("run", "sit") for n in range(3)]
HMDB_LISTS = {
    f"{name}_test_split1.txt": "".join(
        f"{video.partition('/')[2]} {1 if n else 2}\n" for n, video in enumerate(HMDB_VIDEOS[i : i + 3])
    )
    for i, name in ((0, "run"), (3, "sit"))
}
TABLE = "path,label,split\n" + "".join(
    f"{video},{video[:3]},{'test' if 'g01' in video else 'train'}\n" for video in UCF_VIDEOS
)
MMACTION = {
    f"ucf_{side}_split_1_rawframes.txt": "".join(
        f"{video[:-4]} 120 {int('Zoo' in video)}\n"
        for video in UCF_VIDEOS
        if ("g01" in video) == (side == "val")
    )
    for side in ("train", "val")
}


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lists", "videos"),
    [
        (UCF_LISTS, UCF_VIDEOS),
        (HMDB_LISTS, HMDB_VIDEOS),
        (MMACTION, UCF_VIDEOS),
        ({"t.csv": TABLE}, UCF_VIDEOS),
    ],
    ids=["ucf", "hmdb", "mmaction", "csv"],
)
def test_no_row_is_lost_to_a_byte_order_mark_or_to_line_ends(tmp_path, lists, videos, end, mark):
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    for name, text in lists.items():
        write(tmp_path / name, mark + text.replace("\n", end).encode(encoding))
    path = tmp_path / "t.csv" if "t.csv" in lists else tmp_path
    annotations = load_annotations(videos, lists=path, max_missing=0)
    assert len(annotations.videos) == 6
    assert counts(annotations) == (4, 0, 2)
    assert {annotations.classes[video.label][:3].lower() for video in annotations.videos} <= {
        "zoo", "art", "run", "sit", "0", "1"
    }  # fmt: skip


def test_lists_and_disk_may_differ_in_suffix_and_case(tmp_path):
    for name, text in UCF_LISTS.items():
        write(tmp_path / name, text)
    videos = [video.replace("Zoo", "ZOO").replace(".avi", ".mp4") for video in UCF_VIDEOS]
    annotations = load_annotations(videos, lists=tmp_path, max_missing=0)
    assert annotations.classes == ("Zoo", "Art")
    assert {video.path for video in annotations.videos} == set(videos)


def test_where_case_alone_tells_two_files_apart_a_list_means_what_it_spells(tmp_path):
    table = write(tmp_path / "t.csv", "path,label\na/X.avi,a\na/x.avi,b\n")
    annotations = load_annotations(["a/X.avi", "a/x.avi"], lists=table, groups="video")
    assert [(video.path, annotations.classes[video.label]) for video in annotations.videos] == [
        ("a/X.avi", "a"),
        ("a/x.avi", "b"),
    ]
    assert len({video.group for video in annotations.videos}) == 1  # and they are copies


@pytest.fixture
def table_without_a_class(tmp_path):
    rows = [f"{name}/{name}_g{g:02d}_c01.avi" for name in "abcd" for g in range(5)]
    text = "path,label\n" + "".join(f"{row},{row[0]}\n" for row in rows)
    return write(tmp_path / "t.csv", text), [row for row in rows if row[0] != "c"]


def test_a_class_that_is_missing_on_disk_is_refused_above_the_permitted_share(table_without_a_class):
    table, videos = table_without_a_class
    message = (
        r"5 of 20 listed videos \(25 %\) are not on disk, such as c/c_g00_c01\.avi, c/c_g01_c01\.avi, "
        r"c/c_g02_c01\.avi and 2 more; 1 of 4 classes have no videos at all: c; .* data\.max_missing"
    )
    with pytest.raises(DataError, match=message):
        load_annotations(videos, lists=table, max_missing=0.2)


@pytest.mark.parametrize("permitted", [0.25, 1])
def test_what_is_missing_on_disk_is_said_where_it_is_permitted(table_without_a_class, permitted):
    table, videos = table_without_a_class
    with pytest.warns(DataWarning, match=r"5 of 20 listed videos .* no videos at all: c"):
        annotations = load_annotations(videos, lists=table, max_missing=permitted)
    assert annotations.classes == ("a", "b", "d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_annotations([*videos, *(f"c/c_g{g:02d}_c01.avi" for g in range(5))], lists=table, max_missing=0)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_permitted_share_is_a_share(share):
    with pytest.raises(DataError, match=r"data\.max_missing is a share"):
        DataConfig(max_missing=share)


TREE = [
    f"{side}/{name}/{name}_g{g:02d}_c01.avi"
    for side, g in (("train", 1), ("val", 2), ("test", 3))
    for name in "ab"
]


def test_folders_of_sides_are_sides_and_no_classes():
    annotations = load_annotations(TREE)
    assert annotations.classes == ("a", "b")
    assert counts(annotations) == (2, 2, 2)
    split = make_split(annotations)
    assert [video.path for video in split.test] == ["test/a/a_g03_c01.avi", "test/b/b_g03_c01.avi"]


def test_without_a_test_folder_the_validation_is_the_test():
    annotations = load_annotations([*TREE[:4], "train/stray.avi"])
    assert counts(annotations) == (2, 0, 2)
    assert annotations.official[1].notes == (
        "There is no folder of the test side: that of the validation is it.",
    )
    assert annotations.notes == ("1 video in no <side>/<class> folder, such as train/stray.avi, left out.",)


def test_training_videos_alone_are_split_by_source():
    videos = [f"Train/{name}/{name}_g{g:02d}_c01.avi" for name in "ab" for g in range(4)]
    annotations = load_annotations(videos)
    assert annotations.classes == ("a", "b")
    assert annotations.official == {}
    assert make_split(annotations, SplitConfig(val_fraction=0)).test


@pytest.mark.parametrize(
    "videos",
    [
        ["train/a_g01_c01.avi", "walk/a_g02_c01.avi"],  # a class of trains
        ["train/x/a_g01_c01.avi", "walk/x/a_g02_c01.avi"],
        ["test/x/a_g01_c01.avi", "walk/x/a_g02_c01.avi"],
    ],
)
def test_a_class_may_be_called_like_a_side(videos):
    assert {name.partition("/")[0] for name in videos} == set(load_annotations(videos).classes)


def test_a_source_in_two_folders_of_sides_is_refused():
    videos = [*TREE, "test/a/a_g01_c02.avi"]
    with pytest.raises(DataError, match="videos of one class in training and test, such as g01"):
        make_split(load_annotations(videos))


def test_lists_of_tsn_and_mmaction2(tmp_path):
    for name, text in MMACTION.items():
        write(tmp_path / name, text)
    annotations = load_annotations(UCF_VIDEOS, lists=tmp_path, max_missing=0)
    assert annotations.classes == ("Art", "Zoo")  # the numbers' order; names of the folders
    assert counts(annotations) == (4, 0, 2)
    assert annotations.official[1].notes == (
        "There is no list of the test side: that of the validation is it.",
    )


def test_lists_of_another_machine_find_videos_by_name_and_classes_by_the_map(tmp_path):
    rows = [f"/data/my frames/{Path(video).stem} {int('Zoo' in video)}" for video in UCF_VIDEOS]
    write(tmp_path / "train.txt", "\n".join(rows[1:3] + rows[4:]))
    write(tmp_path / "val_list.txt", rows[0])
    write(tmp_path / "test_list.txt", rows[3] + "\n/data/gone 1\n")
    write(tmp_path / "label_map.txt", "paint\nkeeper\n")
    annotations = load_annotations(UCF_VIDEOS, lists=tmp_path)
    assert annotations.classes == ("paint", "keeper")
    assert counts(annotations) == (4, 1, 1)
    assert annotations.coverage.missing == ("/data/gone",)


def test_a_missing_video_is_not_taken_for_its_namesake_in_another_class(tmp_path):
    write(tmp_path / "train.txt", "a/x_g01_c01 0\na/y_g02_c01 0\nb/z_g03_c01 1\n")
    write(tmp_path / "val.txt", "b/w_g04_c01 1\n")
    annotations = load_annotations(["a/y_g02_c01.avi", "b/x_g01_c01.avi", "b/z_g03_c01.avi"], lists=tmp_path)
    assert [(video.path, video.label) for video in annotations.videos] == [
        ("a/y_g02_c01.avi", 0),
        ("b/z_g03_c01.avi", 1),
    ]
    assert annotations.coverage.missing == ("a/x_g01_c01", "b/w_g04_c01")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Zoo/v_Zoo_g01_c01.avi\n", r"line 1: got 'Zoo/v_Zoo_g01_c01\.avi', expected 'path label'"),
        ("Zoo/v_Zoo_g01_c01.avi 1\nZoo/v_Zoo_g01_c01.avi 0\n", "line 2: .* has label 0, elsewhere 1"),
        ("Zoo/v_Zoo_g01_c01.avi 7\n", "the class names lack number 7"),
        ("Zoo/v_Zoo_g02_c01.avi 0\n", r"line 1: .*g02_c01\.avi is on two sides of split 1"),
    ],
)
def test_malformed_lists_of_mmaction2_are_named(tmp_path, text, message):
    write(tmp_path / "classInd.txt", "1 Zoo\n2 Art\n")
    write(tmp_path / "a_test_split_1.txt", "Zoo/v_Zoo_g02_c01.avi 0\n")
    write(tmp_path / "a_train_split_1.txt", text)
    with pytest.raises(DataError, match=message):
        load_annotations(UCF_VIDEOS, lists=tmp_path)


KTH_VIDEOS = [
    f"{name}/person{p:02d}_{name}_d1_uncomp.avi" for name in ("boxing", "walking") for p in (1, 2, 11)
]


def test_kth_has_official_persons_with_and_without_the_list():
    annotations = load_annotations(KTH_VIDEOS, "kth")
    assert annotations.classes == ("boxing", "walking")
    assert counts(annotations) == (2, 2, 2)
    assert {video.group for video in make_split(annotations).train} == {"person11"}
    assert all(video.spans == () for video in annotations.videos)


def test_kth_takes_the_frames_that_show_the_action(tmp_path):
    rows = "".join(
        f"{Path(video).stem.removesuffix('_uncomp')}\t\tframes\t1-{n + 1}, 20-30\r\n"
        for n, video in enumerate(KTH_VIDEOS)
    )
    write(tmp_path / "sequences_list.txt", f"Six classes.\r\n\r\n{rows}person13_boxing_d3\t*missing*\r\n")
    for lists in (tmp_path, tmp_path / "sequences_list.txt"):
        annotations = load_annotations([*KTH_VIDEOS[:5], "walking/notes.avi"], lists=lists)
        assert annotations.videos[1].spans == ((0, 1), (19, 29))
        assert annotations.coverage.missing == ("person11_walking_d1",)
        assert annotations.notes[0] == "1 video on disk not named in the lists, left out."
    write(tmp_path / "sequences_list.txt", "person01_boxing_d1 1-2\n")
    with pytest.raises(DataError, match="line 1: got 'person01_boxing_d1 1-2', expected"):
        load_annotations(KTH_VIDEOS, lists=tmp_path)


def test_jhmdb_is_measured_against_its_928_clips(tmp_path):
    for name, text in HMDB_LISTS.items():
        write(tmp_path / name, text)
    with pytest.raises(DataError, match=r"922 of 928 .* 19 of 21 classes have no videos at all: brush_hair"):
        load_annotations(HMDB_VIDEOS, "jhmdb", tmp_path, max_missing=0.05)
    assert counts(load_annotations(HMDB_VIDEOS, "jhmdb", tmp_path)) == (4, 0, 2)


def ucf101_names():
    lists = SPLITS / "ucf101"
    texts = [(lists / name).read_text() for name in ("trainlist01.txt", "testlist01.txt")]
    return sorted(row.split()[0] for text in texts for row in text.splitlines() if row.strip())


@with_marks(*real_lists)
@pytest.mark.parametrize("spelling", [str, lambda name: name.replace("HandstandPush", "HandStandPush")])
def test_ucf101_has_its_published_counts_in_both_spellings(spelling):
    videos = [spelling(name) for name in ucf101_names()]
    annotations = load_annotations(videos, lists=SPLITS / "ucf101", max_missing=0)
    assert len(annotations.classes) == 101
    assert [counts(annotations, n)[::2] for n in (1, 2, 3)] == [(9537, 3783), (9586, 3734), (9624, 3696)]


@with_marks(*real_lists)
def test_hmdb51_has_its_published_counts():
    videos = [
        f"{path.name.rpartition('_test_split')[0]}/{row.split()[0]}"
        for path in (SPLITS / "hmdb51").glob("*_test_split1.txt")
        for row in path.read_text().splitlines()
    ]
    annotations = load_annotations(videos, lists=SPLITS / "hmdb51", max_missing=0)
    assert len(annotations.classes) == 51
    assert len(annotations.videos) == 6766
    for number in (1, 2, 3):
        assert counts(annotations, number)[::2] == (3570, 1530)
        unused = 6766 - sum(counts(annotations, number))
        assert unused == 1666
        assert annotations.official[number].notes == (
            "1666 videos marked 0 in the lists, unused in this split.",
        )
    assert annotations.group_rule == "the file name before _<class>_"


@with_marks(*real_lists)
def test_jhmdb21_has_its_published_counts_and_is_known_by_its_folders():
    videos = list_videos(SHARED / "jhmdb")
    for format in ("jhmdb", "auto"):
        annotations = load_annotations(videos, format, SPLITS / "hmdb51", max_missing=0)
        assert counts(annotations) == (650, 0, 256)
        assert annotations.notes == ("22 videos on disk not named in the lists, left out.",)
    with pytest.raises(DataError, match=r"5860 of 6766 listed videos .* data\.format=jhmdb"):
        load_annotations(videos, "hmdb", SPLITS / "hmdb51", max_missing=0.05)


@with_marks(*real_lists)
def test_kth_has_its_published_counts():
    names = [
        row.split()[0]
        for row in (SPLITS / "kth" / "sequences_list.txt").read_text().splitlines()
        if "frames\t" in row
    ]
    annotations = load_annotations(
        [f"{name.split('_')[1]}/{name}_uncomp.avi" for name in names], lists=SPLITS / "kth", max_missing=0
    )
    assert (len(annotations.classes), len(annotations.videos)) == (6, 599)
    assert sum(len(video.spans) for video in annotations.videos) == 2391
    assert len({video.group for video in annotations.videos}) == 25
    assert [
        len(part) // 24 for part in (make_split(annotations).validation, make_split(annotations).test)
    ] == [8, 9]


@with_marks(*real_lists)
def test_a_random_split_of_ucf101_is_refused_and_the_leaking_groups_are_named(tmp_path):
    names = ucf101_names()
    drawn = set(random.Random(0).sample(names, len(names) // 5))
    rows = "".join(
        f"{name},{name.partition('/')[0]},{'test' if name in drawn else 'train'}\n" for name in names
    )
    annotations = load_annotations(names, lists=write(tmp_path / "random.csv", "path,label,split\n" + rows))
    with pytest.raises(
        DataError,
        match=r"\d{4} source groups have videos of one class in training and test, such as \w+_g01, ",
    ):
        make_split(annotations, SplitConfig(leakage="report"))


@with_marks(*real_lists)
def test_ucf50_leaves_one_group_of_every_class_out():
    names = [
        name for name in ucf101_names() if name.partition("/")[0] in ("Diving", "Punch", "TaiChi", "YoYo")
    ]
    annotations = load_annotations(names)
    tested = []
    for fold in range(1, 26):
        split = make_split(annotations, SplitConfig(kind="logo", fold=fold))
        assert {video.group for video in split.test} == {
            f"{name}_g{fold:02d}" for name in annotations.classes
        }
        tested += [video.path for video in split.test]
    assert sorted(tested) == names
    with pytest.raises(DataError, match="no source group 26: expected one of 1, 2,"):
        make_split(annotations, SplitConfig(kind="logo", fold=26))


def test_a_group_number_is_needed_to_leave_it_out():
    with pytest.raises(DataError, match=r"needs source groups that end in one.* got a/x\.avi"):
        make_split(load_annotations(["a/x.avi", "b/y.avi"], groups="video"), SplitConfig(kind="logo"))


def test_reading_tells_what_loading_refuses():
    annotations = read_annotations([*TREE, "train/a/mine.avi"])
    assert annotations.ungrouped == ("train/a/mine.avi",)
