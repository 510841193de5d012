"""Checkpoints, within an epoch and at its end, and then a row in metrics.csv and a line on the screen."""

from __future__ import annotations

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.checkpoint import Checkpoint

from flow_cache import Progress, format_seconds, signals_blocked
from twostream.checkpoints import BATCHES_KEY, BEST, LAST, UNFINISHED
from twostream.data.batches import Waiting
from twostream.files import replacing, write_text


class EpochLog(Callback):
    """Write `metrics.csv`, a row per epoch under a header that never changes, and print a line per epoch.

    An epoch counts once its checkpoint is on the disk: only then is it written and printed, by `announce`. The
    checkpoint holds the rows as well, so that a run that ends between the two loses none of them.

    `wait_share` is the share of an epoch's time, validation included, in which the loop waited for the next batch
    and did nothing else: near 0 where loading keeps up, and the whole time of loading with `data.workers` 0.

    Args:
        path: the CSV file.
        outputs: names of the outputs that are measured, the deciding one last.
        waiting: how long the loop has waited for batches.
    """

    def __init__(self, path: Path, outputs: tuple[str, ...], waiting: Waiting | None = None) -> None:
        self.path = path
        self.outputs = outputs
        self._epoch = _EpochClock(waiting or Waiting())
        self.columns = ["epoch", "seconds", "clips_per_second", "lr"]
        for side in ("train", "val"):
            self.columns += [f"{side}_loss", f"{side}_top1"]
            self.columns += [f"{side}_{what}_{name}" for name in outputs for what in ("loss", "top1")]
        self.columns.append("wait_share")
        self._rows: list[dict[str, Any]] = []
        self._before: dict[str, float] = {}
        self._line = ""
        self._seconds: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, that of the epoch which is about to be announced included, and the time of this epoch."""
        return {"rows": self._rows, "clock": self._epoch.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of an interrupted run, and the time that its last epoch has taken."""
        self._rows = state_dict["rows"]
        self._before = state_dict.get("clock", {})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of an interrupted run, whose last epoch may not have been announced."""
        if self._rows and trainer.is_global_zero:
            self._write()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and read the rows of an interrupted run from the file, where its checkpoint holds none."""
        self._epoch.start(**self._before)  # an epoch that begins starts it anew
        if self._rows or not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._rows = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch.start()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the row and the line, before the checkpoint is written: it holds the row."""
        if not trainer.is_global_zero:
            return
        seconds, wait_share = self._epoch.seconds, self._epoch.wait_share
        self._seconds.append(seconds)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics["lr"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        for side in ("train", "val"):
            if (decided := f"{side}_top1_{self.outputs[-1]}") in metrics:
                metrics[f"{side}_top1"] = metrics[decided]
        clips = len(trainer.train_dataloader.dataset)
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "seconds": f"{seconds:.2f}",
            "clips_per_second": f"{clips / seconds:.2f}",
            **{key: f"{metrics[key]:.6g}" for key in self.columns[3:] if key in metrics},
            "wait_share": f"{wait_share:.4f}",
        }
        self._rows.append(row)
        self._line = self._describe(trainer, metrics, seconds, wait_share)

    def announce(self, trainer: L.Trainer) -> None:
        """Write the row and print the line of the epoch that has ended."""
        if not trainer.is_global_zero:
            return
        self._write()
        print(self._line, flush=True)

    def summary(self) -> str:
        """Say how long all epochs took, those before an interruption included, and how much of it was waiting."""
        rows = [row for row in self._rows if row.get("wait_share")]  # an earlier version did not measure it
        seconds = sum(float(row["seconds"]) for row in rows)
        waited = sum(float(row["seconds"]) * float(row["wait_share"]) for row in rows)
        if not seconds:
            return ""
        return f"{len(rows)} epochs took {format_seconds(seconds)}, {waited / seconds:.1%} of it waiting for data"

    def _write(self) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, table.getvalue())

    def _describe(
        self, trainer: L.Trainer, metrics: dict[str, float], seconds: float, wait_share: float
    ) -> str:
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        recent = self._seconds[-5:]
        left = (total - done) * sum(recent) / len(recent)
        text = f"epoch {done:>{len(str(total))}}/{total}  {_figures(metrics, 'train')}"
        if "val_loss" in metrics:
            text += f"  |  val {_figures(metrics, 'val')}"
            if len(self.outputs) > 1:
                text += (
                    " (" + ", ".join(f"{n} {metrics[f'val_top1_{n}']:.3f}" for n in self.outputs[:-1]) + ")"
                )
        return text + (
            f"  |  {format_seconds(seconds)}, {wait_share:.0%} waiting for data, {format_seconds(left)} left"
        )


class _EpochClock:
    """The time since an epoch began, and how much of it the loop has waited for batches."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self.start()

    def start(self, seconds: float = 0.0, waited: float = 0.0) -> None:
        """Begin an epoch, or go on with one that has taken some time already."""
        self._began, self._waited = self._waiting.clock() - seconds, self._waiting.seconds - waited

    def state_dict(self) -> dict[str, float]:
        """Return what `start` goes on from."""
        return {"seconds": self.seconds, "waited": self._waiting.seconds - self._waited}

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began."""
        return self._waiting.clock() - self._began

    @property
    def wait_share(self) -> float:
        """Share of these seconds, 0 to 1."""
        return (self._waiting.seconds - self._waited) / max(self.seconds, 1e-9)


def _figures(metrics: dict[str, float], side: str) -> str:
    return f"loss {metrics[f'{side}_loss']:.3f} top-1 {metrics[f'{side}_top1']:.3f}"


class EpochProgress(Callback):
    """Show how many batches of an epoch are done, of training and validation together, while the epoch lasts.

    Args:
        waiting: how long the loop has waited for batches.
    """

    def __init__(self, waiting: Waiting | None = None) -> None:
        self._line: Progress | None = None
        self._epoch = _EpochClock(waiting or Waiting())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the line."""
        self._show(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Show the line in an epoch that goes on, where no start of it is reported."""
        if self._line is None:
            self._show(trainer)
            for _ in range(batch_idx):
                self.on_train_batch_end()

    def _show(self, trainer: L.Trainer) -> None:
        batches = int(trainer.num_training_batches + sum(trainer.num_val_batches))
        before = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: "
        self._epoch.start()
        self._line = Progress(
            batches,
            "batches",
            before=before,
            after=lambda: f"{self._epoch.wait_share:.0%} waiting for data",
            enabled=trainer.is_global_zero,
        )
        self._line.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        if self._line is not None:
            self._line.finished()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        if self._line is not None:
            self._line.finished()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the line back, before the epoch is announced."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Take the line back."""
        self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.__exit__(None, None, None)
        self._line = None


class BestAndLast(Checkpoint):
    """Keep `best.ckpt` and `last.ckpt`, each replaced in one step, so that a kill never leaves half a file.

    Without a validation side the last epoch is the best one that can be named. Within an epoch, every some minutes,
    there is `unfinished.ckpt`, from which a killed run goes on; it is gone when the epoch has its checkpoint.

    Args:
        directory: where the checkpoints lie.
        monitor: name of the metric, or None without validation.
        larger_is_better: direction of the metric.
        then: called with the trainer when the checkpoints of an epoch are on the disk.
        minutes: between two checkpoints within an epoch; 0 writes none there.
        clock: current time in seconds.
    """

    def __init__(
        self,
        directory: Path,
        monitor: str | None,
        larger_is_better: bool,
        then: Callable[[L.Trainer], None],
        minutes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.monitor = monitor
        self.sign = 1.0 if larger_is_better else -1.0
        self.then = then
        self.minutes = minutes
        self.best = -math.inf
        self.best_epoch = 0
        self._clock = clock
        self._written = clock()
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say how many batches of an unfinished epoch are in a checkpoint."""
        checkpoint[BATCHES_KEY] = self._batches

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint within the epoch, if it is time: after a step of the optimiser, as gradients are not kept.

        Not after the last batch, as the epoch is about to end.
        """
        done = batch_idx + 1
        if not self.minutes or done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        due = self._clock() - self._written >= 60 * self.minutes
        if trainer.strategy.broadcast(due):  # clocks of processes differ
            self._batches = done
            with signals_blocked():
                self._save(trainer, UNFINISHED)
            self._batches = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoints; Ctrl-C and SIGTERM wait until they are there, so that the epoch is not lost."""
        with signals_blocked():
            self._keep(trainer)
            self.then(trainer)

    def _keep(self, trainer: L.Trainer) -> None:
        improved = True
        if self.monitor is not None:
            score = self.sign * float(trainer.callback_metrics[self.monitor])
            improved = score > self.best
            if improved:
                self.best, self.best_epoch = score, trainer.current_epoch + 1
        else:
            self.best_epoch = trainer.current_epoch + 1
        # Best before last: a kill between the two repeats this epoch, or the rest of it, and finds the same best again.
        for name in ([BEST] if improved else []) + [LAST]:
            self._save(trainer, name)
        if trainer.is_global_zero:
            (self.directory / UNFINISHED).unlink(missing_ok=True)

    def _save(self, trainer: L.Trainer, name: str) -> None:
        path = self.directory / name
        if trainer.is_global_zero:
            with replacing(path) as partial:
                trainer.save_checkpoint(partial)
        else:
            trainer.save_checkpoint(path)  # takes part in gathering the state and writes nothing
        self._written = self._clock()


class SeedEachEpoch(Callback):
    """Make dropout depend on seed, epoch and process alone, so that a resumed run repeats an uninterrupted one.

    Within an epoch the state of torch's generators, of each process, is in the checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._states: dict[str, torch.Tensor] = {}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the generators' states, a row a process."""
        device = trainer.strategy.root_device
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        checkpoint["generators"] = {
            name: trainer.strategy.all_gather(state.to(device)).reshape(trainer.world_size, -1).cpu()
            for name, state in states.items()
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the states over, for an epoch that goes on."""
        self._states = checkpoint.get("generators", {})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed torch's generators for the epoch."""
        self._states = {}
        torch.manual_seed((self.seed * 100_003 + trainer.current_epoch) * 1_009 + trainer.global_rank)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Go on with the saved states, once the loader has started."""
        for name, state in self._states.items():
            own = state[trainer.global_rank].cpu()
            if name == "cpu":
                torch.set_rng_state(own)
            else:
                torch.cuda.set_rng_state(own, trainer.strategy.root_device)
        self._states = {}


class KeepSigterm(Callback):
    """Put a handler for SIGTERM back that was there before the training.

    Lightning's own waits inside the handler for all processes that train together, and may wait forever when the
    signal finds them at different steps. Where there was no handler before, Lightning's stays.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the place of Lightning's handler, which is there by now; Lightning removes its own in the end."""
        if callable(self._handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)
