"""The card that a checkpoint carries, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twostream.checkpoints import Checkpoint, ModelCard, load_checkpoint, load_streams
from twostream.errors import CheckpointError
from twostream.models.settings import ModelConfig


def make_card(**model: object) -> ModelCard:
    settings = {"backbone": "mobilenet_v3_small", "weights": "none", "hidden": 4, **model}
    flow = {"method": "farneback", "parameters": {"winsize": 13}, "bound": 20.0, "step": 1}
    return ModelCard(("run", "sit"), ModelConfig(**settings), {"steps": 2}, flow, 20.0, 3, seed=7)


def write(path: Path, card: ModelCard, **changes: object) -> Path:
    state = {f"model.{key}": value for key, value in card.build_model().state_dict().items()}
    torch.save({"twostream": {**card.to_plain(), **changes}, "state_dict": state, "epoch": 4}, path)
    return path


def test_a_card_survives_a_checkpoint(tmp_path: Path) -> None:
    card = make_card(weights="imagenet", dropout=0.25)
    checkpoint = load_checkpoint(write(tmp_path / "a.ckpt", card))
    assert checkpoint.card == card
    assert checkpoint.epoch == 5
    model = checkpoint.model()
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint.state[key])


def test_the_card_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it; a change of this text would orphan the checkpoints that users have."""
    plain = {
        "format": 1,
        "classes": ["run", "sit"],
        "model": {"streams": ["flow"], "backbone": "mobilenet_v3_small", "weights": "none", "hidden": 4},
        "data": {
            "root": "videos",
            "cache": "cache",
            "steps": 2,
            "stack": 3,
            "split": {"kind": "auto", "fold": 1},
        },
        "flow": {"method": "farneback", "parameters": {"winsize": 13}, "bound": 20.0, "step": 1},
        "bound": 20.0,
        "stack": 3,
        "seed": 7,
    }
    card = ModelCard.from_plain(plain)
    state = {f"model.{key}": value for key, value in card.build_model().state_dict().items()}
    torch.save({"twostream": plain, "state_dict": state, "epoch": 4}, tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.card == card
    assert checkpoint.model().names == ("flow",)
    assert (card.data_config().steps, card.data_config().eval_clips) == (2, 3)
    written = card.to_plain()
    assert {key: written[key] for key in plain if key != "model"} == {
        k: v for k, v in plain.items() if k != "model"
    }
    assert plain["model"].items() <= written["model"].items()


def test_a_rebuilt_model_keeps_what_was_frozen() -> None:
    """A resumed fusion of trained streams must not begin to train the streams."""
    card = make_card(freeze_streams=True, rgb_checkpoint="gone.ckpt", flow_checkpoint="gone.ckpt")
    model = card.build_model().train()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"fusion"}


def test_newer_and_incomplete_checkpoints_are_refused(tmp_path: Path) -> None:
    card = make_card()
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        load_checkpoint(write(tmp_path / "new.ckpt", card, format=2))
    plain = card.to_plain()
    del plain["classes"]
    with pytest.raises(CheckpointError, match=r"incomplete.*classes"):
        ModelCard.from_plain(plain)
    with pytest.raises(CheckpointError, match="incomplete"):
        ModelCard.from_plain({**card.to_plain(), "model": {"depth": 3}})


def test_weights_of_another_architecture_are_refused() -> None:
    card = make_card()
    state = make_card(hidden=5).build_model().state_dict()
    with pytest.raises(CheckpointError, match=r"a\.ckpt: the weights do not fit"):
        Checkpoint(Path("a.ckpt"), card, 1, state).model()


def test_class_differences_are_told_in_words() -> None:
    checkpoint = Checkpoint(Path("a.ckpt"), make_card(), 1, {})
    checkpoint.require_classes(("run", "sit"))
    with pytest.raises(CheckpointError, match="the same names in another order"):
        checkpoint.require_classes(("sit", "run"))
    with pytest.raises(
        CheckpointError, match="only in the checkpoint: sit; only in the data: fly, hop, jog and 1 more"
    ):
        checkpoint.require_classes(("run", "fly", "hop", "jog", "lie"))


def test_another_codec_of_the_flow_cache_is_the_same_flow(tmp_path: Path) -> None:
    """A cache that was recoded after training goes with the checkpoint; one of another bound does not."""
    trained = make_card(streams=["flow"])
    trained = replace(trained, flow={**trained.flow, "codec": {"codec": "jpegls", "max_error": 1}})
    path = write(tmp_path / "flow.ckpt", trained)
    card = make_card(flow_checkpoint=str(path))
    model = card.build_model()
    load_streams(model, replace(card, flow={**card.flow, "codec": {"codec": "zstd", "max_error": 1}}))
    weights = load_checkpoint(path).state
    loaded = {f"streams.flow.{key}": value for key, value in model.streams["flow"].state_dict().items()}
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())
    with pytest.raises(
        CheckpointError, match=r"was trained on other flow than this cache holds: bound 15\.0"
    ):
        load_streams(model, replace(card, flow={**card.flow, "bound": 15.0}))
