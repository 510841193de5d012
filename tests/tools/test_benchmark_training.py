"""The benchmark of training, on few small videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import sys

import pytest

from .conftest import read_csv, run_tool

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

STEPS = {"ours", "ours, channels first", "ours, batch norm not folded", "plain loop"}


def test_writes_what_it_measured(make_videos, tmp_path):
    out = tmp_path / "out"
    videos = make_videos((9, 10, 11, 12), width=64, height=48)
    done = run_tool(
        "benchmark_training.py",
        videos,
        "--quick",
        "--out",
        out,
        "--scratch",
        tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_csv(out / "training.csv")
    for setting, other in (("frozen CNNs", "ours, float32"), ("fine-tuned CNNs", "ours, bfloat16")):
        own = [row for row in rows if row["setting"] == setting]
        assert {row["contestant"] for row in own if row["part"] == "step"} == {*STEPS, other}
        assert {row["contestant"] for row in own if row["part"] == "loop"} == {"ours", "plain loop"}
    for row in rows:
        assert (float(row["speed"]) == 1) == (row["contestant"] == "plain loop")
        assert 0 < float(row["low"]) <= float(row["speed"]) <= float(row["high"])
        assert float(row["matrix_share"]) == 0  # a GPU's alone
        assert (0 < float(row["wait_share"]) < 1) == (row["part"] == "loop")
    report = (out / "training.md").read_text()
    assert "--quick" in report
    assert "clips/s |" not in report  # absolute figures are a GPU's
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_a_step_of_another_network_is_refused():
    torch = pytest.importorskip("torch")
    from benchmarks.training_speed import check_agreement
    from benchmarks.training_steps import PLAIN, Step

    class Fake:
        def __init__(self, value):
            self.value = torch.tensor(value)

        def loss(self, batch):
            return self.value

    batches = {name: [{"label": torch.zeros(1)}] * 2 for name in ("ours", PLAIN)}
    steps = {"ours": Step(), PLAIN: Step()}
    check_agreement({PLAIN: Fake(2.0), "ours": Fake(2.001)}, batches, steps)
    for value in (2.1, float("nan")):
        with pytest.raises(SystemExit, match="ours: losses"):
            check_agreement({PLAIN: Fake(2.0), "ours": Fake(value)}, batches, steps)
