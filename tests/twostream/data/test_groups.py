import pytest

from twostream.data.groups import assign_groups, find_groups, stem
from twostream.errors import DataError


@pytest.mark.parametrize(
    ("rule", "items", "groups"),
    [
        (
            "auto",
            [("A/v_A_g01_c02.avi", "A"), ("B/v_B_g01_c02.avi", "B"), ("A/v_A_g01_c03.avi", "A")],
            ["A_g01", "B_g01", "A_g01"],
        ),
        # The title holds the class too: only its last occurrence ends the title.
        (
            "auto",
            [
                ("run/to_run_away_run_f_cm_np1_ri_bad_0.avi", "run"),
                ("sit/x_sit_f_cm_np1_ri_bad_0.avi", "sit"),
            ],
            ["to_run_away", "x"],
        ),
        # One source number in two classes is one source.
        (
            "auto",
            [("a_b/a_b_g01_c01.avi", "a_b"), ("c_d/c_d_g01_c02.avi", "c_d"), ("c_d/c_d_g02_c02.avi", "c_d")],
            ["g01", "g01", "g02"],
        ),
        ("auto", [("a/park_g3_c1.avi", "a"), ("b/park_g3_c2.avi", "b")], ["park_g3", "park_g3"]),
        ("auto,video", [("A/v_A_g01_c02.avi", "A"), ("A/other.avi", "A")], ["A_g01", "A/other.avi"]),
        (
            "auto",
            [("boxing/person01_boxing_d1_uncomp.avi", "boxing"), ("a/person01_x_d2", "a")],
            ["person01"] * 2,
        ),
        (
            "auto",
            [("biking/v_biking_01_02.mpg", "biking"), ("run/v_run_01_01.mpg", "run")],
            ["biking_g01", "run_g01"],
        ),
        ("auto", [("val/abseiling/0wR5jVB-WPk_000417_000427.mp4", "abseiling")], ["0wR5jVB-WPk"]),
        ("video", [("A/v_A_g01_c02.avi", "A"), ("B/x.avi", "B")], ["A/v_A_g01_c02.avi", "B/x.avi"]),
        (r"person(\d+)", [("A/person03_A.avi", "A"), ("B/x_person04.avi", "B")], ["03", "04"]),
    ],
)
def test_groups(rule, items, groups):
    found, words = assign_groups(items, rule)
    assert found == groups
    assert words


@pytest.mark.parametrize("rule", ["ucf", "hmdb", "generic", r"person(\d+)"])
def test_an_explicit_rule_must_fit_every_video(rule):
    with pytest.raises(DataError, match="does not fit 1 of 1 videos, such as A/x"):
        assign_groups([("A/x.avi", "A")], rule)


COPIES = [
    "Diving/v_Diving_g01_c01 (1).avi",
    "Diving/v_Diving_g01_c02(2).avi",
    "Diving/Copy of v_Diving_g01_c01.avi",
    "Diving/copy (2) of v_Diving_g01_c01.avi",
    "Diving/v_Diving_g01_c01 - Copy.avi",
    "Diving/v_Diving_g01_c01 - Copy (3) (1).avi",
    "Diving/v_Diving_g01_c01_copy.avi",
    "Diving/Kopie von v_Diving_g01_c01.avi",
    "Diving/v_Diving_g01_c01.mp4",
    "Diving/v_Diving_g01_c01.mp4.avi",
    "Diving/V_DIVING_G01_C01.AVI",
    "Diving/v_diving_g01_c01",
]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_joins_the_source_of_its_original(copy):
    items = [(f"Diving/v_Diving_g{g:02d}_c{c:02d}.avi", "Diving") for g in (1, 2) for c in (1, 2)]
    found = find_groups([*items, (copy, "Diving")])
    assert found.names == ("Diving_g01", "Diving_g01", "Diving_g02", "Diving_g02", "Diving_g01")
    assert found.unmatched == ()


@pytest.mark.parametrize("copy", ["A/walk (1).avi", "A/Copy of walk.mp4", "A/WALK.avi", "A/walk.mkv"])
@pytest.mark.parametrize("rule", ["video", "auto,video", "(.+)"])
def test_a_copy_is_no_source_of_its_own_either(copy, rule):
    names, _ = assign_groups(
        [("A/walk.avi", "A"), (copy, "A"), ("A/run.avi", "A"), ("B/walk.avi", "B")], rule
    )
    assert names[0] == names[1]
    assert names[2] != names[0]


def test_a_numbered_series_without_an_original_is_no_set_of_copies():
    names, _ = assign_groups([(f"A/holiday ({n}).avi", "A") for n in range(1, 5)], "video")
    assert len(set(names)) == 4


def test_one_stray_file_does_not_change_the_groups_of_the_others_and_is_named():
    items = [(f"A/v_A_g{g:02d}_c{c:02d}.avi", "A") for g in range(1, 8) for c in (1, 2)]
    stray = ("A/my own clip.mp4", "A")
    found = find_groups([*items, stray])
    assert found.names[:-1] == find_groups(items).names
    assert found.unmatched == (stray[0],)
    with pytest.raises(DataError, match=r"fits 1 of 15 videos, such as A/my own clip\.mp4; .* auto,video"):
        assign_groups([*items, stray])
    names, words = assign_groups([*items, stray], "auto,video")
    assert names == [*found.names[:-1], stray[0]]
    assert words.endswith("_c<clip> (14); every video is its own source (1)")


def test_every_file_has_the_rule_that_fits_it():
    items = [("A/v_A_g01_c01.avi", "A"), ("A/film_A_f_cm_np1_ba_bad_0.avi", "A"), ("A/A_g04_c01.avi", "A")]
    assert assign_groups(items)[0] == ["A_g01", "film", "g04"]
    assert assign_groups(items, "hmdb,ucf,generic")[0] == ["A_g01", "film", "g04"]


@pytest.mark.parametrize("rule", ["(", "a(b)(c)", "nothing"])
def test_patterns_need_one_group(rule):
    with pytest.raises(DataError, match=f"group rule '{rule}'".replace("(", r"\(").replace(")", r"\)")):
        assign_groups([("A/x.avi", "A")], rule)


def test_stems_lose_the_suffix_of_video_files_only():
    assert [stem(path) for path in ("a/x.y.avi", "a/x.y", "x.MP4")] == ["x.y", "x.y", "x"]
