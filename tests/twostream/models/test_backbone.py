"""Backbones of torchvision: levels, widening, freezing, and where weights come from."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from twostream.errors import CheckpointError, ConfigError
from twostream.models.backbone import Backbone
from twostream.models.convolutions import fold_batch_norm, widen_first_convolution
from twostream.models.networks import BACKBONES, find_network

DIMS = {
    "resnet18": (256, 512),
    "resnet34": (256, 512),
    "resnet50": (1024, 2048),
    "vgg16": (512, 512),
    "mobilenet_v2": (96, 1280),
    "mobilenet_v3_small": (48, 576),
    "efficientnet_b0": (112, 1280),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_levels_lie_at_strides_16_and_32(name: str) -> None:
    backbone = Backbone(name).eval()
    with torch.no_grad():
        local = backbone.lower(torch.rand(1, 3, 96, 64))
        semantic = backbone.upper(local)
    assert local.shape[2:] == (6, 4)
    assert semantic.shape[2:] == (3, 2)
    assert (local.shape[1], semantic.shape[1]) == DIMS[name] == (backbone.local_dim, backbone.semantic_dim)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_semantic_level_is_what_torchvision_pools(name: str, tmp_path: Path) -> None:
    reference = torchvision.models.get_model(name, weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(name, weights=str(tmp_path / "weights.pth")).eval()
    pooled = []
    head = reference.fc if hasattr(reference, "fc") else reference.classifier
    head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].flatten(1)))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        reference(images)
        _, semantic = backbone(images)
    torch.testing.assert_close(semantic.mean(dim=(2, 3)), pooled[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_widened_convolution_answers_a_repeated_grey_image_alike(bias: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=bias))
    grey = torch.rand(2, 1, 9, 9)
    expected = network(grey.expand(-1, 3, -1, -1))
    widen_first_convolution(network, 10)
    assert network[0].weight.shape == (5, 10, 3, 3)
    torch.testing.assert_close(network(grey.expand(-1, 10, -1, -1)), expected)


def test_frozen_backbone_keeps_weights_and_statistics() -> None:
    backbone = Backbone("mobilenet_v3_small", frozen=True).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    local, semantic = backbone(torch.rand(2, 3, 64, 64))
    assert not local.requires_grad
    assert not semantic.requires_grad
    assert not any(p.requires_grad for p in backbone.parameters())
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]
)
def test_folded_batch_norm_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    for (
        module
    ) in network.modules():  # statistics as training would leave them, so that folding has work to do
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
    network.eval()
    images = torch.rand(2, 3, 64, 64)
    expected = network(images)
    assert fold_batch_norm(network, images[:1])
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)


def test_frozen_batch_norm_leaves_convolutions_trainable() -> None:
    backbone = Backbone("resnet18", freeze_batch_norm=True).train()
    images = torch.rand(2, 3, 64, 64)
    before = backbone(images)[1]
    before.sum().backward()
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.grad is not None for module in convolutions)
    torch.testing.assert_close(backbone(images)[1], before)  # no statistics that a pass could move


def test_batch_norm_learns_by_default() -> None:
    backbone = Backbone("resnet18").train()
    norm = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64))
    assert not torch.equal(norm.running_mean, before)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown backbone 'alexnet'; expected one of resnet18"):
        Backbone("alexnet")
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        Backbone("resnet-50")
    with pytest.raises(
        ConfigError, match=r"'IMAGENET9' are neither a file nor known for resnet18.*IMAGENET1K_V1"
    ):
        Backbone("resnet18", weights="IMAGENET9")


def test_unusable_weights_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        Backbone("resnet18", weights=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(CheckpointError, match="not a readable PyTorch state dict"):
        Backbone("resnet18", weights=str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="not a plain state dict"):
        Backbone("resnet18", weights=str(tmp_path / "list.pth"))
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(CheckpointError, match="does not hold weights of torchvision's resnet18"):
        Backbone("resnet18", weights=str(tmp_path / "resnet34.pth"))


def test_a_failed_download_says_what_to_do() -> None:
    def refuse(name: str, weights: str | None) -> nn.Module:
        assert (name, weights) == ("resnet18", "DEFAULT")
        raise OSError("network is unreachable")

    with pytest.raises(CheckpointError, match=r"could not download.*unreachable.*--model\.weights PATH"):
        find_network("resnet18").load("imagenet", build=refuse)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 70), (33, 120)])
def test_maps_keep_the_place_of_things(height: int, width: int) -> None:
    """Maps of any image size come out at strides 16 and 32, rounded up."""
    backbone = Backbone("mobilenet_v2", in_channels=10).eval()
    with torch.no_grad():
        local, semantic = backbone(torch.rand(2, 10, height, width))
    assert local.shape == (2, backbone.local_dim, -(-height // 16), -(-width // 16))
    assert semantic.shape == (2, backbone.semantic_dim, -(-height // 32), -(-width // 32))


def test_names_of_parameters_stay_those_of_recorded_checkpoints() -> None:
    keys = {*Backbone("resnet18").state_dict()}
    assert {"lower.0.weight", "lower.6.1.bn2.running_var", "upper.0.1.conv2.weight"} <= keys
    folded = {*Backbone("resnet18", frozen=True).state_dict()}
    assert {"lower.0.weight", "lower.0.bias", "upper.0.1.conv2.bias"} <= folded
    assert not [key for key in folded if "bn" in key]


def test_published_statistics_are_said() -> None:
    backbone = Backbone("resnet18")
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_half_precision_and_missing_classifiers_load(tmp_path: Path) -> None:
    reference = torchvision.models.mobilenet_v3_small(weights=None)
    state = {k: v.half() if v.is_floating_point() else v for k, v in reference.state_dict().items()}
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier.")}, tmp_path / "half.pth")
    backbone = Backbone("mobilenet_v3_small", weights=str(tmp_path / "half.pth"))
    weight = backbone.state_dict()["lower.0.0.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, state["features.0.0.weight"].float(), rtol=0, atol=0)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"conv1\.weight \(64, 4, 7, 7\) instead of \(64, 3, 7, 7\)"):
        Backbone("resnet18", weights=str(tmp_path / "wide.pth"))


@pytest.mark.parametrize(
    "settings", [{"frozen": True}, {"freeze_batch_norm": True}, {"batch_norm": "partial"}]
)
def test_a_backbone_is_rebuilt_for_its_state(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = Backbone("mobilenet_v3_small", 4, **settings).eval()
    again = Backbone("mobilenet_v3_small", 4, **settings).eval()
    again.load_state_dict(copy.deepcopy(backbone.state_dict()))
    images = torch.rand(1, 4, 64, 64)
    for found, expected in zip(again(images), backbone(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def train_a_step(backbone: Backbone, images: torch.Tensor) -> None:
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(level.square().mean() for level in backbone.train()(images)).backward()
    optimizer.step()


def test_partial_batch_norm_learns_in_the_first_one_alone() -> None:
    backbone = Backbone("resnet18", batch_norm="partial").train()
    (norm,) = (module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm is backbone.lower[1]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    train_a_step(backbone, torch.rand(2, 3, 64, 64))
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert {"lower.1.running_mean", "lower.1.running_var", "lower.1.weight"} <= changed


def test_batch_norm_has_one_setting() -> None:
    with pytest.raises(ConfigError, match="batch_norm must be train, frozen or partial, got 'half'"):
        Backbone("resnet18", batch_norm="half")
    with pytest.raises(ConfigError, match="give one"):
        Backbone("resnet18", freeze_batch_norm=True, batch_norm="partial")
