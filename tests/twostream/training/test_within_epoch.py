"""A training that is stopped in the middle of an epoch and goes on ends as one that never stopped."""

import csv
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from twostream import ActionDataModule, TrainConfig, TrainerConfig
from twostream.checkpoints import BEST, LAST, UNFINISHED, load_checkpoint
from twostream.errors import ConfigError
from twostream.training.callbacks import BestAndLast

from .conftest import Train

OTHERWISE = {
    "seconds",
    "clips_per_second",
    "wait_share",
    "clock",
    "workers",
    "sha256",
}  # the card's, workers included


class Recorded(ActionDataModule):
    """Writes down which videos a training sees, and stops it, as Ctrl-C does, after so many batches of both sides."""

    def __init__(self, seen: list[list[int]], most: int, *args: Any) -> None:
        data, model, *others = args
        super().__init__(data, model.streams, *others)
        self.seen, self.left = seen, most

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        if self.trainer is not None and self.trainer.training:
            self.seen.append([self.trainer.current_epoch, *batch["index"].tolist(), int(batch["flow"].sum())])
        return batch


@pytest.fixture(scope="module")
def config(tiny_config: TrainConfig) -> TrainConfig:
    """All that is random or has a state of its own: dropout, mixup, an average, a schedule; steps of two batches."""
    return dataclasses.replace(
        tiny_config,
        trainer=dataclasses.replace(
            tiny_config.trainer, checkpoint_minutes=1e-9, ema=0.9, mixup=0.4, accumulate=2, patience=2
        ),
        data=dataclasses.replace(tiny_config.data, batch_size=3, balance=True),
        optim=dataclasses.replace(tiny_config.optim, schedule="plateau", plateau_patience=0),
    )


@pytest.fixture(scope="module")
def whole(
    config: TrainConfig, train: Train, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[int]]]:
    """The folder of a training that never stopped, and the batches that it has seen."""
    folder, seen = tmp_path_factory.mktemp("whole"), []
    assert not train(config, folder, 2, functools.partial(Recorded, seen, -1)).interrupted
    return folder, seen


def content(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds, apart from times and the number of workers."""

    def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in OTHERWISE:
                    yield from flat(f"{name}/{key}", inner)
        elif isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                yield from flat(f"{name}/{place}", inner)
        else:
            yield name, value

    return dict(flat("", torch.load(path, weights_only=True)))


def differences(one: Path, other: Path) -> list[str]:
    first, second = content(one), content(other)
    same = (
        torch.equal(first[name], second[name])
        if isinstance(first[name], torch.Tensor)
        else first[name] == second[name]
        for name in first
    )
    return [name for name, alike in zip(first, same, strict=True) if not alike] + sorted(
        first.keys() ^ second.keys()
    )


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in OTHERWISE} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("most", "workers"), [(3, 0), (7, 2)])
def test_a_training_that_is_stopped_within_an_epoch_ends_as_one_that_is_not(
    most: int,
    workers: int,
    config: TrainConfig,
    whole: tuple[Path, list[list[int]]],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Six batches and a step of the optimiser in two: it goes on after the last step, with the batches that follow."""
    folder, expected = whole
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
    seen: list[list[int]] = []
    interrupted = 0
    while train(config, tmp_path, 2, functools.partial(Recorded, seen, most)).interrupted:
        interrupted += 1
        unfinished = tmp_path / "checkpoints" / UNFINISHED
        if unfinished.exists():
            done = load_checkpoint(unfinished)
            del seen[6 * done.epoch + done.batches :]  # they will be seen again
            assert done.batches == 2 * (len(seen) % 6 // 2)
        if interrupted > 1:
            most = -1
    assert interrupted == 2
    assert seen == expected
    for name in (BEST, LAST):
        assert differences(folder / "checkpoints" / name, tmp_path / "checkpoints" / name) == []
    assert history(tmp_path) == history(folder)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {BEST, LAST}
    assert "resuming after batch " in capsys.readouterr().out


class Clock:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("minutes", "expected"), [(1, [2, 4, 6, 8]), (3, [4, 8]), (0, [])])
def test_a_checkpoint_is_written_when_it_is_time_after_a_step_and_not_at_the_end(
    minutes: float, expected: list[int], tmp_path: Path
) -> None:
    clock, written = Clock(), []
    keeper = BestAndLast(
        tmp_path, None, larger_is_better=True, then=lambda trainer: None, minutes=minutes, clock=clock
    )

    def save(path: Path) -> None:
        checkpoint: dict[str, Any] = {}
        keeper.on_save_checkpoint(trainer, None, checkpoint)
        path.write_text(str(checkpoint["batches"]))

    trainer: Any = SimpleNamespace(
        num_training_batches=10,
        accumulate_grad_batches=2,
        is_global_zero=True,
        current_epoch=0,
        save_checkpoint=save,
        strategy=SimpleNamespace(broadcast=lambda due: due),
    )
    for batch in range(10):
        clock.now += 45
        keeper.on_train_batch_end(trainer, None, None, None, batch)
        if (unfinished := tmp_path / UNFINISHED).exists():
            written.append(int(unfinished.read_text()))
    assert sorted(set(written)) == expected
    keeper.on_train_epoch_end(trainer, None)
    assert (tmp_path / LAST).read_text() == "0"
    assert not unfinished.exists()


def test_minutes_are_not_negative() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint_minutes must not be negative, got -1; 0 "):
        TrainerConfig(checkpoint_minutes=-1)
