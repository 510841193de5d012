"""The networks that a backbone can be made of, and what differs between them: torchvision's, its video nets, timm's.

Each kind says where the network and its weights come from, where its two levels lie, and what its weights expect.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from twostream.errors import CheckpointError, ConfigError, one_line
from twostream.models.convolutions import replace_module, widen_first_convolution
from twostream.models.weights import fill, is_file_name

TIMM = "timm:"
DEFAULT = "DEFAULT"

Build = Callable[[str, str | None], nn.Module]
"""Builds a network, given its name and that of its published weights, or None for random ones."""


class Network(ABC):
    """A kind of network, for one name of it.

    Attributes:
        name: the name, as its library knows it.
        title: the name for messages.
        data_set: what stands for the default published weights: imagenet or kinetics.
        hint: what to do where the network does not take some images.
        images: sides of a small image that the network takes.
        memory_format: layout of images that convolutions are fastest with.
    """

    title: str
    data_set: str = "imagenet"
    hint: str = "choose another network"
    images: int = 64
    memory_format: torch.memory_format = torch.channels_last

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def build(self, name: str, weights: str | None) -> nn.Module:
        """Build the whole network, with published weights (`DEFAULT` or a name), downloaded on first use."""

    @abstractmethod
    def known_weights(self) -> list[str]:
        """Return the names of its published weights."""

    @abstractmethod
    def statistics(self, weights: str) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of RGB in [0, 1] that published weights expect."""

    @abstractmethod
    def trim(self, network: nn.Module) -> tuple[str, ...]:
        """Remove what follows the last features; return how the names of its weights begin."""

    @abstractmethod
    def parts(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the modules that the backbone holds, by the names that they have in its state dict."""

    @abstractmethod
    def levels(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the local and the semantic map of images, given the object whose attributes the parts are."""

    def try_levels(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the levels of small images, to see whether the network serves.

        Raises:
            ConfigError: it does not.
        """
        try:
            return self.levels(parts, images)
        except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
            size = "x".join(map(str, images.shape[1:]))
            raise ConfigError(
                f"{self.title} does not take images of {size} ({one_line(error)[:200]}); {self.hint}"
            ) from error

    def widen(self, network: nn.Module, in_channels: int) -> None:
        """Let the network take images of `in_channels` channels, in place."""
        if in_channels != 3:
            widen_first_convolution(network, in_channels)

    def load(self, weights: str, build: Build | None = None) -> nn.Module:
        """Build the network without what follows its last features.

        Args:
            weights: as for `Backbone`.
            build: used instead of `Network.build`.

        Raises:
            ConfigError: unknown weights name.
            CheckpointError: the weights cannot be downloaded or read, or do not fit the network.
        """
        build = build or self.build
        published = weights != "none" and not is_file_name(weights)
        if published:
            name = DEFAULT if weights == self.data_set else weights
            self._require_known(name)
            try:
                network = build(self.name, name)
            except Exception as error:  # whatever the libraries below raise where there is no connection
                raise CheckpointError(
                    f"could not download the weights {weights!r} of {self.title} ({one_line(error)[:200]}); give a"
                    " downloaded state dict with --model.weights PATH, or --model.weights none to start from random"
                    " ones"
                ) from error
        else:
            network = build(self.name, None)
        left_out = self.trim(network)
        if weights != "none" and not published:
            fill(network, Path(weights), self.title, left_out)
        return network

    def _require_known(self, weights: str) -> None:
        known = self.known_weights()
        if weights not in (DEFAULT, *known):
            raise ConfigError(
                f"weights {weights!r} are neither a file nor known for {self.name}; expected 'none',"
                f" {self.data_set!r}, {', '.join(known)}{', ' if known else ''}or the path of a state dict"
            )
        # A checkpoint is used again by the name of its network alone, which must stand for the same input.
        if self.statistics(weights) != self.statistics(DEFAULT):
            raise ConfigError(
                f"weights {weights!r} of {self.title} expect another input (mean, standard deviation) than its"
                f" default ones; name them with the backbone: {TIMM}{self.name.partition('.')[0]}.{weights}"
            )


@dataclass(frozen=True)
class _Cut:
    """Where a torchvision network is cut: its stages, and the prefix of its classifier, which is left out."""

    stages: Callable[[Any], tuple[nn.Sequential, nn.Sequential]]
    classifier: str


def _cut_resnet(net: Any) -> tuple[nn.Sequential, nn.Sequential]:
    lower = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    return lower, nn.Sequential(net.layer4)


def _cut_video_resnet(net: Any) -> tuple[nn.Sequential, nn.Sequential]:
    return nn.Sequential(net.stem, net.layer1, net.layer2, net.layer3), nn.Sequential(net.layer4)


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
VIDEO_BACKBONES: Mapping[str, _Cut] = {
    "r3d_18": _Cut(_cut_video_resnet, "fc."),
    "mc3_18": _Cut(_cut_video_resnet, "fc."),
    "r2plus1d_18": _Cut(_cut_video_resnet, "fc."),
    "s3d": _Cut(_cut_features(13), "classifier."),
}


class ImageNetwork(Network):
    """A torchvision CNN, cut in two: `lower` ends with the last map at stride 16, `upper` with the last at 32."""

    cuts = BACKBONES

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.title = f"torchvision's {name}"

    def build(self, name: str, weights: str | None) -> nn.Module:
        net = torchvision.models.get_model(name, weights=weights)
        assert isinstance(net, nn.Module)
        return net

    def known_weights(self) -> list[str]:
        return [
            name for name in torchvision.models.get_model_weights(self.name).__members__ if name != DEFAULT
        ]

    def statistics(self, weights: str) -> tuple[list[float], list[float]]:
        transforms = torchvision.models.get_model_weights(self.name)[weights].transforms()
        return transforms.mean, transforms.std

    def trim(self, network: nn.Module) -> tuple[str, ...]:
        return (self.cuts[self.name].classifier,)  # which no part holds

    def parts(self, network: nn.Module) -> dict[str, nn.Module]:
        return dict(zip(("lower", "upper"), self.cuts[self.name].stages(network), strict=True))

    def levels(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        local = parts.lower(images)
        return local, parts.upper(local)


class VideoNetwork(ImageNetwork):
    """A torchvision video net over short windows; its maps are averaged over time.

    The levels of the ResNets lie at strides 8 and 16, after their last two stages; those of S3D at 16 and 32.
    """

    cuts = VIDEO_BACKBONES
    data_set = "kinetics"
    hint = "take longer windows"
    images = 32
    memory_format = torch.contiguous_format

    def widen(self, network: nn.Module, in_channels: int) -> None:
        """Leave the network as it is: windows may have any length."""
        if in_channels % 3:
            raise ConfigError(
                f"{self.title} takes windows of RGB frames, 3 channels each, got {in_channels} channels; choose an"
                " image network for flow"
            )

    def levels(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        frames = images.view(images.shape[0], -1, 3, *images.shape[2:])  # r0 g0 b0 r1 … -> (N, F, 3, H, W)
        local, semantic = super().levels(parts, frames.transpose(1, 2))
        return local.mean(dim=2), semantic.mean(dim=2)


class TimmNetwork(Network):
    """A timm model, kept whole up to its last features before pooling.

    The local level is its last map at stride 16. The semantic level is what the model would pool, which includes an
    EfficientNet's head convolution, where that is a map of the same size as the last one at stride 32; else the latter.
    """

    images = 96

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.title = f"timm's {name}"
        self.taken: list[int] = []

    def build(self, name: str, weights: str | None) -> nn.Module:
        import timm

        name = name if weights in (None, DEFAULT) else f"{name.partition('.')[0]}.{weights}"
        network = timm.create_model(name, pretrained=weights is not None)
        assert isinstance(network, nn.Module)
        return network

    def known_weights(self) -> list[str]:
        import timm

        architecture = self.name.partition(".")[0]
        return [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]

    def statistics(self, weights: str) -> tuple[list[float], list[float]]:
        import timm

        name = self.name if weights == DEFAULT else f"{self.name.partition('.')[0]}.{weights}"
        config = timm.get_pretrained_cfg(name)
        return list(config.mean), list(config.std)

    def trim(self, network: Any) -> tuple[str, ...]:
        strides = [network.feature_info[i].get("reduction") for i in range(len(network.feature_info))]
        if not {16, 32} <= {*strides} or not hasattr(network, "forward_intermediates"):
            raise ConfigError(
                f"{self.title} has no features at strides 16 and 32, only at {sorted({*strides})}; choose a network"
                " that halves its maps five times, such as timm:resnet18"
            )
        self.taken = [max(i for i, s in enumerate(strides) if s == stride) for stride in (16, 32)]
        whole = {*network.state_dict()}
        network.prune_intermediate_layers(self.taken, prune_norm=False, prune_head=False)
        network.reset_classifier(0)
        self._remove_unused(network.eval())
        return tuple(sorted(whole - {*network.state_dict()}))

    def _remove_unused(self, network: nn.Module) -> None:
        """Remove layers that the levels do not depend on: their gradients would never come, which stops DDP."""
        names, parameters = zip(*network.named_parameters(), strict=True)
        with torch.enable_grad():
            maps = self.try_levels(
                SimpleNamespace(network=network), torch.zeros(1, 3, self.images, self.images)
            )
            total = maps[0].sum() + maps[1].sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        used = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        for name, module in list(network.named_modules()):
            own = {f"{name}.{key}" for key, _ in module.named_parameters()}
            if name and own and not own & used:
                replace_module(network, name, nn.Identity())

    def parts(self, network: nn.Module) -> dict[str, nn.Module]:
        return {"network": network}

    def levels(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        network = parts.network
        final, (local, last) = network.forward_intermediates(images, indices=self.taken)
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            final = final.permute(0, 3, 1, 2)
        return local, final if final.shape[2:] == last.shape[2:] else last


def find_network(name: str) -> Network:
    """Find the kind of network that a backbone's name stands for.

    Raises:
        ConfigError: unknown name.

    Example:
        >>> find_network("mc3_18").data_set
        'kinetics'
    """
    if name in BACKBONES:
        return ImageNetwork(name)
    if name in VIDEO_BACKBONES:
        return VideoNetwork(name)
    known = [*BACKBONES, *VIDEO_BACKBONES]
    if name.startswith(TIMM):
        import timm

        model = name.removeprefix(TIMM)
        architecture, _, tag = model.partition(".")
        network = TimmNetwork(model)
        if timm.is_model(architecture):
            if not tag or tag in network.known_weights():
                return network
            tags = network.known_weights()
            raise ConfigError(
                f"timm's {architecture} has no weights {tag!r}; expected {', '.join(tags) or 'none'}"
                f"{_did_you_mean(difflib.get_close_matches(tag, tags))}"
            )
        close = [f"{TIMM}{match}" for match in difflib.get_close_matches(architecture, timm.list_models())]
    else:
        close = difflib.get_close_matches(name, known)
    raise ConfigError(
        f"unknown backbone {name!r}; expected one of {', '.join(known)}, or {TIMM}NAME with a model of timm"
        f"{_did_you_mean(close)}"
    )


def _did_you_mean(close: list[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""
