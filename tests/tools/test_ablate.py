"""The ablations, on a tiny generated data set: what is run, what is not run again, and what the tables say."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest
import yaml

from ablate import main, plan
from benchmarks.ablation_report import table_rows
from benchmarks.ablations import NAMES, VARIANTS, same_result, settings_of
from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings, precompute
from twostream import ConfigError, DataConfig, ModelConfig, TrainConfig
from twostream.demo.generate import DemoSettings, generate_demo

from .conftest import read_csv

BASE = TrainConfig(
    recipe="staged",
    stages={"rgb": {"optim": {"lr": 0.01}}},
    data=DataConfig(cache="cache"),
    model=ModelConfig(fusion="calibrated", rgb={"bidirectional": True}),
)
ONCE = ("--splits", "1", "--seeds", "0")
RUN = ("joint-gated", "fusion-product", "flow-jpeg")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Settings of a run that takes seconds, as a file."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny = DemoSettings(groups=4, clips=1, min_frames=10, max_frames=12, width=64, height=48)
    videos = generate_demo(folder / "videos", settings=tiny, progress=False)
    flow, storage = FlowSettings(method="farneback"), StorageSettings(rgb=True)
    precompute(PrecomputeConfig(videos, folder / "cache", flow, storage, workers=1), progress=False)
    data = {
        "root": str(videos),
        "cache": str(folder / "cache"),
        "name": "tiny",
        "steps": 2,
        "stack": 3,
        "size": 32,
    }
    data |= {"workers": 0, "eval_clips": 1, "split": {"kind": "kfold", "folds": 2, "val_fraction": 0.5}}
    settings = {
        "recipe": "staged",
        "data": data,
        "flow": {"method": "farneback", "precompute": False},
        "model": {"backbone": "mobilenet_v3_small", "weights": "none", "hidden": 8, "fusion": "calibrated"},
        "stages": {"rgb": {"trainer": {"epochs": 2}}},
        "trainer": {"epochs": 1, "accelerator": "cpu", "tensorboard": False},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(settings))
    return folder / "base.yaml"


@pytest.fixture(scope="module")
def ablate(config):
    def call(folder, *arguments):
        return main(
            [
                "--config",
                str(config),
                "--out",
                str(folder / "out"),
                "--work",
                str(folder / "work"),
                *arguments,
            ]
        )

    return call


@pytest.fixture(scope="module")
def first(ablate, tmp_path_factory):
    """The folder of a first call, in which a variant has no cache, and its exit status."""
    folder = tmp_path_factory.mktemp("ablation")
    return folder, ablate(folder, "--only", *RUN, *ONCE)


def summary(run):
    return {
        row["output"]: row for row in read_csv(run / "evaluation" / "summary.csv") if row["subset"] == "all"
    }


def test_tables_say_what_the_evaluations_say(first):
    folder, _ = first
    rows = {row["variant"]: row for row in read_csv(folder / "out" / "ablation.csv")}
    fusions = ["fusion-product", "fusion-mean", "fusion-weighted"]
    assert list(rows) == ["rgb", "flow", "fused", "joint-gated", *fusions]
    for name, row in rows.items():
        run = folder / "work" / ("fused" if name in fusions else name) / "split1-seed0"
        expected = summary(run)[row["output"]]
        for key in ("top1", "mean_class_accuracy", "f1_macro", "num_videos"):
            assert row[key] == expected[key]
    assert rows["joint-gated"]["changes"] == "model.rgb.joint=gated"
    assert {name: row["epochs"] for name, row in rows.items() if row["output"] in ("rgb", "flow")} == {
        "rgb": "2", "flow": "1", "joint-gated": "2"
    }  # fmt: skip
    text = (folder / "out" / "ablation.md").read_text()
    points = 100 * (float(rows["joint-gated"]["top1"]) - float(rows["rgb"]["top1"]))
    line = re.search(r"\| joint-gated \|.*", text).group()
    assert line.split(" | ")[2] == f"{100 * float(rows['joint-gated']['top1']):.1f}"
    assert line.endswith(f"| 1 (split 1; seed 0) | {points:+.1f} |")
    assert re.search(r"\| joint-none \|.*\| base \|", text), "a variant that changes nothing is the base"
    assert f"one seed only: rgb, flow, fused, joint-gated, {', '.join(fusions)}." in text


def test_a_variant_that_cannot_run_is_named(first):
    folder, status = first
    assert status == 1
    text = (folder / "out" / "ablation.md").read_text()
    assert "- flow-jpeg: needs another flow cache: give --cache jpeg=PATH" in text


def test_a_fused_run_is_put_together_from_those_of_its_streams(first):
    work = first[0] / "work"
    fused = summary(work / "fused" / "split1-seed0")
    for stream in ("rgb", "flow"):
        assert fused[stream]["nll"] == pytest.approx(
            summary(work / stream / "split1-seed0")[stream]["nll"], abs=1e-5
        )


def test_what_is_finished_is_not_repeated_and_the_rest_goes_on(first, ablate, tmp_path, capsys):
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    stopped = tmp_path / "work" / "joint-gated" / "split1-seed0"
    state = json.loads((stopped / "ablation.json").read_text())
    (stopped / "ablation.json").write_text('{"seconds": 1000.0}')
    shutil.rmtree(stopped / "evaluation")
    files = [path for path in (tmp_path / "work").rglob("*") if path.name in ("best.ckpt", "summary.csv")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert ablate(tmp_path, "--only", *RUN[:2], *ONCE) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert "== variant 1 of 5, run 1 of 5: joint-gated, split 1, seed 0; about" in capsys.readouterr().out
    again = json.loads((stopped / "ablation.json").read_text())
    assert again["seconds"] > 1000
    assert (again["changes"], again["epochs"]) == (state["changes"], state["epochs"])
    old, new = (read_csv(folder / "out" / "ablation.csv") for folder in (first[0], tmp_path))
    measured = ["variant", "split", "seed", "top1", "f1_macro"]
    assert [[row[key] for key in measured] for row in new] == [[row[key] for key in measured] for row in old]


def test_another_base_is_refused_in_the_same_folder(first, ablate, capsys):
    assert ablate(first[0], "--only", "rgb", *ONCE, "--optim.lr", "0.5") == 2
    assert (
        "holds a run with other settings (optim.lr 0.001 -> 0.5); choose another --work"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "joint"), "no variant joint; known are bidirectional,"),
        (("--cache", "gif=there"), "no cache gif; known are 1-level, 3-levels, farneback,"),
        (("--seed", "3"), "leaves seed, split and --overwrite to this tool"),
    ],
)
def test_what_the_tool_does_not_know_is_refused(ablate, tmp_path, capsys, arguments, message):
    assert ablate(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_every_variant_can_be_configured_and_says_what_it_changes():
    caches = {variant.cache: "other" for variant in VARIANTS if variant.cache}
    for variant in VARIANTS:
        config = settings_of(variant, BASE, 1, 0, caches)
        assert config.model.streams == (
            [variant.output] if variant.output in ("rgb", "flow") else ["rgb", "flow"]
        )
        assert config.optim.lr == (0.01 if variant.output == "rgb" else 0.001)
    rgb = settings_of(NAMES["rgb"], BASE, 1, 0, {})
    assert same_result(settings_of(NAMES["bidirectional"], BASE, 1, 0, {}), rgb)
    assert not same_result(settings_of(NAMES["unidirectional"], BASE, 1, 0, {}), rgb)


def test_a_change_that_a_stage_takes_back_is_refused():
    base = dataclasses.replace(BASE, stages={"flow": {"data": {"stack": 5}}})
    with pytest.raises(
        ConfigError, match=r"stages\.flow of the base sets data\.stack to 5, so 10 has no effect"
    ):
        settings_of(NAMES["stack-10"], base, 1, 0, {})


def test_heads_have_two_seeds_fine_tuned_cnns_one_and_the_headline_three_splits():
    runs = {
        name: {(j.split, j.seed) for j in plan([NAMES[name]], None, None) if j.variant.name == name}
        for name in NAMES
    }
    assert runs["joint-gated"] == {(1, 0), (1, 1)}
    assert runs["stack-10"] == {(1, 0)}
    assert runs["fused"] == runs["rgb"] == {(split, seed) for split in (1, 2, 3) for seed in (0, 1)}
    names = [job.variant.name for job in plan([NAMES["fusion-mean"]], [2], [1])]
    assert names == ["rgb", "flow", "fused", "fusion-mean"]


def test_a_difference_is_that_of_the_runs_that_both_have():
    def row(name, split, seed, top1):
        known = {"variant": name, "changes": "", "split": split, "seed": seed, "top1": top1}
        return {**known, "mean_class_accuracy": 0.5, "f1_macro": 0.25}

    base = [row("rgb", 1, 0, "0.5"), row("rgb", 1, 1, "0.6"), row("rgb", 2, 0, "0.1")]
    gated, local = (
        [row(name, 1, seed, top1) for seed, top1 in enumerate(values)]
        for name, values in (("joint-gated", ("0.55", "0.75")), ("levels-local", ("0.4", "0.4", "0.9")))
    )
    variants = [NAMES[name] for name in ("rgb", "joint-none", "joint-gated", "levels-local", "plain-cnn")]
    table = {
        line[0]: line[2:] for line in table_rows(variants, [*base, *gated, *local], [NAMES["joint-none"]])
    }
    assert table == {
        "rgb": ["40.0", "50.0", "25.0", "3 (split 1, 2; seed 0, 1)", "base"],
        "joint-none": ["40.0", "50.0", "25.0", "3 (split 1, 2; seed 0, 1)", "base"],
        "joint-gated": ["65.0", "50.0", "25.0", "2 (split 1; seed 0, 1)", "+10.0"],
        "levels-local": ["56.7", "50.0", "25.0", "3 (split 1; seed 0, 1, 2)", "-15.0 (of 2 runs)"],
    }
