"""What the recordings and the tests that read them have in common. Nothing of the packages is imported here."""

from __future__ import annotations

import hashlib
import lzma
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

RECORDED = Path(__file__).parent
CACHES = RECORDED / "cache"
TRAINING = RECORDED / "training"


def generated_clips(steps: int = 2, stack: int = 3, size: int = 32) -> dict[str, torch.Tensor]:
    """Make the clips of two videos, two clips each: rgb (2, 2, T, 3, S, S), flow (2, 2, T, 2L, S, S), uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = {"rgb": (8, 3), "flow": (8, 2 * stack)}
    clips = {}
    for name, (count, channels) in coarse.items():
        levels = torch.randint(256, (count, channels, 4, 4), generator=generator, dtype=torch.uint8)
        levels = levels.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
        clips[name] = levels.reshape(2, 2, steps, channels, size, size)
    return clips


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def unpack_checkpoints(directory: Path) -> None:
    """Turn `last.xz` and `best.xz` of a run directory into the checkpoints that they hold."""
    for packed in sorted((directory / "checkpoints").glob("*.xz")):
        packed.with_suffix(".ckpt").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recorded caches and of what they were made from, as the working folder."""
    folder = tmp_path / "cache"
    shutil.copytree(CACHES, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the interrupted training run, its videos and its cache, as the working folder."""
    folder = tmp_path / "training"
    shutil.copytree(TRAINING, folder)
    unpack_checkpoints(folder / "run")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    return generated_clips()


@pytest.fixture
def digest_of() -> Callable[[Mapping[str, torch.Tensor]], str]:
    return digest
