"""Grad-CAM points at the places that a class was decided from, and at nothing else."""

import pytest
import torch
from torch import Tensor, nn

from twostream.inference.grad_cam import grad_cam
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream

SIDE = 128


class Bright(nn.Module):
    """In place of a CNN: channel 0 is how bright a place is, channel 1 how dark; nothing else is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.local_dim, self.semantic_dim = 3, 2, 2

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = []
        for stride in (16, 32):
            bright = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), stride)
            levels.append(torch.cat([bright, 1 - bright], dim=1))
        return levels[0], levels[1]


def seeing_model() -> TwoStream:
    """A model of RGB alone whose class 0 is brightness and class 1 darkness, averaged over places and steps."""
    config = ModelConfig(
        streams=("rgb",), backbone="mobilenet_v3_small", weights="none", recurrence="none", levels="semantic",
        spatial="average", temporal="average",
    )  # fmt: skip
    model = TwoStream(config, 2, 1, 20.0).eval()
    stream = model.stream("rgb")
    stream.backbone, stream.normalize = Bright(), Scale()
    stream.semantic_norm = nn.Identity()
    stream.classifier = nn.Linear(2, 2)
    with torch.no_grad():
        stream.classifier.weight.copy_(torch.eye(2))
        stream.classifier.bias.zero_()
    return model


class Scale(nn.Module):
    def forward(self, clip: Tensor) -> Tensor:
        return clip.float() / 255


def spotted_clip(row: int, column: int, step: int) -> Tensor:
    """Four dark steps, at one of which one place of 32x32 pixels is white: (1, 4, 3, 128, 128) uint8."""
    clip = torch.zeros(1, 4, 3, SIDE, SIDE, dtype=torch.uint8)
    clip[0, step, :, 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] = 255
    return clip


@pytest.mark.parametrize(("row", "column", "step"), [(0, 0, 0), (2, 1, 3), (3, 3, 1)])
def test_heat_lies_where_the_class_is_seen(row: int, column: int, step: int) -> None:
    model = seeing_model()
    clip = {"rgb": spotted_clip(row, column, step)}
    _, bright = grad_cam(model, "rgb", clip, torch.tensor([0]))
    expected = torch.zeros(1, 4, 4, 4)
    expected[0, step, row, column] = 1
    torch.testing.assert_close(bright / bright.max(), expected)
    _, dark = grad_cam(model, "rgb", clip, torch.tensor([1]))
    torch.testing.assert_close(dark / dark.max(), 1 - expected)


def test_the_class_is_the_decision_unless_one_is_named() -> None:
    model = seeing_model()
    clip = {"rgb": torch.zeros(1, 4, 3, SIDE, SIDE, dtype=torch.uint8)}
    assert torch.equal(grad_cam(model, "rgb", clip)[1], grad_cam(model, "rgb", clip, torch.tensor([1]))[1])


def test_without_gradient_there_is_no_heat() -> None:
    model = seeing_model()
    with torch.no_grad():
        model.stream("rgb").classifier.weight.zero_()
    assert not grad_cam(model, "rgb", {"rgb": spotted_clip(1, 1, 1)})[1].any()


CONFIGS = {
    "plain": {},
    "no LSTM": {"recurrence": "none"},
    "local alone": {"levels": "local"},
    "frozen CNN": {"freeze_backbone": True},
    "attention everywhere": {"spatial": "attention", "temporal": "multihead", "joint": "cross_attention"},
    "checkpointed gradients": {"checkpoint_gradients": True},
}


def make_model(**changes: object) -> TwoStream:
    torch.manual_seed(0)
    config = ModelConfig(**{"backbone": "mobilenet_v3_small", "weights": "none", "hidden": 8, **changes})
    return TwoStream(config, 3, 2, 20.0).eval()


def random_clips(batch: int) -> dict[str, Tensor]:
    """RGB and flow clips of different lengths and sizes; the last one of the batch has a step that pads."""
    generator = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    clips = {"rgb": pixels(batch, 4, 3, 64, 96), "flow": pixels(batch, 5, 4, 96, 64)}
    for name in ("rgb", "flow"):
        clips[f"{name}_valid"] = torch.ones(clips[name].shape[:2], dtype=torch.bool)
        clips[f"{name}_valid"][-1, -1] = False
    return clips


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_stream_has_heat_of_its_own_shape(changes: dict[str, object]) -> None:
    model = make_model(**changes)
    clips = random_clips(3)
    stride = 16 if changes.get("levels") == "local" else 32
    with torch.inference_mode():
        whole = model(clips)
    for name in model.names:
        steps, (height, width) = clips[name].shape[1], clips[name].shape[3:]
        mine = model.clips_of(name, clips)
        output, heat = grad_cam(model, name, mine)
        assert heat.shape == (3, steps, height // stride, width // stride)
        assert heat.dtype == torch.float32
        assert not heat.requires_grad
        assert (heat >= 0).all()
        assert heat.any()
        # What is explained is what the model says.
        torch.testing.assert_close(output.logits, whole.streams[name].logits, rtol=1e-4, atol=1e-5)
        assert not output.logits.requires_grad
        assert not heat[-1, -1].any()  # the step that pads
        # A clip's heat does not depend on the others of its batch.
        for number in range(3):
            alone = grad_cam(model, name, {key: value[number : number + 1] for key, value in mine.items()})[1]
            torch.testing.assert_close(alone[0], heat[number], rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_padded_steps_change_nothing() -> None:
    model = make_model()
    clips = {key: value[-1:] for key, value in random_clips(2).items()}
    shorter = {key: value[:, :-1] for key, value in clips.items()}
    for name in model.names:
        padded, plain = (grad_cam(model, name, model.clips_of(name, given))[1] for given in (clips, shorter))
        torch.testing.assert_close(padded[:, :-1], plain, rtol=1e-4, atol=1e-6)


def test_video_nets_and_inference_mode() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        streams=("rgb",), weights="none", hidden=8, backbone="mc3_18", rgb_window=4, freeze_backbone=True
    )  # fmt: skip
    model = TwoStream(config, 3, 2, 20.0).eval()
    clip = {"rgb": torch.randint(0, 256, (1, 2, 12, 64, 64), dtype=torch.uint8)}
    with torch.inference_mode():
        heat = grad_cam(model, "rgb", clip)[1]
    assert heat.shape == (1, 2, 4, 4)
    assert heat.any()
