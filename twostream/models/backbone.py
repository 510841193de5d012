"""torchvision CNNs cut into a lower and an upper half, so that features come out at two levels.

The *local* level is the last feature map at stride 16 (parts, textures, small motions), the *semantic* level the
last one at stride 32. Both are averaged over space. The first convolution is widened for stacks of flow fields.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from twostream.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class _Cut:
    """Where a torchvision network is cut: its stages, and the prefix of its classifier, which is left out."""

    stages: Callable[[Any], tuple[nn.Sequential, nn.Sequential]]
    classifier: str


def _cut_resnet(net: Any) -> tuple[nn.Sequential, nn.Sequential]:
    lower = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    return lower, nn.Sequential(net.layer4)


def _cut_features(at: int) -> Callable[[Any], tuple[nn.Sequential, nn.Sequential]]:
    return lambda net: (net.features[:at], net.features[at:])


BACKBONES: Mapping[str, _Cut] = {
    "resnet18": _Cut(_cut_resnet, "fc."),
    "resnet34": _Cut(_cut_resnet, "fc."),
    "resnet50": _Cut(_cut_resnet, "fc."),
    "vgg16": _Cut(_cut_features(24), "classifier."),
    "mobilenet_v2": _Cut(_cut_features(14), "classifier."),
    "mobilenet_v3_small": _Cut(_cut_features(9), "classifier."),
    "efficientnet_b0": _Cut(_cut_features(6), "classifier."),
}


class Backbone(nn.Module):
    """Turn images or flow stacks into one local and one semantic feature vector each.

    Args:
        name: a key of `BACKBONES`.
        in_channels: 3 for RGB, 2 L for a stack of L flow fields (u0 v0 u1 v1 …).
        weights: "none" for random ones, "imagenet" or a torchvision weights name (`IMAGENET1K_V2`, …; downloaded by
            torchvision on first use), or the path of a state dict of the whole torchvision network.
        frozen: keep every parameter and statistic as loaded.
        freeze_batch_norm: keep batch norm as loaded, folded into the convolutions, which are trained.

    Raises:
        ConfigError: unknown `name` or weights name.
        CheckpointError: the weights cannot be downloaded or read, or do not fit the network.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        weights: str = "none",
        frozen: bool = False,
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"unknown backbone {name!r}; expected one of {', '.join(BACKBONES)}")
        net = load_network(name, weights)
        if frozen or freeze_batch_norm:
            fold_batch_norm(net)
        self.lower, self.upper = BACKBONES[name].stages(net)
        if in_channels != 3:
            widen_first_convolution(self.lower, in_channels)
        self.in_channels = in_channels
        self.frozen = frozen
        self.requires_grad_(not frozen)
        self.local_dim, self.semantic_dim = self._measure()

    @torch.no_grad()
    def _measure(self) -> tuple[int, int]:
        training = self.training
        self.eval()
        local = self.lower(torch.zeros(1, self.in_channels, 64, 64))
        semantic = self.upper(local)
        self.train(training)
        return local.shape[1], semantic.shape[1]

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, unless frozen."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features of images (N, in_channels, H, W): local (N, local_dim), semantic (N, semantic_dim)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            local = self.lower(images.contiguous(memory_format=torch.channels_last))
            semantic = self.upper(local)
            return local.mean(dim=(2, 3)), semantic.mean(dim=(2, 3))


def fold_batch_norm(network: nn.Module) -> None:
    """Fold every batch norm that follows a convolution into it, in place, as it behaves in evaluation mode.

    The function stays the same; without normalisation passes a MobileNetV2 trains about twice as fast on a CPU.
    """
    children = list(network.named_children())
    for _, child in children:
        fold_batch_norm(child)
    for (name, convolution), (norm_name, norm) in pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(network, name, fuse_conv_bn_eval(convolution.eval(), norm.eval()))
            setattr(network, norm_name, nn.Identity())


def widen_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution, in place, by one that takes `in_channels` channels.

    Its weights are the old ones averaged over the input channels and repeated (Wang et al., "Temporal Segment
    Networks", 2016, cross-modality pre-training), times 3 / in_channels so that the responses keep their scale, which
    matters where batch norm is frozen.
    """
    parent, attribute, old = _first_convolution(network)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        mean = old.weight.mean(dim=1, keepdim=True) * (old.in_channels / in_channels)
        new.weight.copy_(mean.expand_as(new.weight))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    setattr(parent, attribute, new)


def _first_convolution(network: nn.Module) -> tuple[nn.Module, str, nn.Conv2d]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, attribute = name.rpartition(".")
            return network.get_submodule(parent), attribute, module
    raise ConfigError("the network has no convolution to widen")


def build_network(name: str, weights: str | None) -> nn.Module:
    """Build a network of torchvision, which downloads the weights of that name if there is one."""
    net = torchvision.models.get_model(name, weights=weights)
    assert isinstance(net, nn.Module)
    return net


def load_network(
    name: str, weights: str, build: Callable[[str, str | None], nn.Module] = build_network
) -> nn.Module:
    """Build the whole network that a backbone is cut from.

    Args:
        name: a key of `BACKBONES`.
        weights: as for `Backbone`.
        build: builds a network, given its name and torchvision's name of its weights or None for random ones.

    Raises:
        ConfigError: unknown weights name.
        CheckpointError: the weights cannot be downloaded or read, or do not fit the network.
    """
    if weights == "none":
        return build(name, None)
    path = Path(weights)
    if weights == "imagenet" or not (path.suffix or path.exists()):
        return _download(name, "DEFAULT" if weights == "imagenet" else weights, build)
    net = build(name, None)
    classifier = BACKBONES[name].classifier
    state = {k: v for k, v in _read_state_dict(path).items() if not k.startswith(classifier)}
    result = net.load_state_dict(state, strict=False)
    missing = [key for key in result.missing_keys if not key.startswith(classifier)]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{path} does not hold weights of torchvision's {name}: {len(missing)} entries missing"
            f" {missing[:3]}, {len(result.unexpected_keys)} unexpected {result.unexpected_keys[:3]};"
            " choose the backbone that the file was made for"
        )
    return net


def _download(name: str, weights: str, build: Callable[[str, str | None], nn.Module]) -> nn.Module:
    known = torchvision.models.get_model_weights(name)
    names = ["DEFAULT", *known.__members__]
    if weights not in names:
        raise ConfigError(
            f"weights {weights!r} are neither a file nor known for {name}; expected 'none', 'imagenet', "
            f"{', '.join(names[1:])} or the path of a state dict"
        )
    try:
        return build(name, weights)
    except (URLError, OSError) as error:
        raise CheckpointError(
            f"could not download the ImageNet weights of {name} ({error}); give a downloaded state dict with"
            " --model.weights PATH, or --model.weights none to start from random ones"
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"weights file {path} does not exist") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable PyTorch state dict ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a plain state dict (a mapping from names to tensors)")
    return dict(state)
