"""`twostream-train` from arguments to reports: what a run leaves, resuming, single streams, refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings, precompute
from twostream.checkpoints import load_checkpoint
from twostream.cli.train import main, parse
from twostream.demo.generate import demo_classes

Arguments = Callable[..., list[str]]
ReadRows = Callable[[Path], list[dict[str, str]]]

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run the command, expect exit status 2 and exactly one line of complaint, and return it."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("twostream-train: error: ")
    return error


def test_a_run_leaves_all_that_a_reader_needs(tiny_run: Path) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "run.json",
        "split.csv",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    expected |= {
        f"evaluation/{name}"
        for name in (
            "summary.csv",
            "per_class.csv",
            "per_class.md",
            "report.md",
            "report.html",
            "predictions.csv",
            "confusion_matrix.csv",
            "confusion_matrix.png",
            "curves.png",
        )
    }
    assert expected <= names
    assert not [name for name in names if name.endswith(".part")]


def test_metrics_have_a_row_per_epoch(tiny_run: Path, read_rows: ReadRows) -> None:
    rows = read_rows(tiny_run / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        for side in ("train", "val"):
            assert float(row[f"{side}_loss"]) > 0
            assert row[f"{side}_top1"] == row[f"{side}_top1_fused"]
            assert 0 <= float(row[f"{side}_top1_rgb"]) <= 1
        assert 0 < float(row["wait_share"]) < 1  # without workers all of the loading is waiting


def test_no_source_group_is_on_two_sides(tiny_run: Path, read_rows: ReadRows) -> None:
    sides: dict[str, set[str]] = {}
    rows = read_rows(tiny_run / "split.csv")
    for row in rows:
        sides.setdefault(row["group"], set()).add(row["side"])
    assert len(rows) == 36
    assert {side for found in sides.values() for side in found} == {"train", "validation", "test"}
    assert all(len(found) == 1 for found in sides.values())


def test_the_record_names_command_versions_and_best_epoch(tiny_run: Path) -> None:
    record = json.loads((tiny_run / "run.json").read_text())
    assert record["commands"][0].startswith("twostream-train --data.root=")
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert 1 <= record["trained"]["best_epoch"] <= record["trained"]["epochs"] == 2


def test_a_finished_run_is_not_trained_again(
    tiny_run: Path, tiny_arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert main(tiny_arguments(tiny_run)) == 0
    assert "epoch 1/2" not in capsys.readouterr().out
    assert (tiny_run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_a_run_directory_is_not_reused_for_other_settings(
    tiny_run: Path, tiny_arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, tiny_arguments(tiny_run, model__hidden=9))
    assert "model.hidden 8 -> 9" in error
    assert "--overwrite" in error


def test_a_run_that_never_began_can_be_corrected(
    tiny_run: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    refused(capsys, tiny_arguments(run, data__stack=20))
    assert "hold" not in refused(capsys, tiny_arguments(run, data__stack=30))


def same_weights(first: Path, second: Path) -> bool:
    one, other = load_checkpoint(first).state, load_checkpoint(second).state
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_history(first: Path, second: Path, read_rows: ReadRows) -> bool:
    """Compare the metrics of every epoch, except for the time that it took, and the predictions."""
    timing = {"seconds", "clips_per_second", "wait_share"}
    one, other = (
        [{k: v for k, v in row.items() if k not in timing} for row in read_rows(run / "metrics.csv")]
        for run in (first, second)
    )
    predictions = "evaluation/predictions.csv"
    return one == other and read_rows(first / predictions) == read_rows(second / predictions)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_killed_run_goes_on_and_ends_the_same(
    schedule: str, tiny_arguments: Arguments, tmp_path: Path, read_rows: ReadRows
) -> None:
    """kill -9 within the first epoch and after it; the resumed run must equal an uninterrupted one bit for bit."""
    settings = {
        "trainer__epochs": 4,
        "optim__schedule": schedule,
        "optim__plateau_patience": 0,
        "trainer__patience": 3,
        "model__streams": "[flow]",
        "data__batch_size": 4,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(tiny_arguments(whole, **settings)) == 0
    settings["trainer__checkpoint_minutes"] = 1e-9  # after every batch
    command = [sys.executable, "-m", "twostream.cli.train", *tiny_arguments(killed, **settings)]
    for name in ("unfinished.ckpt", "last.ckpt"):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 240
            while not (killed / "checkpoints" / name).exists() and process.poll() is None:
                assert time.monotonic() < deadline, f"{name} was never written"
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
        assert not (killed / "evaluation").exists()
    assert main(tiny_arguments(killed, **settings)) == 0
    assert same_weights(whole / "checkpoints" / "last.ckpt", killed / "checkpoints" / "last.ckpt")
    assert same_weights(whole / "checkpoints" / "best.ckpt", killed / "checkpoints" / "best.ckpt")
    assert same_history(whole, killed, read_rows)


def start(run: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start the command with loader workers, in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "twostream.cli.train", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell started in the background inherit an ignored SIGINT; a terminal's command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def announced(out: str) -> list[int]:
    """Return the epochs that have a line on the screen."""
    return [int(number) for number in re.findall(r"^epoch +(\d+)/", out, re.MULTILINE)]


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="finds the loader's workers in Linux's /proc"
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_a_run_that_goes_on_and_ends_the_same(
    number: int, status: int, tiny_arguments: Arguments, tmp_path: Path, read_rows: ReadRows
) -> None:
    """One run is interrupted in its first epoch, in a later one and while it is evaluated; nothing is lost."""
    settings = {"trainer__epochs": 3, "model__streams": "[flow]", "data__batch_size": 2, "data__workers": 2}
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(tiny_arguments(whole, **settings)) == 0
    arguments = tiny_arguments(run, **settings, trainer__checkpoint_minutes=1e-9)
    last = run / "checkpoints" / "last.ckpt"

    def interrupt_when(moment: Callable[[int], bool]) -> str:
        before = load_checkpoint(last).epoch if last.exists() else 0
        process = start(run, arguments)
        deadline = time.monotonic() + 240
        while not moment(process.pid):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(process.pid, number)  # every process of the group, the loader's workers too
        out, error = process.communicate(timeout=120)
        assert process.returncode == status, error
        assert error == "twostream-train: error: interrupted; the same command goes on from there\n"
        rows = read_rows(run / "metrics.csv") if (run / "metrics.csv").exists() else []
        done = load_checkpoint(last).epoch if last.exists() else 0
        assert [int(row["epoch"]) for row in rows] == list(range(1, done + 1))
        assert announced(out) == list(range(before + 1, done + 1))
        assert not list(run.rglob("*.part"))
        return out

    def workers_run(pid: int) -> bool:
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) == 2

    def evaluates(pid: int) -> bool:
        record = run / "run.json"
        return record.exists() and "trained" in json.loads(record.read_text())

    out = interrupt_when(workers_run)
    assert not announced(out)
    assert not last.exists()
    interrupt_when(lambda pid: last.exists())
    # As if it had been killed when the checkpoint was there and its epoch was not announced yet.
    table = run / "metrics.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    out = interrupt_when(evaluates)
    assert "resuming after " in out
    assert not (run / "evaluation" / "report.html").exists()

    assert main(arguments) == 0
    for name in ("last.ckpt", "best.ckpt"):
        assert same_weights(whole / "checkpoints" / name, run / "checkpoints" / name)
    assert same_history(whole, run, read_rows)
    assert len(json.loads((run / "run.json").read_text())["commands"]) == 4


def test_trained_streams_can_be_fused(tiny_arguments: Arguments, tmp_path: Path, read_rows: ReadRows) -> None:
    checkpoints = {}
    for name in ("rgb", "flow"):
        run = tmp_path / name
        assert main(tiny_arguments(run, model__streams=f"[{name}]", trainer__epochs=1)) == 0
        rows = read_rows(run / "evaluation" / "summary.csv")
        assert {row["output"] for row in rows} == {name}
        checkpoints[name] = run / "checkpoints" / "best.ckpt"
    fused = tmp_path / "fused"
    arguments = tiny_arguments(
        fused,
        model__rgb_checkpoint=checkpoints["rgb"],
        model__flow_checkpoint=checkpoints["flow"],
        model__freeze_streams="true",
        trainer__epochs=1,
    )
    assert main(arguments) == 0
    state = load_checkpoint(fused / "checkpoints" / "best.ckpt").state
    for name, path in checkpoints.items():
        prefix = f"streams.{name}."
        before = load_checkpoint(path).state
        assert [key for key in before if key.startswith(prefix)]
        for key, value in before.items():
            assert torch.equal(state[key], value), key
    assert float(state["fusion.combine.weight"].abs().sum()) > 0


def test_a_stream_checkpoint_without_the_stream_is_refused(
    tiny_run: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb = tmp_path / "rgb"
    assert main(tiny_arguments(rgb, model__streams="[rgb]", trainer__epochs=1)) == 0
    checkpoint = rgb / "checkpoints" / "best.ckpt"
    error = refused(capsys, tiny_arguments(tmp_path / "run", model__flow_checkpoint=checkpoint))
    assert "holds no flow stream" in error
    checkpoint = tiny_run / "checkpoints" / "best.ckpt"
    error = refused(
        capsys, tiny_arguments(tmp_path / "other", model__flow_checkpoint=checkpoint, model__hidden=16)
    )
    assert "another architecture" in error


@pytest.mark.slow
def test_two_processes_train_together(
    tiny_arguments: Arguments, tiny_run: Path, tmp_path: Path, read_rows: ReadRows
) -> None:
    run = tmp_path / "ddp"
    arguments = tiny_arguments(
        run, trainer__devices=2, trainer__epochs=1, model__rgb__freeze_backbone="true", data__feature_passes=1,
        data__features=tmp_path / "features",
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "twostream.cli.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("shared by 2 processes, to compute") >= 2
    assert len(read_rows(run / "metrics.csv")) == 1
    assert (run / "evaluation" / "report.md").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_mixed_precision_accumulation_and_other_optimisers(
    optimizer: str, tiny_arguments: Arguments, tiny_run: Path, tmp_path: Path, read_rows: ReadRows
) -> None:
    run = tmp_path / "run"
    settings = {
        "optim__name": optimizer,
        "trainer__precision": "bf16-mixed",
        "trainer__accumulate": 2,
        "trainer__epochs": 1,
        "trainer__tensorboard": "true",
        "data__split__val_fraction": 0,
        "data__workers": 1,
    }
    assert main(tiny_arguments(run, **settings)) == 0
    row = read_rows(run / "metrics.csv")[0]
    assert float(row["train_loss"]) > 0
    assert row["val_loss"] == ""
    assert list((run / "tensorboard").glob("events*"))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_no_data_means_the_demo() -> None:
    config = parse([])
    assert config.demo
    assert config.data.root == "twostream-demo/videos"
    assert parse(["--trainer.epochs", "3"]).trainer.epochs == 3
    assert parse(["--trainer.epochs", "3"]).demo
    assert not parse(["--data.root", "videos"]).demo
    assert parse(["--data.root", "videos"]).out is None


def test_print_config_shows_what_would_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, demo in (([], True), (["--data.root=videos"], False)):
        with pytest.raises(SystemExit) as end:
            main(["--print_config", *arguments])
        assert not end.value.code
        assert yaml.safe_load(capsys.readouterr().out)["demo"] is demo


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_complete(path: Path) -> None:
    config = parse(["--config", str(path)])
    assert config.data.root
    assert config.data.cache
    assert set(yaml.safe_load(path.read_text())) <= set(vars(config))


def test_there_is_a_config_for_every_data_set() -> None:
    assert {path.stem for path in CONFIGS} == {"demo", "jhmdb", "jhmdb-kinetics", "ucf101", "ucf50", "hmdb51"}


def test_unknown_keys_and_wrong_types_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--model.depth" in refused(capsys, ["--model.depth", "3"])
    config = tmp_path / "config.yaml"
    config.write_text("data:\n  rooot: here\n")
    assert "rooot" in refused(capsys, ["--config", str(config)])
    assert "trainer.epochs" in refused(capsys, ["--trainer.epochs", "many"])
    assert "none.yaml" in refused(capsys, ["--config", str(tmp_path / "none.yaml")])


def test_missing_and_empty_folders_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    flags = [f"--data.cache={tmp_path / 'cache'}", f"--out={tmp_path / 'run'}", "--model.weights=none"]
    assert f"{missing} is not a folder" in refused(capsys, [f"--data.root={missing}", *flags])
    (tmp_path / "empty").mkdir()
    assert "no videos" in refused(capsys, [f"--data.root={tmp_path / 'empty'}", *flags])


def test_flow_of_another_make_is_refused(
    tiny_run: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, tiny_arguments(tmp_path / "run", flow__bound=10))
    assert "has bound 20.0" in error
    assert "--data.cache" in error


def test_one_class_only_is_refused(
    tiny_videos: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = demo_classes()[0]
    shutil.copytree(tiny_videos / name, tmp_path / "videos" / name)
    arguments = tiny_arguments(
        tmp_path / "run", data__root=tmp_path / "videos", data__cache=tmp_path / "cache"
    )
    error = refused(capsys, arguments)
    assert "class" in error
    assert name in error


def test_fewer_frames_than_a_clip_needs_are_refused(
    tiny_run: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, tiny_arguments(tmp_path / "run", data__stack=20))
    assert "fewer flow fields than data.stack=20" in error


def test_broken_videos_are_named_and_can_be_left_out(
    tiny_videos: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(tiny_videos, videos, ignore=shutil.ignore_patterns("demo.json"))
    broken = videos / demo_classes()[0] / f"{demo_classes()[0]}_g09_c01.avi"
    broken.write_text("this is no video")
    places = {"data__root": videos, "data__cache": tmp_path / "cache"}
    error = refused(capsys, tiny_arguments(tmp_path / "run", **places))
    assert broken.name in error
    assert "data.missing_videos=skip" in error
    arguments = tiny_arguments(tmp_path / "run2", **places, data__missing_videos="skip", trainer__epochs=1)
    assert main(arguments) == 1
    assert "1 videos failed" in capsys.readouterr().out
    assert broken.name in (tmp_path / "cache" / "failures.csv").read_text()


def test_a_damaged_cache_file_is_named(
    tiny_videos: Path, tiny_cache: Path, tiny_run: Path, tiny_arguments: Arguments, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    shutil.copytree(tiny_cache, cache)
    damaged = sorted(cache.rglob("*.flow.zip"))
    for path in damaged:  # a flipped bit in the middle, which only the checksum can notice
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
    capsys.readouterr()
    assert (
        main(tiny_arguments(tmp_path / "run", data__cache=cache, data__steps=4, flow__precompute="false"))
        == 1
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ".flow.zip" in error


def test_a_cache_made_with_other_settings_is_matched_by_the_flags_that_are_named(
    tiny_videos: Path, tiny_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    flow = FlowSettings("farneback", parameters={"winsize": 9}, size=(56, 42), bound=15.0)
    made = PrecomputeConfig(tiny_videos, cache, flow, StorageSettings("png", rgb=True), workers=1)
    precompute(made, progress=False)
    arguments = tiny_arguments(tmp_path / "run", data__cache=cache, trainer__epochs=1)
    error = refused(capsys, arguments)
    flags = re.search(r"made with \((--flow[^)]*)\)", error)[1].split()
    made_with = "--flow.parameters.winsize 9 --flow.size 56x42 --flow.bound 15.0 --storage.codec png"
    assert flags == made_with.split()
    assert main([*arguments, *flags]) == 0
    assert "0 videos done, 36 already there" in capsys.readouterr().out


def test_every_setting_of_precompute_is_one_of_training() -> None:
    known = parse(["--data.root", "videos"])
    assert isinstance(known.flow, FlowSettings)
    assert isinstance(known.storage, StorageSettings)
    given = parse(["--data.root", "videos", "--flow.device", "cuda:0,cuda:1", "--flow.size", "340x256"])
    assert (given.flow.device, given.flow.size) == ("cuda:0,cuda:1", (340, 256))


def test_a_damaged_last_checkpoint_is_named(
    tiny_arguments: Arguments, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half a checkpoint")
    assert "last.ckpt is not a readable checkpoint" in refused(capsys, tiny_arguments(run))
