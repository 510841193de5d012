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
from twostream.training.callbacks import BestAndLast, EpochLog


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
