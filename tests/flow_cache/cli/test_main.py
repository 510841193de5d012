import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.reader import CacheReader
from flow_cache.cli.main import main
from flow_cache.pipeline.outcome import PrecomputeInterrupted, PrecomputeSummary
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.storage.paths import list_files


@pytest.fixture
def video(tmp_path: Path, make_video) -> Path:
    return make_video(tmp_path / "videos" / "a.avi", frames=3)


class Recorder:
    """Runs nothing and keeps the configs that the command line builds."""

    def __init__(self) -> None:
        self.configs: list[PrecomputeConfig] = []

    def __call__(self, config: PrecomputeConfig) -> PrecomputeSummary:
        self.configs.append(config)
        return PrecomputeSummary(0, 0, [], 0, 0.0, Path(config.output))


def test_flags_fill_the_config() -> None:
    run = Recorder()
    assert main(["precompute", "in", "--out", "out"], run=run) == 0
    assert run.configs[0] == PrecomputeConfig("in", "out")
    flags = (
        "in --output out --method farneback --preset opencv --parameters.winsize 9 --short-side 240 "
        "--bound 15 --step 2 --codec jpeg --max-error 0 --quality 80 --rgb --rgb-quality 70 "
        "--rgb-short-side 480 --workers 2 --overwrite --keep-partial --limit 5"
    )
    expected = PrecomputeConfig(
        "in",
        "out",
        FlowSettings("farneback", "opencv", {"winsize": 9}, short_side=240, bound=15.0, step=2),
        StorageSettings("jpeg", max_error=0, quality=80, rgb=True, rgb_quality=70, rgb_short_side=480),
        workers=2,
        overwrite=True,
        keep_partial=True,
        limit=5,
    )
    assert main(["precompute", *flags.split()], run=run) == 0
    flags = flags.replace("-side", "_side").replace("keep-p", "keep_p")
    assert main(["precompute", *flags.split()], run=run) == 0
    assert run.configs[1:] == [expected, expected]


@pytest.mark.parametrize("size", ["340x256", "340,256", "[340, 256]"])
def test_size_is_written_in_several_ways(size: str) -> None:
    run = Recorder()
    assert main(["precompute", "in", "--out", "out", "--size", size], run=run) == 0
    assert run.configs[0].flow.size == (340, 256)


def test_config_file_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Recorder()
    flags = ["in", "--out", "out", "--rgb", "--size", "[64, 48]", "--method", "farneback", "--limit", "3"]
    assert main(["precompute", *flags, "--print_config"], run=run) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["rgb"] is True
    (tmp_path / "c.yaml").write_text(text)
    config = str(tmp_path / "c.yaml")
    assert main(["precompute", "--config", config, "--no-rgb", "--limit", "7"], run=run) == 0
    assert run.configs == [PrecomputeConfig("in", "out", FlowSettings("farneback", size=(64, 48)), limit=7)]
    # Arguments override the file, before or after it.
    assert main(["precompute", "other", "--limit", "8", f"--config={config}"], run=run) == 0
    flow, storage = FlowSettings("farneback", size=(64, 48)), StorageSettings(rgb=True)
    assert run.configs[1] == PrecomputeConfig("other", "out", flow, storage, limit=8)


def test_help_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["precompute", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--short-side" in text
    assert "Flow beyond this many pixels per step is clipped." in text
    assert "Worker processes; 0 = one for every core." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "command"),
        ("compute in", "invalid choice"),
        ("precompute", "INPUT is missing"),
        ("precompute in", "--out is missing"),
        ("precompute /no/such --out {tmp}/out", "/no/such: no such file or folder"),
        ("precompute {tmp}/empty --out {tmp}/out", "no videos found"),
        ("precompute in --out out --colour red", "--colour"),
        ("precompute in --out out --method magic", "magic"),
        ("precompute in --out out --size big", "WIDTHxHEIGHT"),
        ("precompute in --out out --workers many", "many"),
        ("precompute in --config {tmp}/bad.yaml", "unknown_key"),
        ("precompute in --config {tmp}/none.yaml", "none.yaml"),
        ("precompute {tmp} --out {tmp}/out --device gpu", "device must be cpu, cuda"),
        ("info {tmp}/none", "no such cache"),
        ("info", "cache"),
        ("precompute {tmp} --out {tmp}/out --shard 3/2", "shard must be i/n"),
        ("precompute {tmp} --out {tmp}/out --root {tmp}", "lists and manifests only"),
        ("precompute {tmp}/none --out {tmp}/out --dry-run", "no such file or folder"),
        ("verify {tmp}/none", "no such cache"),
        ("verify {tmp} --repair", "--repair and --root need --videos"),
        ("export {tmp}/none --out {tmp}/out", "no such cache"),
        ("export {tmp}", "--out is missing"),
        ("export --out {tmp}/out", "CACHE is missing"),
        ("export {tmp} --out {tmp}/out --format gif", "gif"),
        ("export {tmp} --out {tmp}/out --start-index 2", "2"),
        ("import {tmp} --out {tmp}/out", "no videos found"),
        ("import {tmp}", "--out is missing"),
        ("view {tmp}/a.flow.zip", "--out is missing"),
        ("view {tmp}/a.flow.zip --out {tmp}/a.gif", "must end in one of"),
    ],
)
def test_unusable_arguments_are_one_line_and_status_2(
    tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("unknown_key: 1\n")
    assert main(arguments.format(tmp=tmp_path).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("flow-cache: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_precompute_then_info(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    command = [
        "precompute",
        str(video.parent),
        "--out",
        str(cache),
        "--method",
        "farneback",
        "--workers",
        "1",
    ]
    assert main(command) == 0
    assert "videos done" in capsys.readouterr().out
    assert main([*command, "--bound", "9"]) == 2
    assert "bound 20.0 (asked for: 9.0)" in capsys.readouterr().err

    assert main(["info", str(cache)]) == 0
    text = capsys.readouterr().out
    assert "2 from 3 frames" in text
    assert "method farneback" in text
    assert main(["info", str(cache), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["videos"], info["fields"], info["damaged"]) == (1, 2, [])
    assert info["made"][0]["parameters"]["winsize"] == 13
    assert info["sizes"] == {"64x48": 1}
    assert main(["info", str(cache / "a.flow.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == (cache / "a.flow.zip").stat().st_size

    (cache / "b.flow.zip").write_bytes(b"junk")
    assert main(["info", str(cache)]) == 1
    captured = capsys.readouterr()
    assert "1 files" in captured.out
    assert captured.err.startswith("flow-cache: error: ")
    assert "b.flow.zip" in captured.err
    (video.parent / "text.avi").write_text("no video")
    assert main(command) == 1
    assert "failed: text.avi: cannot be opened as a video" in capsys.readouterr().out


def test_every_command_on_one_cache(
    video: Path, tmp_path: Path, make_video, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    make_video(video.parent / "b.avi", frames=4)
    (video.parent / "list.txt").write_text("a.avi\nb.avi\n")
    command = [
        "precompute",
        str(video.parent / "list.txt"),
        "--out",
        str(cache),
        "--method",
        "farneback",
        "--rgb",
    ]
    assert main([*command, "--workers", "1", "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "new videos 2" in text
    assert "about 5" in text
    assert not cache.exists()
    assert main([*command, "--workers", "1", "--shard", "1/1"]) == 0
    assert main([*command, "--bound", "9", "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert "other settings 2" in " ".join(captured.out.split())
    assert "made with other parameters" in captured.err

    assert main(["verify", str(cache), "--videos", str(video.parent / "list.txt"), "--decode"]) == 0
    assert "2 files, 5 fields" in capsys.readouterr().out
    sound = (cache / "a.flow.zip").read_bytes()
    (cache / "a.flow.zip").write_bytes(sound[:-1])
    assert main(["verify", str(cache)]) == 1
    assert "bad: a.flow.zip: is not a whole zip file" in capsys.readouterr().out
    assert main(["verify", str(cache), "--videos", str(video.parent), "--repair", "--workers", "1"]) == 0
    assert "repaired: a.flow.zip" in capsys.readouterr().out
    assert (cache / "a.flow.zip").read_bytes() == sound

    assert (
        main(
            ["export", str(cache), "--out", str(out), "--format", "png", "--start_index", "0", "--no-images"]
        )
        == 0
    )
    assert sorted(path.name for path in (out / "a").iterdir())[0] == "flow_x_00000.png"
    assert (
        main(["import", str(out), "--out", str(tmp_path / "again"), "--bound", "20", "--max-error", "0"]) == 0
    )
    assert "2 videos, 5 fields imported" in capsys.readouterr().out
    with CacheReader(tmp_path / "again" / "b.flow.zip") as again, CacheReader(cache / "b.flow.zip") as first:
        assert (again.flow(range(3)) == first.flow(range(3))).all()
    assert main(["view", str(cache / "b.flow.zip"), "--out", str(tmp_path / "b.png"), "--fields", "2"]) == 0
    assert (tmp_path / "b.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["info", str(cache), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert sum(info["clip_histogram"].values()) == 2
    assert list(info["beyond"]) == ["1", "2", "3", "5", "7.5", "10", "15"]
    assert 1 > info["beyond"]["1"] > info["beyond"]["15"] >= 0
    for sub in ("precompute", "verify", "export", "import", "view", "info"):
        assert main([sub, "--help"]) == 0
    assert "99.5 %" in capsys.readouterr().out


def test_info_of_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 0
    assert "videos" in capsys.readouterr().out


def test_tool_is_the_command_and_prints_no_traceback(video: Path, tmp_path: Path, repository: Path) -> None:
    tool = [sys.executable, str(repository / "tools" / "precompute_flow.py")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (video.parent / "text.avi").write_text("no video")
    command = [
        *tool,
        str(video.parent),
        "--out",
        str(tmp_path / "cache"),
        "--method",
        "farneback",
        "--preset",
        "default",
    ]
    run = subprocess.run(
        [*command, "--short-side", "24", "--rgb", "--workers", "2"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == ""
    with CacheReader(tmp_path / "cache" / "a.flow.zip") as reader:
        assert (reader.height, reader.width, reader.has_rgb) == (24, 32, True)
    run = subprocess.run(
        [*tool, "nowhere", "--out", "x"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "flow-cache: error: nowhere: no such file or folder\n"


def test_interruption_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: PrecomputeConfig) -> PrecomputeSummary:
        raise PrecomputeInterrupted(PrecomputeSummary(3, 2, [], 30, 1.0, Path("out"), remaining=4))

    assert main(["precompute", "in", "--out", "out"], run=interrupted) == 130
    error = capsys.readouterr().err
    assert "5 videos are done, 0 failed, 4 remain; the same command goes on from here" in error

    def early(config: PrecomputeConfig) -> PrecomputeSummary:
        raise KeyboardInterrupt

    assert main(["precompute", "in", "--out", "out"], run=early) == 130


@pytest.mark.parametrize(
    ("number", "send", "times", "expected"),
    [
        (signal.SIGINT, os.killpg, 1, 130),
        (signal.SIGTERM, os.killpg, 2, 143),
        (signal.SIGTERM, os.kill, 1, 143),
    ],
)
def test_ctrl_c_and_sigterm_stop_cleanly(
    number: int,
    send: Callable[[int, int], None],
    times: int,
    expected: int,
    tmp_path: Path,
    repository: Path,
    make_video,
) -> None:
    """A terminal and `timeout` signal every process of the group, `timeout` twice; others only the main one."""
    for video in range(3):
        make_video(tmp_path / "videos" / f"{video}.avi", frames=100, width=160, height=120, seed=video)
    cache = tmp_path / "cache"
    tool = [sys.executable, str(repository / "tools" / "precompute_flow.py")]
    command = [
        *tool,
        str(tmp_path / "videos"),
        "--out",
        str(cache),
        "--method",
        "farneback",
        "--workers",
        "2",
    ]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # Tests that a shell started in the background inherit an ignored SIGINT; a terminal's command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(status.size > 4096 for name, status in list_files(cache).items() if name.endswith(".tmp")):
        assert run.poll() is None  # an empty one is only there to see whether the folder can be written
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for _ in range(times):
        send(run.pid, number)
        time.sleep(0.01)
    out, error = run.communicate(timeout=60)
    assert run.returncode == expected
    assert error.startswith("flow-cache: error: interrupted: ")
    assert error.count("\n") == 1
    assert "Traceback" not in out
    assert not list(cache.glob(".*.flow.tmp"))
    assert (cache / "index.csv").exists()
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    assert len(list(cache.glob("*.flow.zip"))) == 3
