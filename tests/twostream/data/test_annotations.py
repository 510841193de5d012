import os
from pathlib import Path

import pytest

from twostream.data.annotations import (
    detect_format,
    list_videos,
    load_annotations,
    load_csv,
    load_folders,
    load_hmdb,
    load_ucf,
)
from twostream.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def parts_of(annotations, number):
    counts = {"train": 0, "test": 0}
    for part in annotations.official[number].parts.values():
        counts[part] += 1
    return counts["train"], counts["test"]


def test_folders_label_by_the_first_folder_and_count_stray_videos():
    annotations = load_folders(["run/a.avi", "jump/deep/b.mp4", "run/c.avi", "stray.avi"])
    assert annotations.classes == ("jump", "run")
    assert [(v.path, v.label) for v in annotations.videos] == [
        ("run/a.avi", 1),
        ("jump/deep/b.mp4", 0),
        ("run/c.avi", 1),
    ]
    assert annotations.notes == ("1 video directly in the data root, in no class folder, left out.",)
    assert annotations.group_rule == "every video is its own source"


def test_list_videos_gives_relative_posix_paths(tmp_path):
    for name in ("b/x.avi", "a/y/z.mp4", "a/notes.txt"):
        write(tmp_path / name, "x")
    assert list_videos(tmp_path) == ["a/y/z.mp4", "b/x.avi"]
    with pytest.raises(DataError, match="is not a folder"):
        list_videos(tmp_path / "missing")


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "no videos to label"),
        (["run/a.avi", "run/b.avi"], r"one class only \(run\)"),
        (["a.avi", "b.avi"], "no video is labelled"),
    ],
)
def test_what_cannot_be_classified_is_refused(videos, message):
    with pytest.raises(DataError, match=message):
        load_annotations(videos)


def test_a_stray_file_is_named_and_the_others_keep_their_sources():
    stray = "Art/my own clip.mp4"
    annotations = load_folders([*UCF_VIDEOS, stray])
    assert annotations.videos[:-1] == load_folders(UCF_VIDEOS).videos
    assert annotations.ungrouped == (stray,)
    with pytest.raises(DataError, match=r"fits 1 of 7 videos, such as Art/my own clip\.mp4; .* auto,video"):
        load_annotations([*UCF_VIDEOS, stray])
    assert load_annotations([*UCF_VIDEOS, stray], groups="auto,video").videos[-1].group == stray


def test_a_stray_copy_joins_its_source_and_the_others_keep_theirs():
    annotations = load_annotations([*UCF_VIDEOS, "Art/v_Art_g01_c01 (1).avi"])
    assert annotations.videos[:-1] == load_annotations(UCF_VIDEOS).videos
    assert annotations.videos[-1].group == "Art_g01"


def test_names_that_say_nothing_of_their_source_are_refused_unless_each_is_its_own():
    videos = ["run/a.avi", "run/b.avi", "jump/c.avi"]
    with pytest.raises(DataError, match=r"fits 3 of 3 videos, such as run/a\.avi, run/b\.avi, jump/c\.avi"):
        load_annotations(videos)
    assert len({video.group for video in load_annotations(videos, groups="video").videos}) == 3


HMDB_VIDEOS = [
    "run/film_run_f_cm_np1_ba_bad_0.avi",
    "run/film_run_f_cm_np1_ba_bad_1.avi",
    "run/new_run_f_cm_np1_ba_bad_0.avi",
    "jump/film_jump_f_cm_np1_ba_bad_0.mkv",
    "jump/other_jump_f_cm_np1_ba_bad_0.avi",
]


@pytest.fixture
def hmdb_lists(tmp_path):
    write(
        tmp_path / "run_test_split1.txt",
        "film_run_f_cm_np1_ba_bad_0.avi 1 \r\nfilm_run_f_cm_np1_ba_bad_1.avi 0\r\ngone_run_f.avi 2\r\n",
    )
    write(
        tmp_path / "jump_test_split1.txt",
        "film_jump_f_cm_np1_ba_bad_0.avi 2 \nother_jump_f_cm_np1_ba_bad_0.avi 1\n\n",
    )
    write(tmp_path / "fly_test_split1.txt", "a_fly_f.avi 1\n")
    write(tmp_path / "class_list.txt", "run\njump\nfly\n")
    return tmp_path


def test_hmdb_lists_name_the_parts_and_count_what_does_not_match(hmdb_lists):
    annotations = load_hmdb(HMDB_VIDEOS, hmdb_lists)
    assert annotations.classes == ("jump", "run")
    assert annotations.official[1].parts == {
        "run/film_run_f_cm_np1_ba_bad_0.avi": "train",
        "jump/film_jump_f_cm_np1_ba_bad_0.mkv": "test",  # the lists say .avi
        "jump/other_jump_f_cm_np1_ba_bad_0.avi": "train",
    }
    assert {v.path: v.group for v in annotations.videos} == {
        "run/film_run_f_cm_np1_ba_bad_0.avi": "film",
        "run/film_run_f_cm_np1_ba_bad_1.avi": "film",
        "jump/film_jump_f_cm_np1_ba_bad_0.mkv": "film",
        "jump/other_jump_f_cm_np1_ba_bad_0.avi": "other",
    }
    assert annotations.notes == (
        "1 video on disk not named in the lists, left out.",
        "2 listed videos not on disk.",
        "1 of 3 listed classes have no videos here.",
    )
    assert annotations.official[1].notes == ("1 video marked 0 in the lists, unused in this split.",)


@pytest.mark.parametrize("row", ["a_run_f.avi 3", "a_run_f.avi", "a_run_f.avi train"])
def test_malformed_hmdb_rows_are_named(tmp_path, row):
    write(tmp_path / "run_test_split1.txt", f"b_run_f.avi 1\n{row}\n")
    with pytest.raises(
        DataError, match=r"run_test_split1\.txt, line 2: got .*expected 'name\.avi' and 1, 2 or 0"
    ):
        load_hmdb(["run/a_run_f.avi", "jump/a_jump_f.avi"], tmp_path)


def test_hmdb_lists_of_other_classes_are_refused(hmdb_lists):
    with pytest.raises(DataError, match="no class of the lists"):
        load_hmdb(["a/x.avi", "b/y.avi"], hmdb_lists)


UCF_VIDEOS = [f"{name}/v_{name}_g{g:02d}_c01.avi" for name in ("Zoo", "Art") for g in (1, 2, 3)]


@pytest.fixture
def ucf_lists(tmp_path):
    write(tmp_path / "classInd.txt", "1 Zoo\r\n2 Art\r\n3 Gone\r\n")
    write(
        tmp_path / "trainlist01.txt",
        "Zoo/v_Zoo_g02_c01.avi 1\r\nZoo/v_Zoo_g03_c01.avi 1\r\nArt/v_Art_g02_c01.avi 2\r\n"
        "Gone/v_Gone_g02_c01.avi 3\r\n",
    )
    write(tmp_path / "testlist01.txt", "Zoo/v_Zoo_g01_c01.avi\r\nArt/v_Art_g01_c01.avi\r\n")
    return tmp_path


def test_ucf_lists_keep_their_class_order_and_ignore_crlf(ucf_lists):
    annotations = load_annotations(UCF_VIDEOS, lists=ucf_lists)
    assert annotations.classes == ("Zoo", "Art")
    assert parts_of(annotations, 1) == (3, 2)
    assert {v.group for v in annotations.videos} == {"Zoo_g01", "Zoo_g02", "Zoo_g03", "Art_g01", "Art_g02"}
    assert annotations.notes == (
        "1 video on disk not named in the lists, left out.",
        "1 listed video not on disk.",
        "1 of 3 listed classes have no videos here.",
    )


def test_image_folders_match_lists_of_video_files(ucf_lists):
    annotations = load_ucf([video.removesuffix(".avi") for video in UCF_VIDEOS], ucf_lists)
    assert parts_of(annotations, 1) == (3, 2)


def test_ucf_labels_must_agree_with_the_class_index(ucf_lists):
    write(ucf_lists / "trainlist01.txt", "Zoo/v_Zoo_g02_c01.avi 2\r\n")
    with pytest.raises(DataError, match=r"trainlist01\.txt, line 1: label 2 is not class Zoo"):
        load_ucf(UCF_VIDEOS, ucf_lists)


def test_a_video_in_both_ucf_lists_is_refused(ucf_lists):
    write(ucf_lists / "testlist01.txt", "Zoo/v_Zoo_g02_c01.avi\r\n")
    with pytest.raises(DataError, match="for both training and test"):
        load_ucf(UCF_VIDEOS, ucf_lists)


def test_csv_columns_give_groups_and_parts(tmp_path):
    table = write(
        tmp_path / "table.csv",
        "\ufeffpath,label,group,split\nx/a.avi,10,g1,train\nx/b.avi,9,g2,val\nx/c.avi,10,g3,test\n"
        "x/d.avi,9,g4,\nx/gone.avi,9,g5,test\n",
    )
    annotations = load_annotations([f"x/{n}.avi" for n in "abcde"], lists=table)
    assert annotations.classes == ("9", "10")  # numbers in the order of numbers
    assert [(v.path[2], v.label, v.group) for v in annotations.videos] == [
        ("a", 1, "g1"),
        ("b", 0, "g2"),
        ("c", 1, "g3"),
        ("d", 0, "g4"),
    ]
    assert annotations.official[1].parts == {"x/a.avi": "train", "x/b.avi": "validation", "x/c.avi": "test"}
    assert annotations.official[1].notes == ("1 video without a split in table.csv left out.",)
    assert annotations.notes == (
        "1 video on disk not named in the lists, left out.",
        "1 listed video not on disk.",
    )
    assert annotations.group_rule == "the table's group column"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.avi,x\n", "got columns file, label; expected path,label"),
        ("path,label,split\na.avi,x,trian\n", "line 2: got split 'trian', expected train, val or test"),
        ("path,label\na.avi,x\na.avi,x\n", "line 3: a.avi is listed twice"),
        ("path,label\na.avi,\n", "line 2: got an empty path or label"),
        ("path,label\nz.avi,x\n", "none of the 1 paths"),
        ("path,label,group\na.avi,x,\nb.avi,y,g\n", "column group is empty for a.avi"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_csv(["a.avi", "b.avi"], write(tmp_path / "t.csv", text))


def test_formats_are_told_from_the_lists(hmdb_lists, tmp_path):
    assert detect_format(None) == "folders"
    assert detect_format(hmdb_lists) == "hmdb"
    assert detect_format(write(tmp_path / "a" / "testlist02.txt", "x").parent) == "ucf"
    assert detect_format(write(tmp_path / "t.csv", "x")) == "csv"
    (tmp_path / "empty").mkdir()
    for unknown in (tmp_path / "empty", tmp_path / "missing", write(tmp_path / "a.txt", "x")):
        with pytest.raises(DataError, match="no split lists that are known"):
            detect_format(unknown)


@pytest.mark.parametrize("name", ["ucf", "hmdb"])
def test_a_chosen_format_needs_its_lists(tmp_path, name):
    with pytest.raises(DataError, match=f"'{name}' needs its lists"):
        load_annotations(HMDB_VIDEOS, format=name)
    with pytest.raises(DataError, match=r"holds no (UCF|HMDB) lists"):
        load_annotations(HMDB_VIDEOS, format=name, lists=tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        load_annotations(HMDB_VIDEOS, format=name, lists=tmp_path / "missing")


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "splits" / "ucf101").is_dir(), reason="needs the lists of ../shared/data")
def test_ucf101_counts_of_all_three_official_splits():
    lists = SHARED / "splits" / "ucf101"
    rows = [
        row.split()[0]
        for name in ("trainlist01.txt", "testlist01.txt")
        for row in (lists / name).read_text().splitlines()
        if row.strip()
    ]
    annotations = load_annotations(sorted(rows), lists=lists)
    assert len(annotations.classes) == 101
    assert [parts_of(annotations, k) for k in (1, 2, 3)] == [(9537, 3783), (9586, 3734), (9624, 3696)]
    assert annotations.notes == ()
    assert len({v.group for v in annotations.videos}) == 101 * 25


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "jhmdb").is_dir(), reason="needs the clips of ../shared/data")
def test_jhmdb_keeps_the_listed_clips_and_says_what_stays_out():
    annotations = load_annotations(list_videos(SHARED / "jhmdb"), lists=SHARED / "splits" / "hmdb51")
    assert len(annotations.classes) == 21
    assert len(annotations.videos) == 906
    assert parts_of(annotations, 1) == (650, 256)
    assert "22 videos on disk not named in the lists, left out." in annotations.notes
    assert annotations.group_rule == "the file name before _<class>_"


@pytest.mark.skipif(os.name != "posix", reason="needs bytes as file names")
def test_names_that_are_not_utf8_match_their_lists(tmp_path):
    lists = tmp_path / "lists"
    for name in ("run", "jump"):
        (tmp_path / "root" / name).mkdir(parents=True)
        stem = os.fsencode(f"_{name}_f.avi")
        Path(os.fsdecode(os.fsencode(tmp_path / "root" / name) + b"/\xe9" + stem)).write_bytes(b"")
        lists.mkdir(exist_ok=True)
        (lists / f"{name}_test_split1.txt").write_bytes(b"\xe9" + stem + b" 1\n")
    annotations = load_annotations(list_videos(tmp_path / "root"), lists=lists)
    assert parts_of(annotations, 1) == (2, 0)
