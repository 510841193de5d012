"""Who may go on in a run directory, and what it records."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from twostream import run_directory
from twostream.config import TrainConfig
from twostream.data.annotations import VideoRecord
from twostream.data.record import SplitRecord
from twostream.data.settings import DataConfig
from twostream.data.splits import Split
from twostream.errors import ConfigError
from twostream.training.settings import TrainerConfig

CONFIG = TrainConfig(
    out="run", data=DataConfig(root="videos", cache="cache"), trainer=TrainerConfig(epochs=3)
)
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a run that has trained for an epoch."""
    run_directory.claim(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    return tmp_path / "run"


def change_settings(run: Path, change: Change) -> None:
    path = run / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    change(settings)
    path.write_text(yaml.safe_dump(settings))


def test_the_settings_are_kept_as_plain_values(run: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text()) == dataclasses.asdict(CONFIG)


def test_the_same_settings_go_on(run: Path) -> None:
    run_directory.claim(run, CONFIG)
    free = dataclasses.replace(
        CONFIG,
        out="elsewhere",
        data=dataclasses.replace(CONFIG.data, workers=3),
        trainer=dataclasses.replace(CONFIG.trainer, progress_bar=False),
    )
    run_directory.claim(run, free)


def test_other_settings_are_named(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(seed 0 -> 1\); choose another"):
        run_directory.claim(run, dataclasses.replace(CONFIG, seed=1))
    many = dataclasses.replace(CONFIG, data=DataConfig(root="x", cache="y", steps=1, stack=1, size=32))
    with pytest.raises(ConfigError, match=r"data\.root 'videos' -> 'x'.*; and 2 more\)"):
        run_directory.claim(run, many)


def test_settings_that_are_newer_than_the_run_have_their_defaults_in_it(run: Path) -> None:
    def forget(settings: dict[str, Any]) -> None:
        del settings["model"]["subtract_mean_flow"], settings["flow"], settings["data"]["split"]["leakage"]

    change_settings(run, forget)
    run_directory.claim(run, CONFIG)
    changed = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, subtract_mean_flow=True))
    with pytest.raises(ConfigError, match=r"model\.subtract_mean_flow False -> True"):
        run_directory.claim(run, changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings["model"].update(depth=3), "depth"),
        (lambda settings: settings["trainer"].update(epochs="many"), "epochs"),
        (lambda settings: settings["data"].update(size=1), "size must be at least 16"),
    ],
)
def test_settings_that_are_not_known_here_are_refused(run: Path, change: Change, message: str) -> None:
    change_settings(run, change)
    with pytest.raises(ConfigError, match=rf"config\.yaml holds settings .* does not know .*{message}"):
        run_directory.claim(run, CONFIG)
    run_directory.claim(run, dataclasses.replace(CONFIG, overwrite=True))
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("text", ["", "- a list\n", "{half"])
def test_a_damaged_configuration_is_named(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml holds no settings|cannot be used"):
        run_directory.claim(run, CONFIG)


def test_before_the_first_epoch_ends_settings_may_change(run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    run_directory.claim(run, dataclasses.replace(CONFIG, seed=1))
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 1


def test_the_record_is_kept_and_added_to(run: Path) -> None:
    assert run_directory.read_record(run) == {}
    run_directory.write_record(run, {"seed": 3})
    assert run_directory.read_record(run) == {"seed": 3}
    assert [path.name for path in run.glob("run.json*")] == ["run.json"]


def test_versions_name_python_and_the_packages() -> None:
    versions = run_directory.find_versions()
    assert versions["python"].startswith("3.")
    assert "torch" in versions


def test_the_split_keeps_every_name(tmp_path: Path) -> None:
    names = ["a\rb", "a\nb", "a\tb", 'a"b', "a,b", " a", "=1+1", "a\udcffb"]
    records = tuple(VideoRecord(f"{name}.avi", 0, name) for name in names)
    split = Split(train=records, validation=(), test=records[:1], name="by hand")
    run_directory.write_split(tmp_path, SplitRecord.of(split, ("walk\r, slowly",), "names", {}))
    with (tmp_path / "split.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["group"] for row in rows] == [*names, names[0]]
    assert [row["video"] for row in rows] == [record.path for record in (*records, records[0])]
    assert {row["class"] for row in rows} == {"walk\r, slowly"}
    assert [row["side"] for row in rows] == ["train"] * len(names) + ["test"]


def small_record() -> SplitRecord:
    train, test = VideoRecord("b/1.avi", 0, "x"), VideoRecord("a/2.avi", 1, "y")
    split = Split((train,), (), (test,), "by hand")
    return SplitRecord.of(split, ("b", "a"), "names", {"b/1.avi": "0f"}, ("one",), ("c/3.avi",))


def test_a_split_is_read_back_whole_once_something_was_trained(run: Path) -> None:
    record = small_record()
    run_directory.write_record(run, {"split": record.words()})
    run_directory.write_split(run, record)
    assert run_directory.read_split(run) == record
    (run / "checkpoints" / "last.ckpt").unlink()
    assert run_directory.read_split(run) is None


@pytest.mark.parametrize(
    ("before", "after"), [(",test,", ",exam,"), (",a,", ",unknown,"), ("video,", "name,"), ('"', "")]
)
def test_a_split_that_cannot_be_read_stops_the_run(run: Path, before: str, after: str) -> None:
    run_directory.write_record(run, {"split": small_record().words()})
    run_directory.write_split(run, small_record())
    path = run / "split.csv"
    text = path.read_text()
    path.write_text(text.replace(before, after) if before in text else 'video,"')
    with pytest.raises(ConfigError, match=r"split\.csv cannot be read .* put it back"):
        run_directory.read_split(run)
