"""A tiny data set of real video files and runs trained on it, shared by the tests of everything that needs one."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings, precompute
from twostream.cli.train import main as train_main
from twostream.demo.generate import DemoSettings, generate_demo

ROOT = Path(__file__).parents[2]
TINY = DemoSettings(groups=4, clips=1, min_frames=10, max_frames=12, width=64, height=48)


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 videos, 9 classes, 4 source groups, 10 to 12 frames of 64x48."""
    return generate_demo(tmp_path_factory.mktemp("tiny") / "videos", settings=TINY, progress=False)


@pytest.fixture(scope="session")
def tiny_cache(tiny_videos: Path) -> Path:
    """The flow cache of the tiny videos, with RGB frames."""
    cache = tiny_videos.parent / "cache"
    settings = PrecomputeConfig(
        tiny_videos,
        cache,
        flow=FlowSettings(method="farneback"),
        storage=StorageSettings(rgb=True),
        workers=1,
    )
    assert precompute(settings, progress=False).failures == []
    return cache


@pytest.fixture(scope="session")
def modules_after() -> Callable[[str], set[str]]:
    """Run code in a new interpreter; give the names of the modules that are loaded when it ends."""

    def run(code: str) -> set[str]:
        report = "import sys, atexit; atexit.register(lambda: print('\\nLOADED', *sys.modules))"
        result = subprocess.run(
            [sys.executable, "-c", f"{report}\n{code}"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return set(result.stdout.rpartition("LOADED")[2].split())

    return run


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, str]]]:
    """Read a CSV file into a dict a row."""

    def read(path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    return read


Arguments = Callable[..., list[str]]


@pytest.fixture(scope="session")
def tiny_arguments(tiny_videos: Path, tiny_cache: Path) -> Arguments:
    """Arguments of a training run that takes seconds; called with the run directory and changed settings."""

    def make(out: Path, **changes: object) -> list[str]:
        settings = {
            "data.root": tiny_videos,
            "data.cache": tiny_cache,
            "data.name": "tiny",
            "data.steps": 2,
            "data.stack": 3,
            "data.size": 32,
            "data.batch_size": 9,
            "data.workers": 0,
            "data.eval_clips": 2,
            "data.augment.flip": 0,
            "flow.method": "farneback",
            "flow.workers": 1,
            "model.backbone": "mobilenet_v3_small",
            "model.weights": "none",
            "model.hidden": 8,
            "trainer.epochs": 2,
            "trainer.accelerator": "cpu",
            "trainer.tensorboard": "false",
            "out": out,
        }
        settings.update({key.replace("__", "."): value for key, value in changes.items()})
        return [f"--{key}={value}" for key, value in settings.items()]

    return make


@pytest.fixture(scope="session")
def tiny_run(tiny_videos: Path, tiny_arguments: Arguments) -> Path:
    """The directory of a finished two-stream run."""
    run = tiny_videos.parent / "run"
    assert train_main(tiny_arguments(run)) == 0
    return run
