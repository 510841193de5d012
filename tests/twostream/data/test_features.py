"""Features that are kept on disk are those that the network would compute, and follow everything they depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flow_cache import CacheFileError, rebuild_index
from twostream.data.dataset import ClipKey
from twostream.data.features import frozen_streams
from twostream.data.module import ActionDataModule, data_of
from twostream.data.settings import AugmentConfig, DataConfig, StreamClips
from twostream.errors import DataError
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream

from .conftest import VIDEOS, write_cache_file

MODEL = ModelConfig(
    backbone="mobilenet_v3_small",
    weights="none",
    hidden=8,
    rgb={"freeze_backbone": True, "spatial": "motion"},
)


@pytest.fixture
def config(make_cache) -> DataConfig:
    return DataConfig(
        cache=str(make_cache()),
        steps=3,
        stack=2,
        size=32,
        rgb=StreamClips(steps=4, size=(64, 32)),
        batch_size=4,
        workers=0,
        eval_clips=2,
        augment=AugmentConfig(views=2),
        feature_passes=3,
    )


@pytest.fixture
def model() -> TwoStream:
    torch.manual_seed(0)
    model = TwoStream(MODEL, num_classes=3, stack=2, bound=20.0)
    for convolution in model.stream("rgb").backbone.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            convolution.weight.data *= 3  # random weights would leave nothing of the picture
    return model.eval()


def kept(config: DataConfig, model: TwoStream) -> ActionDataModule:
    data = data_of(config, MODEL)
    data.keep_features(model)
    return data


def npz(config: DataConfig) -> list[Path]:
    return sorted((Path(str(config.cache)) / "features").rglob("*.npz"))


def test_only_a_stream_that_cannot_change_is_kept(model: TwoStream) -> None:
    assert list(frozen_streams(model)) == ["rgb"]
    learned = dataclasses.replace(MODEL, rgb={"freeze_backbone": True, "spatial": "attention"})
    assert list(frozen_streams(TwoStream(learned, 3, 2, 20.0))) == []


def test_features_give_the_logits_that_the_clips_give(config: DataConfig, model: TwoStream) -> None:
    data = kept(config, model)
    plain = data_of(dataclasses.replace(config, feature_passes=0), MODEL)
    for part in ("validation", "test"):
        for ours, theirs in zip(
            data.evaluation_dataloader(part), plain.evaluation_dataloader(part), strict=True
        ):
            assert "rgb" not in ours
            torch.testing.assert_close(ours["flow"], theirs["flow"])
            for clip in range(4):  # two clips, each in two views
                both = [
                    model({name: values[:, clip] for name, values in batch.items() if values.ndim > 1}).logits
                    for batch in (ours, theirs)
                ]
                torch.testing.assert_close(*both, rtol=0, atol=2e-3)  # float16


def test_epochs_see_pass_after_pass_and_flow_anew(config: DataConfig, model: TwoStream) -> None:
    dataset = kept(config, model).dataset("train")
    epochs = [dataset[ClipKey(epoch, 0)] for epoch in range(7)]
    for epoch, clip in enumerate(epochs):
        assert clip["rgb_semantic"].shape == (4, model.stream("rgb").backbone.semantic_dim)
        for other in range(7):
            same = torch.equal(clip["rgb_semantic"], epochs[other]["rgb_semantic"])
            assert same == (epoch % 3 == other % 3)
    flows = {clip["flow"].numpy().tobytes() for clip in epochs}
    assert len(flows) > 3
    again = dataset[ClipKey(4, 0, 1)]  # drawn again in the epoch: the next pass
    assert torch.equal(again["rgb_semantic"], epochs[5]["rgb_semantic"])
    assert not torch.equal(again["flow"], epochs[4]["flow"])


def test_what_is_there_is_not_computed_again(
    config: DataConfig, model: TwoStream, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(config, model).dataset("train")
    assert "6 of 6 videos to compute" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in npz(config)}
    kept(config, model).dataset("train")
    assert capsys.readouterr().out == ""
    damaged, missing, *_ = npz(config)
    damaged.write_bytes(damaged.read_bytes()[:100])
    missing.unlink()
    kept(config, model).dataset("train")
    assert "2 of 6 videos to compute" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in npz(config) if path not in (damaged, missing)} == {
        path: time for path, time in times.items() if path not in (damaged, missing)
    }


def test_processes_that_train_together_share_the_work(
    config: DataConfig, model: TwoStream, capsys: pytest.CaptureFixture[str]
) -> None:
    def process(rank: int, meet: Callable[[], object]) -> ActionDataModule:
        data = kept(config, model)
        strategy = SimpleNamespace(barrier=meet)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)  # type: ignore[assignment]
        return data

    met: list[int] = []
    first = process(0, lambda: met.append(len(npz(config))))
    # The second comes to where all wait, and waits itself, before the first goes on.
    second = process(1, lambda: first.dataset("train"))
    dataset = second.dataset("train")
    assert met == [6]
    assert "3 of 6 videos, shared by 2 processes, to compute" in capsys.readouterr().out
    assert all("rgb_semantic" in dataset[index] for index in range(6))


def test_a_network_in_training_stays_so(config: DataConfig, model: TwoStream) -> None:
    kept(config, model.train()).dataset("train")
    assert model.stream("rgb").dropout.training
    assert not model.stream("rgb").backbone.training  # frozen


def test_another_split_shares_the_features(
    config: DataConfig, model: TwoStream, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kept(config, model).dataset("train")
    split = dataclasses.replace(config.split, seed=5, val_fraction=0.0)
    other = kept(dataclasses.replace(config, split=split), model).dataset("train")
    capsys.readouterr()
    paths = [record.path for record in first.records]
    shared = [record.path for record in other.records if record.path in paths]
    assert shared
    for path in shared:
        places = [[record.path for record in dataset.records].index(path) for dataset in (first, other)]
        ours, theirs = (
            dataset[place]["rgb_semantic"] for dataset, place in zip((first, other), places, strict=True)
        )
        assert torch.equal(ours, theirs)


def test_a_cache_file_that_was_replaced_is_seen(config: DataConfig, model: TwoStream) -> None:
    before = kept(config, model).dataset("train")
    video = before.records[0].path
    write_cache_file(Path(str(config.cache)), video, VIDEOS[video] + 3)
    rebuild_index(Path(str(config.cache)))
    after = kept(config, model).dataset("train")
    with pytest.raises(CacheFileError, match="was replaced"):  # its clips are of the file that is gone
        before[0]
    assert np.isfinite(after[0]["rgb_semantic"].numpy()).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"rgb": StreamClips(steps=4, size=(32, 32))},
        {"rgb": StreamClips(steps=3, size=(64, 32))},
        {"augment": AugmentConfig(views=2, scale_min=0.9)},
        {"feature_passes": 2},
        {"stack": 3},
    ],
)
def test_features_follow_what_they_depend_on(
    config: DataConfig, model: TwoStream, changes: dict[str, object]
) -> None:
    first = kept(config, model)
    first.dataset("train")
    count = len(npz(config))
    model_of = TwoStream(MODEL, 3, dataclasses.replace(config, **changes).stack, 20.0).eval()
    model_of.stream("rgb").load_state_dict(model.stream("rgb").state_dict())
    data = data_of(dataclasses.replace(config, **changes), MODEL)
    data.keep_features(model_of)
    data.dataset("train")
    assert len(npz(config)) == 2 * count


def test_other_weights_make_other_features(config: DataConfig, model: TwoStream) -> None:
    kept(config, model).dataset("validation")
    count = len(npz(config))
    next(model.stream("rgb").backbone.parameters()).data.add_(0.1)
    kept(config, model).dataset("validation")
    assert len(npz(config)) == 2 * count


def test_a_cache_at_a_url_needs_a_folder_for_features(config: DataConfig, model: TwoStream) -> None:
    data = data_of(config, MODEL)
    data.data = dataclasses.replace(data.data, cache="memory://cache")
    with pytest.raises(DataError, match=r"give a local folder with data\.features"):
        data.keep_features(model)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_cache_file_is_named_in_one_line(
    config: DataConfig, model: TwoStream, workers: int
) -> None:
    """Also where a loader process finds it, while features are computed."""
    data = kept(dataclasses.replace(config, workers=workers), model)
    path = Path(str(config.cache)) / data.data.entries[data.split.train[0].path].cache_file
    damaged = bytearray(path.read_bytes())
    for offset in range(3000, len(damaged) - 2000, 50):
        damaged[offset] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(CacheFileError) as caught:
        data.dataset("train")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
