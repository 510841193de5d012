"""The benchmark of scale, on a few classes: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import sys

import pytest

import benchmark_scale as scale

from .conftest import read_csv

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

MADE_UP = {
    "parts": {"cache": 1.0, "data": 1.0},
    "training": {"imports": 1.0, "start": 3.0, "start_memory": 900.0, "epoch": 5.0, "memory": 950.0},
    "evaluation": {"evaluation": 1.0, "report": 1.0, "evaluation_memory": 900.0, "checkpoint": 20.0, "record": 0.5,
                   "reports": 2.0, "top1": 0.5},
}  # fmt: skip


@pytest.fixture
def lists(tmp_path):
    """Write lists of 8 classes with 6 sources of a clip each, of which the last is for the test."""
    folder = tmp_path / "lists"
    folder.mkdir()
    classes = ["Archery", "Bowling", "Diving", "Fencing", "Kayaking", "Punch", "TaiChi", "YoYo"]
    (folder / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(classes, 1)))
    for side, groups in (("train", range(1, 6)), ("test", range(6, 7))):
        rows = [f"{name}/v_{name}_g{group:02d}_c01.avi\n" for name in classes for group in groups]
        (folder / f"{side}list01.txt").write_text("".join(rows))
    return folder


def test_writes_what_it_measured(lists, tmp_path, capfd):
    def here(what, arguments):
        config = scale.parse(arguments)
        if classes := {"ucf101-2-shaped": 2, "ucf101-4-shaped": 4}.get(config.data.name):  # others will do
            return {**MADE_UP[what], **({"videos": 6 * classes} if what == "evaluation" else {})}
        return scale.MEASURES[what](config)

    out, scratch = tmp_path / "out", tmp_path / "scratch"
    arguments = ["--lists", lists, "--scratch", scratch, "--out", out]
    assert scale.run(list(map(str, arguments)), apart=here) == 0
    rows = read_csv(out / "scale.csv")
    assert [(row["config"], row["classes"], row["videos"]) for row in rows] == [
        *(("ucf101", str(n), str(6 * n)) for n in (2, 4, 8)),
        ("ucf50", "4", "24"),
    ]
    for row in rows:
        assert all(
            float(row[name]) > 0 for name in ("cache", "data", "epoch", "resumed", "evaluation", "report")
        )
        assert 0 < float(row["imports"]) < float(row["start"])
        assert 20 < float(row["start_memory"]) <= float(row["memory"])
        assert 0 < float(row["record"]) < float(row["checkpoint"])
    text = (out / "scale.md").read_text()
    assert "| ucf101.yaml, 8 classes | ucf50.yaml, 4 classes |" in text
    assert "On 48 videos, start-up takes" in text
    assert "than the videos by a quarter or more." in text
    assert (
        len(list((scratch / "videos").rglob("*.avi"))) == len(list((scratch / "cache").rglob("*.zip"))) == 48
    )
    assert not (scratch / "ucf101-8" / "videos").exists()  # links; what is measured stays: the run
    assert (scratch / "ucf101-8" / "run" / "evaluation" / "report.html").exists()


def test_too_few_classes_are_refused(lists, capfd):
    assert scale.main(["--lists", str(lists), "--classes", "3"]) == 2
    assert "--classes must be 4 or more" in capfd.readouterr().err
