"""What is kept and announced at the end of an epoch, and in which order."""

import csv
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flow_cache import interruptible
from twostream.checkpoints import BEST, LAST
from twostream.data.batches import Waiting
from twostream.training.callbacks import BestAndLast, EpochLog, EpochProgress


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """Tests that a shell started in the background inherit an ignored SIGINT; a terminal's command does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make_trainer(epoch: int, save: Any) -> Any:
    """What the callbacks ask a trainer for, after an epoch that is counted from 0."""
    names = [f"{side}_{what}" for side in ("train", "val") for what in ("loss", "loss_flow", "top1_flow")]
    return SimpleNamespace(
        callback_metrics={name: torch.tensor(0.5) for name in names},
        current_epoch=epoch,
        max_epochs=4,
        is_global_zero=True,
        save_checkpoint=save,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
        train_dataloader=SimpleNamespace(dataset=range(8)),
    )


def end_epoch(trainer: Any, log: EpochLog, keeper: BestAndLast) -> None:
    """Call the hooks in Lightning's order, which has checkpoints last."""
    for callback in (log, keeper):
        callback.on_train_epoch_end(trainer, None)


def epochs(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_an_epoch_is_announced_once_its_checkpoints_are_on_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EpochLog(tmp_path / "metrics.csv", ("flow",))
    seen = []

    def announce(trainer: Any) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        log.announce(trainer)

    keeper = BestAndLast(tmp_path, "val_loss", larger_is_better=False, then=announce)
    end_epoch(make_trainer(0, lambda path: path.write_bytes(b"state")), log, keeper)
    assert seen == [[BEST, LAST]]
    assert epochs(tmp_path / "metrics.csv") == ["1"]
    assert capsys.readouterr().out.startswith("epoch 1/4  loss 0.500")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_epoch_whose_checkpoint_cannot_be_written_is_not_announced(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        path.write_bytes(b"half of the st")
        raise error

    log = EpochLog(tmp_path / "metrics.csv", ("flow",))
    keeper = BestAndLast(tmp_path, None, larger_is_better=True, then=log.announce)
    with pytest.raises(type(error)):
        end_epoch(make_trainer(0, refuse), log, keeper)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_checkpoints(number: signal.Signals, tmp_path: Path) -> None:
    def save(path: Path) -> None:
        signal.raise_signal(number)
        path.write_bytes(b"state")

    log = EpochLog(tmp_path / "metrics.csv", ("flow",))
    keeper = BestAndLast(tmp_path, "val_loss", larger_is_better=False, then=log.announce)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        end_epoch(make_trainer(0, save), log, keeper)
    assert {path.name for path in tmp_path.iterdir()} == {BEST, LAST, "metrics.csv"}


def test_a_checkpoint_holds_the_row_of_an_epoch_that_was_not_announced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = EpochLog(path, ("flow",))
    states = []
    keeper = BestAndLast(
        tmp_path, None, larger_is_better=True, then=lambda trainer: states.append(log.state_dict())
    )
    end_epoch(make_trainer(0, lambda path: path.write_bytes(b"state")), log, keeper)
    assert not path.exists()
    resumed = EpochLog(path, ("flow",))
    resumed.load_state_dict(states[0])
    resumed.on_fit_start(make_trainer(1, None), None)
    assert epochs(path) == ["1"]


def test_rows_are_taken_from_the_file_where_the_checkpoint_holds_none(tmp_path: Path) -> None:
    """Those of the epochs that the checkpoint has seen; a later one is trained again."""
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train_loss\n1,0.25\n2,0.125\n")
    log = EpochLog(path, ("flow",))
    trainer = make_trainer(1, lambda path: path.write_bytes(b"state"))
    log.on_fit_start(trainer, None)
    log.on_train_start(trainer, None)
    end_epoch(trainer, log, BestAndLast(tmp_path, None, larger_is_better=True, then=log.announce))
    assert epochs(path) == ["1", "2"]
    assert path.read_text().splitlines()[1].startswith("1,,,,0.25,")


class Clock:
    """A clock that moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_epoch_says_which_share_of_it_was_waiting_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    waiting = Waiting(clock)
    log = EpochLog(tmp_path / "metrics.csv", ("flow",), waiting)
    keeper = BestAndLast(tmp_path, None, larger_is_better=True, then=log.announce)
    for epoch, (seconds, waited) in enumerate([(8.0, 2.0), (24.0, 12.0)]):
        trainer = make_trainer(epoch, lambda path: path.write_bytes(b"state"))
        log.on_train_epoch_start(trainer, None)
        clock.now += seconds
        waiting.seconds += waited
        end_epoch(trainer, log, keeper)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seconds"], row["clips_per_second"], row["wait_share"]) for row in rows] == [
        ("8.00", "1.00", "0.2500"),
        ("24.00", "0.33", "0.5000"),
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert "8.0 s, 25% waiting for data, " in first
    assert "50% waiting for data" in second
    assert log.summary() == "2 epochs took 32.0 s, 43.8% of it waiting for data"


def test_epochs_of_an_earlier_version_do_not_enter_the_summary(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "metrics.csv", ("flow",))
    log.load_state_dict({"rows": [{"epoch": 1, "seconds": "5.00"}]})
    assert log.summary() == ""


def test_the_line_of_an_epoch_says_how_much_it_has_waited(tmp_path: Path) -> None:
    clock = Clock()
    waiting = Waiting(clock)
    progress = EpochProgress(waiting)
    trainer = make_trainer(0, None)
    trainer.num_training_batches, trainer.num_val_batches = 3, [1]
    progress.on_train_epoch_start(trainer, None)
    clock.now += 4
    waiting.seconds += 1
    progress.on_train_batch_end()
    line = progress._line
    assert line is not None
    assert line.describe(clock.now).endswith(", 25% waiting for data")
    progress.on_exception()
