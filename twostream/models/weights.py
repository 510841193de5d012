"""State dicts of whole networks, read from files into networks that a backbone is made of."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from twostream.errors import CheckpointError, first_names, one_line


def is_file_name(weights: str) -> bool:
    """Tell whether weights are given as a path, as against the name of published ones."""
    path = Path(weights)
    return bool(path.suffix) or path.exists()


def fill(network: nn.Module, path: Path, title: str, left_out: tuple[str, ...]) -> None:
    """Fill a network from a state dict of the whole one; half precision becomes the network's.

    Args:
        network: the network, without what follows its last features or with it.
        path: the file.
        title: the network's name for messages.
        left_out: how the names of entries begin that neither the file nor the network needs (the classifier).

    Raises:
        CheckpointError: the file cannot be read or does not fit the network.
    """
    state = {key: value for key, value in read_state_dict(path).items() if not key.startswith(left_out)}
    own = {key: value for key, value in network.state_dict().items() if not key.startswith(left_out)}
    # files of old versions of PyTorch do not count batches, and nothing depends on it
    missing = [key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")]
    unexpected = state.keys() - own.keys()
    other = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unexpected or other:
        raise CheckpointError(
            f"{path} does not hold weights of {title}: missing {first_names(sorted(missing))}; unexpected"
            f" {first_names(sorted(unexpected))}; of another shape {first_names(other)};"
            " choose the backbone that the file was made for"
        )
    network.load_state_dict(state, strict=False)


SAFETENSORS = ".safetensors"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict, PyTorch's or a .safetensors file; no code stored in the file is run.

    Raises:
        CheckpointError: missing, unreadable, or something else.
    """
    if path.suffix == SAFETENSORS:
        return read_safetensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"weights file {path} does not exist") from None
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable PyTorch state dict ({one_line(reason)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a plain state dict (a mapping from names to tensors)")
    return dict(state)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a .safetensors file, and the texts that stand beside them; the format holds no code.

    Raises:
        CheckpointError: missing, unreadable, or something else.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"weights file {path} does not exist") from None
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable .safetensors file ({one_line(error)})") from error


def write_safetensors(path: Path, state: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors as a .safetensors file, and texts beside them."""
    # The format knows one order of memory, and each tensor as memory of its own.
    plain = {
        name: values.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, values in state.items()
    }
    # The library's own writer makes files that nobody but their owner can read.
    path.write_bytes(safetensors.torch.save(plain, dict(texts)))
