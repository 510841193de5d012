"""What happens at the end of an epoch: a row in metrics.csv, a line on the screen, checkpoints."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.checkpoint import Checkpoint

from flow_cache import format_seconds
from twostream.checkpoints import BEST, LAST
from twostream.files import replacing, write_text


class EpochLog(Callback):
    """Write `metrics.csv`, a row per epoch under a header that never changes, and print a line per epoch.

    A resumed run keeps the rows of the epochs that its checkpoint holds and drops later ones.

    Args:
        path: the CSV file.
        outputs: names of the outputs that are measured, the deciding one last.
    """

    def __init__(self, path: Path, outputs: tuple[str, ...]) -> None:
        self.path = path
        self.outputs = outputs
        self.columns = ["epoch", "seconds", "clips_per_second", "lr"]
        for side in ("train", "val"):
            self.columns += [f"{side}_loss", f"{side}_top1"]
            self.columns += [f"{side}_{what}_{name}" for name in outputs for what in ("loss", "top1")]
        self._rows: list[dict[str, Any]] = []
        self._started = 0.0
        self._seconds: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the rows of an interrupted run."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._rows = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the row and print the line."""
        if not trainer.is_global_zero:
            return
        seconds = time.monotonic() - self._started
        self._seconds.append(seconds)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics["lr"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        for side in ("train", "val"):
            if (decided := f"{side}_top1_{self.outputs[-1]}") in metrics:
                metrics[f"{side}_top1"] = metrics[decided]
        clips = len(trainer.train_dataloader.dataset)
        row = {
            "epoch": trainer.current_epoch + 1,
            "seconds": f"{seconds:.2f}",
            "clips_per_second": f"{clips / seconds:.2f}",
            **{key: f"{metrics[key]:.6g}" for key in self.columns[3:] if key in metrics},
        }
        self._rows.append(row)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, table.getvalue())
        self._print(trainer, metrics, seconds)

    def _print(self, trainer: L.Trainer, metrics: dict[str, float], seconds: float) -> None:
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
        text += f"  |  {format_seconds(seconds)}, {format_seconds(left)} left"
        bar = trainer.progress_bar_callback
        (bar.print if bar is not None else print)(text, flush=True)


def _figures(metrics: dict[str, float], side: str) -> str:
    return f"loss {metrics[f'{side}_loss']:.3f} top-1 {metrics[f'{side}_top1']:.3f}"


class BestAndLast(Checkpoint):
    """Keep `best.ckpt` and `last.ckpt`, each replaced in one step, so that a kill never leaves half a file.

    Without a validation side the last epoch is the best one that can be named.

    Args:
        directory: where the checkpoints lie.
        monitor: name of the metric, or None without validation.
        larger_is_better: direction of the metric.
    """

    def __init__(self, directory: Path, monitor: str | None, larger_is_better: bool) -> None:
        super().__init__()
        self.directory = directory
        self.monitor = monitor
        self.sign = 1.0 if larger_is_better else -1.0
        self.best = -math.inf
        self.best_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoints."""
        improved = True
        if self.monitor is not None:
            score = self.sign * float(trainer.callback_metrics[self.monitor])
            improved = score > self.best
            if improved:
                self.best, self.best_epoch = score, trainer.current_epoch + 1
        else:
            self.best_epoch = trainer.current_epoch + 1
        # Best before last: a kill between the two repeats this epoch and finds the same best again.
        for name in ([BEST] if improved else []) + [LAST]:
            path = self.directory / name
            if trainer.is_global_zero:
                with replacing(path) as partial:
                    trainer.save_checkpoint(partial)
            else:
                trainer.save_checkpoint(path)  # takes part in gathering the state and writes nothing


class SeedEachEpoch(Callback):
    """Make dropout depend on seed, epoch and process alone, so that a resumed run repeats an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed torch's generators for the epoch."""
        torch.manual_seed((self.seed * 100_003 + trainer.current_epoch) * 1_009 + trainer.global_rank)
