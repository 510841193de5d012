"""A CNN that gives features at two levels, from torchvision or timm.

The *local* level is the last feature map at stride 16 (parts, textures, small motions), the *semantic* level the
last one at stride 32. The first convolution is widened for stacks of flow fields.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from twostream.errors import ConfigError
from twostream.models.checkpointing import checkpoint_blocks
from twostream.models.convolutions import BATCH_NORM, first_batch_norm, fold_batch_norm
from twostream.models.networks import DEFAULT, find_network


class Backbone(nn.Module):
    """Turn images or flow stacks into one local and one semantic feature map each.

    Args:
        name: resnet18, resnet34, resnet50, vgg16, mobilenet_v2, mobilenet_v3_small or efficientnet_b0 (torchvision);
            `timm:NAME`, any model of timm with features at strides 16 and 32, also with a tag of its weights
            (`timm:tf_efficientnet_b0.ap_in1k`); or r3d_18, mc3_18, r2plus1d_18 or s3d, torchvision's video nets.
        in_channels: 3 for RGB, 2 L for a stack of L flow fields (u0 v0 u1 v1 …), 3 F for a video net's window of F
            RGB frames (r0 g0 b0 r1 …).
        weights: "none" for random ones; "imagenet" ("kinetics" for video nets) or the name of published weights
            (`IMAGENET1K_V2` of torchvision, `in1k` of timm), downloaded on first use; or the path of a state dict of
            the whole network, with or without its classifier.
        frozen: keep every parameter and statistic as loaded.
        freeze_batch_norm: the same as `batch_norm="frozen"`.
        batch_norm: "train"; "frozen" to keep batch norm as loaded, folded into the convolutions, which are trained;
            "partial" for all but the first to be frozen (Wang et al., "Temporal Segment Networks", 2016), which
            learns what the network's own input is like.
        checkpoint_gradients: compute activations inside blocks again in the backward pass, to save memory.

    Attributes:
        local_dim: channels of the local map.
        semantic_dim: channels of the semantic map.
        mean: mean of RGB in [0, 1] that the weights expect to be taken away.
        std: standard deviation of RGB in [0, 1] that they expect to be divided by.

    Raises:
        ConfigError: unknown `name` or weights name, or a network that does not serve.
        CheckpointError: the weights cannot be downloaded or read, or do not fit the network.

    Example:
        >>> backbone = Backbone("mobilenet_v3_small", in_channels=10)
        >>> local, semantic = backbone(torch.zeros(1, 10, 96, 64))
        >>> tuple(local.shape), tuple(semantic.shape)
        ((1, 48, 6, 4), (1, 576, 3, 2))
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        weights: str = "none",
        frozen: bool = False,
        freeze_batch_norm: bool = False,
        batch_norm: Literal["train", "frozen", "partial"] = "train",
        checkpoint_gradients: bool = False,
    ) -> None:
        super().__init__()
        if batch_norm not in ("train", "frozen", "partial"):
            raise ConfigError(f"batch_norm must be train, frozen or partial, got {batch_norm!r}")
        if freeze_batch_norm and batch_norm == "partial":
            raise ConfigError(
                "freeze_batch_norm freezes every batch norm, batch_norm 'partial' not the first: give one"
            )
        self.name = name
        self.in_channels = in_channels
        self.frozen = frozen
        self.batch_norm = "frozen" if freeze_batch_norm or frozen else batch_norm
        self._network = find_network(name)
        red, green, blue = self._network.statistics(DEFAULT)[0]
        self.mean = (red, green, blue)
        red, green, blue = self._network.statistics(DEFAULT)[1]
        self.std = (red, green, blue)
        network = self._network.load(weights)
        self._network.widen(network, in_channels)
        for part, module in self._network.parts(network).items():
            self.add_module(part, module)
        images = torch.zeros(1, in_channels, self._network.images, self._network.images)
        with torch.no_grad():
            local, semantic = self._network.try_levels(self.eval(), images)
        self.local_dim, self.semantic_dim = local.shape[1], semantic.shape[1]
        if self.batch_norm != "train":
            fold_batch_norm(self, images, keep_first=self.batch_norm == "partial")
        self.requires_grad_(not frozen)
        for norm in self._frozen_norms():
            norm.requires_grad_(False)
        if checkpoint_gradients and not frozen and not checkpoint_blocks(self):
            raise ConfigError(
                f"{name} is a plain chain of layers without blocks: set checkpoint_gradients to false"
            )
        self.to(memory_format=self._network.memory_format)
        self.train()

    def _frozen_norms(self) -> list[nn.Module]:
        """Return the batch norms that could not be folded and are frozen."""
        if self.batch_norm == "train":
            return []
        free = first_batch_norm(self) if self.batch_norm == "partial" else None
        return [module for module in self.modules() if isinstance(module, BATCH_NORM) and module is not free]

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except for what is frozen."""
        super().train(mode and not self.frozen)
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute feature maps of images (N, in_channels, H, W), normalised with `mean` and `std` where they are RGB.

        Returns:
            local (N, local_dim, h, w) at stride 16 and semantic (N, semantic_dim, h', w') at stride 32. A video
            net's are averaged over the window; those of r3d_18, mc3_18 and r2plus1d_18 lie at strides 8 and 16.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._network.levels(self, images.contiguous(memory_format=self._network.memory_format))
