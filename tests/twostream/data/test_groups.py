import pytest

from twostream.data.groups import assign_groups, stem
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
        ("auto", [("A/v_A_g01_c02.avi", "A"), ("A/other.avi", "A")], ["A/v_A_g01_c02.avi", "A/other.avi"]),
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


@pytest.mark.parametrize("rule", ["(", "a(b)(c)", "nothing"])
def test_patterns_need_one_group(rule):
    with pytest.raises(DataError, match=f"group rule '{rule}'".replace("(", r"\(").replace(")", r"\)")):
        assign_groups([("A/x.avi", "A")], rule)


def test_stems_lose_the_suffix_of_video_files_only():
    assert [stem(path) for path in ("a/x.y.avi", "a/x.y", "x.MP4")] == ["x.y", "x.y", "x"]
