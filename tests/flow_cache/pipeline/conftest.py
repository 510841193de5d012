"""A folder of three short videos, and the settings of a run over it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    root = tmp_path / "videos"
    make_video(root / "walk" / "a.avi", frames=5, seed=1)
    make_video(root / "walk" / "b.mp4", frames=4, seed=2)
    make_video(root / "c.avi", frames=3, seed=3)
    return root


@pytest.fixture
def config(videos: Path, tmp_path: Path) -> PrecomputeConfig:
    return PrecomputeConfig(videos, tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1)


@pytest.fixture(scope="session")
def members() -> Callable[[Path], dict[str, bytes]]:
    """Return the flow and RGB members of every file in a cache."""

    def read(root: Path) -> dict[str, bytes]:
        found = {}
        for path in sorted(root.rglob("*.flow.zip")):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name != "meta.json":
                        found[f"{path.relative_to(root)}:{name}"] = archive.read(name)
        return found

    return read
