"""Checkpoints that were never trained, and videos of any length: what windows do does not depend on the weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flow_cache import get_method
from twostream.checkpoints import CARD_KEY, MODEL_PREFIX, Checkpoint, ModelCard
from twostream.data.settings import AugmentConfig, DataConfig
from twostream.models.settings import ModelConfig

CLASSES = ("wave", "walk", "jump")
REAL_DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder of real videos; the test is skipped where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real videos are not here ({REAL_DATA})")
    return REAL_DATA


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Make a checkpoint with random weights; keywords change the model or the data settings."""

    def make(data: dict | None = None, flow: dict | None = None, **model: object) -> Checkpoint:
        torch.manual_seed(0)
        config = ModelConfig(**{"backbone": "mobilenet_v3_small", "weights": "none", "hidden": 8, **model})
        settings = DataConfig(
            steps=3, stack=2, size=32, eval_clips=2, augment=AugmentConfig(views=2), **(data or {})
        )
        made = {
            "method": "dis", "parameters": {}, "bound": 20.0, "step": 1, "short_side": 32, "size": None,
            "codec": {"codec": "jpegls", "max_error": 1, "quality": None, "rgb_quality": 90}, **(flow or {}),
        }  # fmt: skip
        card = ModelCard(CLASSES, config, dataclasses.asdict(settings), made, 20.0, 2, 0)
        model_ = card.build_model()
        with torch.no_grad():
            for parameter in model_.parameters():
                parameter.mul_(1.5)  # so that the answers differ
        return Checkpoint(Path("random.ckpt"), card, 1, model_.state_dict())

    return make


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Write a video of a texture that moves; frames begin at any number of an endless one."""

    def make(
        name: str,
        frames: int,
        first: int = 0,
        size: tuple[int, int] = (64, 48),
        *,
        still: bool = False,
        fps: int = 25,
    ) -> Path:
        rng = np.random.default_rng(7)
        texture = cv2.GaussianBlur(rng.integers(0, 256, (200, 900, 3), np.uint8), (0, 0), 2.0)
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
        for n in range(first, first + frames):
            x = 0 if still else int(400 + 300 * np.sin(n / 9))
            writer.write(texture[20 : 20 + size[1], x : x + size[0]])
        writer.release()
        return path

    return make


@pytest.fixture
def saved_checkpoint(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> str:
    """The path of a file as a training writes it, with random weights and Farneback flow."""
    parameters = get_method("farneback", preset="opencv").parameters.as_dict()
    made = make_checkpoint(flow={"method": "farneback", "parameters": parameters})
    path = tmp_path / "random.ckpt"
    state = {f"{MODEL_PREFIX}{key}": value for key, value in made.state.items()}
    torch.save({"epoch": 0, "state_dict": state, CARD_KEY: made.card.to_plain()}, path)
    return str(path)
