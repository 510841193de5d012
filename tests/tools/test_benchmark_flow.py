"""The benchmark of flow, on generated videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import pytest

from .conftest import ROOT, read_csv, run_tool


@pytest.fixture
def videos(make_videos):
    return make_videos((4, 4, 4), width=96, height=64)


def test_writes_what_it_measured(videos, tmp_path):
    sizes = ("--agreement-size", "64x48", "--sizes", "64x48")
    done = run_tool(
        "benchmark_flow.py", videos, "--out", tmp_path, "--agreement", 2, *sizes, "--pairs", 2, "--repeats", 2
    )
    assert done.returncode == 0, done.stderr
    agreed = read_csv(tmp_path / "flow_agreement.csv")
    assert [row["video"] for row in agreed if row["setting"] == "convergence"] == [
        "videos/0.avi",
        "videos/2.avi",
    ]
    once = next(row for row in agreed if row["setting"] == "fixed iterations, one warp")
    assert float(once["motion"]) > 0.05
    assert float(once["ours to OpenCV"]) < 1e-4
    rows = read_csv(tmp_path / "flow.csv")
    single = {row["method"]: row for row in rows if row["threads"] == "1"}
    assert {"OpenCV TV-L1", "ours, preset opencv", "OpenCV Farneback"} <= set(single)
    assert float(single["OpenCV TV-L1"]["speed"]) == 1
    assert float(single["OpenCV TV-L1"]["difference"]) == 0
    assert 0 < float(single["ours, preset opencv"]["difference"]) < float(single["OpenCV DIS"]["difference"])
    (stages,) = read_csv(tmp_path / "flow_stages.csv")
    assert stages.pop("size") == "64x48"
    assert sum(map(float, stages.values())) == pytest.approx(1)
    report = (tmp_path / "flow.md").read_text()
    assert "--repeats 2" in report
    assert (
        f"| 64x48 | 2 | ours, preset opencv | 1 | {float(single['ours, preset opencv']['difference']):.4f}"
        in report
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a folder of videos"),
        (("no/such/folder",), "no/such/folder: no such file or folder"),
        ((ROOT / "twostream" / "configs",), "holds no videos"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    done = run_tool("benchmark_flow.py", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
