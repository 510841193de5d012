"""Surgery on a network's convolutions: folding batch norm into them, and widening the first one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from twostream.errors import ConfigError

BATCH_NORM = _BatchNorm


def fold_batch_norm(network: nn.Module, images: Tensor, keep_first: bool = False) -> bool:
    """Fold every batch norm that takes a convolution's output into it, in place, as it behaves in evaluation mode.

    The function stays the same; without normalisation passes a MobileNetV2 trains about twice as fast on a CPU. What
    belongs together is seen in a forward pass, not guessed from names. Folding is then tried on a copy with random
    statistics: where it would change what the network computes, as where a convolution's output is also used
    elsewhere, nothing is folded. So the outcome depends on the architecture alone, never on the weights.

    Args:
        network: any network whose output is a tensor or a tuple of tensors. It is left in evaluation mode.
        images: what the network takes; small ones do.
        keep_first: leave the network's first batch norm as it is.

    Returns:
        Whether batch norm was folded.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> fold_batch_norm(network, torch.zeros(1, 3, 8, 8)), network[1]
        (True, Identity())
    """
    network.eval()
    pairs = _pairs(network, images, keep_first)
    trial = copy.deepcopy(network).double()
    _scramble(trial)
    with torch.no_grad():
        before = _outputs(trial, images.double())
        _fold(trial, pairs)
        after = _outputs(trial, images.double())
    if not all(map(_agree, before, after)):
        return False
    _fold(network, pairs)
    return True


def _agree(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-6 * float(a.abs().max()))


def first_batch_norm(network: nn.Module) -> nn.Module | None:
    """Return the batch norm that comes first in the network, or None."""
    return next((module for module in network.modules() if isinstance(module, BATCH_NORM)), None)


@torch.no_grad()
def _pairs(network: nn.Module, images: Tensor, keep_first: bool) -> list[tuple[str, str]]:
    """Return the names of each convolution and the batch norm that takes its very output."""
    first = first_batch_norm(network) if keep_first else None
    made: dict[
        int, tuple[str, Tensor]
    ] = {}  # by identity; the tensor is held, so that its identity stays its own
    pairs: list[tuple[str, str]] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            handles.append(
                module.register_forward_hook(
                    lambda _, __, out, name=name: made.update({id(out): (name, out)})
                )
            )
        elif isinstance(module, BATCH_NORM) and module.track_running_stats and module is not first:

            def see(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in made:
                    pairs.append((made[id(inputs[0])][0], name))

            handles.append(module.register_forward_pre_hook(see))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _fold(network: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for name, norm_name in pairs:
        convolution, norm = network.get_submodule(name), network.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d | nn.Conv3d)
        assert isinstance(norm, BATCH_NORM)
        replace_module(network, name, fuse_conv_bn_eval(convolution, norm))
        # timm's batch norms apply the activation too
        rest = [getattr(norm, part, None) for part in ("drop", "act")]
        kept = [part for part in rest if part is not None and not isinstance(part, nn.Identity)]
        replace_module(
            network, norm_name, nn.Sequential(*kept) if len(kept) > 1 else (*kept, nn.Identity())[0]
        )


def _scramble(network: nn.Module) -> None:
    """Give batch norms statistics that a wrong folding cannot miss; the global random state is left alone."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, BATCH_NORM):
            for values, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.7, 1.3),
                (module.weight, 0.7, 1.3),
                (module.bias, -0.2, 0.2),
            ):
                if values is not None:
                    values.data.uniform_(low, high, generator=generator)


def _outputs(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    outputs = network(images)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def widen_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution, in place, by one that takes `in_channels` channels.

    Its weights are the old ones averaged over the input channels and repeated (Wang et al., "Temporal Segment
    Networks", 2016, cross-modality pre-training), times 3 / in_channels so that the responses keep their scale, which
    matters where batch norm is frozen.

    Raises:
        ConfigError: the network has no convolution.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> widen_first_convolution(network, 10)
        >>> tuple(network[0].weight.shape)
        (8, 10, 3, 3)
    """
    for name, old in network.named_modules():
        if isinstance(old, nn.Conv2d):
            # A copy keeps what a subclass adds, such as TensorFlow's padding.
            new = copy.deepcopy(old)
            new.in_channels = in_channels
            mean = old.weight.detach().mean(dim=1, keepdim=True) * (old.in_channels / in_channels)
            new.weight = nn.Parameter(mean.repeat(1, in_channels, 1, 1))
            replace_module(network, name, new)
            return
    raise ConfigError("the network has no convolution to widen")


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place that a name such as `features.0.1` stands for, in place."""
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
