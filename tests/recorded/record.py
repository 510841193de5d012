"""Record caches and a training run as a version of the project makes them, and what it reads from them.

    cd <checkout of the version>
    PYTHONPATH=$PWD python <this checkout>/tests/recorded/record.py <this checkout>/tests/recorded

This is no test. It is run once with the code of an older version, whose names it imports; the tests beside it then
read the recordings with the code of today. It makes anew, in the folder that is named:

- `cache/`: sources (folders of tiny images), for each recipe a cache folder made from them by `flow-cache`, and what
  the version read from it: `arrays.npz` (levels and RGB frames) and `read.json` (commands, messages, index, metas).
- `training/`: videos, their flow cache, and the run directory of a two-stream training that was interrupted after its
  second epoch of three; `outputs.npz` and `read.json` say what the version made of its checkpoints.

A checkpoint holds about 20 MB of weights and optimiser states. Every tensor of more than one number is therefore
replaced by a short pattern, repeated and scaled to about its size by a power of two, and the file is packed by LZMA.
All else in it is as Lightning wrote it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import lzma
import math
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from twostream.predict import Predictor

from flow_cache import CacheReader, read_index
from flow_cache.cli import main as flow_cache_main
from twostream.checkpoints import load_checkpoint
from twostream.cli.train import main as train_main
from twostream.data.module import ActionDataModule
from twostream.evaluation import evaluate, predict_clips

RECIPES = {
    "tvl1-jpegls": "precompute sources/whole --method tvl1 --preset fast --rgb",
    "farneback-lossless-step": "precompute sources/whole --method farneback --max-error 0 --step 2",
    "farneback-coarse-size": (
        "precompute sources/whole --method farneback --max-error 3 --size 22x18 --rgb --rgb-quality 70"
    ),
    "farneback-jpeg": (
        "precompute sources/whole --method farneback --codec jpeg --quality 80 --bound 12.5 --short-side 18"
    ),
    "farneback-png": (
        "precompute sources/whole --method farneback --preset opencv --parameters.winsize 9 --codec png"
    ),
    "partial": "precompute sources/damaged --method tvl1 --preset fast --codec png --keep-partial",
    "failed": "precompute sources/damaged --method farneback",
    "imported": "import sources/flow_images --bound 15 --rgb --rgb-quality 95",
}

TRAIN = {
    "data.root": "videos",
    "data.cache": "cache",
    "data.name": "recorded",
    "data.steps": 2,
    "data.stack": 3,
    "data.size": 32,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.eval_clips": 2,
    "data.split.test_fraction": 0.3,
    "data.split.val_fraction": 0.4,
    "data.augment.flip": 0,
    "flow.method": "farneback",
    "flow.short_side": 24,
    "flow.bound": 8,
    "flow.workers": 1,
    "model.backbone": "mobilenet_v3_small",
    "model.weights": "none",
    "model.hidden": 8,
    "trainer.epochs": 3,
    "trainer.accelerator": "cpu",
    "trainer.monitor": "val_top1",
    "trainer.tensorboard": "false",
    "out": "run",
}
LAST_EPOCH = 2
PERIOD = 251


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Make a smooth random texture, (H, W) uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5) + 2 * cv2.GaussianBlur(noise, (0, 0), 4)
    return cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def write_images(
    folder: Path, frames: int, width: int, height: int, dx: float, dy: float, seed: int, suffix: str = ".png"
) -> None:
    """Write a folder of images: a texture that moves by (dx, dy) pixels a frame."""
    folder.mkdir(parents=True)
    large = texture(height + 24, width + 24, seed)
    for t in range(frames):
        matrix = np.float32([[1, 0, dx * t], [0, 1, dy * t]])
        grey = cv2.warpAffine(large, matrix, large.shape[::-1], flags=cv2.INTER_CUBIC)[12:-12, 12:-12]
        image = np.stack([grey // 2, grey, 255 - grey], axis=-1)
        cv2.imwrite(str(folder / f"img_{t + 7}{suffix}"), image)  # 7, 8, 9, 10: sorted as numbers


def write_sources(sources: Path) -> None:
    """Write what the caches are made from: whole image folders, a damaged one, and folders of flow images."""
    write_images(sources / "whole" / "walk" / "a", 4, 28, 20, 1.0, 0.5, seed=1)
    write_images(sources / "whole" / "b.01", 4, 24, 16, -1.5, 1.0, seed=2, suffix=".jpg")
    write_images(sources / "damaged" / "c", 4, 24, 18, 0.0, 1.5, seed=3)
    (sources / "damaged" / "c" / "img_10.png").write_bytes(b"no image")
    write_images(sources / "damaged" / "d", 3, 24, 18, 1.0, 1.0, seed=4)
    flow = sources / "flow_images" / "e"
    write_images(flow, 4, 24, 18, 1.0, 0.5, seed=5)
    for number, image in enumerate(
        sorted(flow.iterdir(), key=lambda path: int(path.stem.removeprefix("img_")))
    ):
        image.rename(flow / f"img_{number:05d}.png")
        if number < 3:
            for seed, axis in enumerate("xy"):
                levels = texture(18, 24, 10 + 2 * number + seed)
                cv2.imwrite(str(flow / f"flow_{axis}_{number:05d}.png"), levels)


def call(arguments: list[str]) -> tuple[int, str]:
    """Run `flow-cache`; return its exit status and what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = flow_cache_main(arguments)
    return status, output.getvalue()


def record_caches(folder: Path) -> None:
    """Make the caches, and record what is read from them."""
    write_sources(folder / "sources")
    os.chdir(folder)
    arrays: dict[str, np.ndarray] = {}
    read: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        command = [*recipe.split(), "--out", name]
        if command[0] == "precompute":
            command += ["--workers", "1"]
        status, _ = call(command)
        verified, message = call(["verify", name, "--videos", command[1], "--decode"])
        metas = {}
        for entry in read_index(name):
            with CacheReader(Path(name, entry.cache_file)) as reader:
                metas[entry.cache_file] = dataclasses.asdict(reader.meta)
                arrays[f"{name}/{entry.cache_file}/flow"] = reader.flow(range(reader.num_fields))
                if reader.has_rgb:
                    arrays[f"{name}/{entry.cache_file}/rgb"] = reader.rgb(range(reader.num_frames))
        read[name] = {
            "command": command,
            "status": status,
            "verify": {"status": verified, "message": message},
            "index": [dataclasses.asdict(entry) for entry in read_index(name)],
            "metas": metas,
        }
    np.savez_compressed("arrays.npz", **arrays)
    Path("read.json").write_text(json.dumps(read, indent=1) + "\n")


def pattern() -> torch.Tensor:
    """Make the numbers that stand for weights: about 1 in size, with few digits, none of them 0."""
    values = np.random.default_rng(0).uniform(0.25, 1.75, PERIOD) * np.random.default_rng(1).choice(
        [-1, 1], PERIOD
    )
    return torch.from_numpy(values).to(torch.bfloat16).float()


def replace_numbers(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Overwrite a tensor in place; what holds nothing negative, such as variances, keeps that."""
    if tensor.numel() < 2 or not tensor.is_floating_point():
        return
    size = float(tensor.double().square().mean().sqrt())
    if size == 0:
        return
    if float(tensor.min()) >= 0:
        values = values.abs()
    repeated = values.repeat(math.ceil(tensor.numel() / len(values)))[: tensor.numel()]
    tensor.copy_(repeated.view(tensor.shape) * 2.0 ** round(math.log2(size)))


def pack(path: Path) -> None:
    """Replace a checkpoint by one of the same keys, shapes and settings that is small."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    values = pattern()
    for tensor in content["state_dict"].values():
        # Convolutions of twice the size, or hardly anything of the input would be left at the network's end.
        replace_numbers(tensor, 2 * values if tensor.ndim == 4 else values)
    for states in content["optimizer_states"]:
        for state in states["state"].values():
            for tensor in state.values():
                replace_numbers(tensor, values)
    torch.save(content, path)
    packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    path.with_suffix(".xz").write_bytes(packed)
    path.unlink()


class Killed(BaseException):
    """Ends the training as a kill would: nothing catches it."""


def stop(module: lightning.LightningModule) -> None:
    """End the training where its last recorded epoch is complete."""
    if module.current_epoch == LAST_EPOCH:
        raise Killed


def outputs_of(found: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an evaluation or a prediction by name."""
    return {**found.probabilities, "weights": found.stream_weights}


def record_training(folder: Path, shared: Any) -> None:
    """Make the interrupted run, and record what its checkpoints say and what comes of resuming it."""
    for group in (1, 2, 3):
        for name, dx in (("left", -1.5), ("right", 1.5)):
            video = folder / "videos" / name / f"{name}_g{group:02d}_c01"
            write_images(video, 5, 32, 24, dx, 0.25 * group, seed=20 + group, suffix=".jpg")
    os.chdir(folder)
    arguments = [f"--{key}={value}" for key, value in TRAIN.items()]
    lightning.LightningModule.on_train_epoch_start = stop
    with contextlib.suppress(Killed):
        raise SystemExit(f"the training ended with status {train_main(arguments)}, expected an early end")
    lightning.LightningModule.on_train_epoch_start = lambda module: None
    for name in ("last", "best"):
        pack(Path("run", "checkpoints", f"{name}.ckpt"))

    work = folder.with_name("work")
    shutil.copytree(folder, work)
    os.chdir(work)
    shared.unpack_checkpoints(Path("run"))
    arrays: dict[str, np.ndarray] = {}
    read: dict[str, Any] = {"arguments": arguments}
    for name in ("last", "best"):
        checkpoint = load_checkpoint(Path("run", "checkpoints", f"{name}.ckpt"))
        predictor = Predictor(checkpoint, "cpu")
        read[name] = {
            "card": checkpoint.card.to_plain(),
            "epoch": checkpoint.epoch,
            "state": shared.digest(checkpoint.state),
        }
        arrays |= {
            f"{name}/clips/{k}": v
            for k, v in predict_clips(predictor.model, shared.generated_clips()).items()
        }
        data = ActionDataModule(predictor.data, checkpoint.card.model.streams, checkpoint.card.seed)
        for part in ("train", "test"):
            evaluation = evaluate(checkpoint, data, part, "cpu")
            arrays |= {f"{name}/{part}/{k}": v for k, v in outputs_of(evaluation).items()}
        prediction = predictor(Path("videos/left/left_g01_c01"))
        arrays |= {f"{name}/video/{k}": v for k, v in outputs_of(prediction).items()}
    if train_main(arguments) != 0:
        raise SystemExit("the recorded run cannot be resumed")
    with Path("run", "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    read["resumed"] = {
        "row": {key: float(value) for key, value in rows[-1].items() if "loss" in key or key == "lr"},
        "trained": json.loads(Path("run", "run.json").read_text())["trained"],
    }
    os.chdir(folder)
    np.savez_compressed("outputs.npz", **arrays)
    Path("read.json").write_text(json.dumps(read, indent=1) + "\n")
    shutil.rmtree(work)


def main() -> None:
    """Make all recordings anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="the folder of conftest.py, in which the recordings are written"
    )
    folder = parser.parse_args().folder.absolute()
    torch.set_num_threads(1)
    for name in ("cache", "training"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    record_caches(folder / "cache")
    record_training(folder / "training", SimpleNamespace(**runpy.run_path(str(folder / "conftest.py"))))


if __name__ == "__main__":
    main()
