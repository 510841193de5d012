"""RAFT: learned flow by recurrent look-ups in all-pairs correlations, through torchvision.

Teed, Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. No other module of the package
needs torch and torchvision, and this one imports them when the estimator is created.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, DeviceError, first_line
from flow_cache.methods.base import Flow, FlowMethod, Grey, Parameters

STRIDE = 8  # sides are padded to a multiple: correlations are between features of every eighth pixel
SMALLEST = 128  # with it, the coarsest of the four correlation levels has at least two values a side
_BATCH_BYTES = 1 << 30  # correlations of one batch, on a GPU


@dataclass(frozen=True)
class RaftParameters(Parameters):
    """The network, its weights, and how often it refines the flow.

    Attributes:
        model: `large` or `small`.
        weights: name of torchvision's weights, e.g. C_T_SKHT_V2, which are downloaded; or a file with a state dict.
        weights_sha256: checksum of a weights file. If empty it is filled in, so that a cache says which file was used.
        updates: refinements of the flow.
    """

    model: str = "large"
    weights: str = "DEFAULT"
    weights_sha256: str = ""
    updates: int = 12

    presets: ClassVar[dict[str, RaftParameters]] = {}

    def _check(self) -> None:
        self._require(self.model in ("large", "small"), "model", "large or small")
        self._require(bool(self.weights), "weights", "the name of weights or a file")
        self._require(self.updates >= 1, "updates", "at least 1")


RaftParameters.presets["large"] = RaftParameters()
RaftParameters.presets["small"] = RaftParameters(model="small")


class Raft(FlowMethod):
    """RAFT flow by torchvision's networks, on the CPU or a GPU.

    The grey level is used for all three channels. Frames of any size are padded by repeating their border, evenly on
    both sides, and the flow is cropped.
    """

    name = "raft"
    libraries = ("torch", "torchvision")
    parameters_type = RaftParameters

    def __init__(self, parameters: RaftParameters, device: str = "cpu") -> None:
        torch = _torch()
        self.device = device = _choose(torch, device)
        self.backend = f"torch-{device.partition(':')[0]}"
        self.on_gpu = device != "cpu"
        self.parameters: RaftParameters
        self.parameters, self._model = _load(torch, parameters)

    def _estimate(self, first: Grey, second: Grey) -> Flow:
        torch = _torch()
        count, height, width = first.shape
        flow = np.empty((count, 2, height, width), np.float32)
        top, bottom = _padding(height)
        left, right = _padding(width)
        # On a CPU one pair at a time: a batch is no faster, and a pair's flow is the same, bit for bit, in any stack.
        features = (height + top + bottom) * (width + left + right) // STRIDE**2
        batch = 1 if self.device == "cpu" else max(1, _BATCH_BYTES // (8 * features**2))
        cores = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            self._model.to(self.device)
            for n in range(0, count, batch):
                pair = [
                    _prepare(torch, frames[n : n + batch], self.device, (left, right, top, bottom))
                    for frames in (first, second)
                ]
                with torch.inference_mode():
                    refined = self._model(*pair, num_flow_updates=self.parameters.updates)[-1]
                cropped = refined[:, :, top : top + height, left : left + width]
                flow[n : n + batch] = cropped.cpu().numpy()
        finally:
            torch.set_num_threads(cores)
        return flow


def _padding(side: int) -> tuple[int, int]:
    """Return the pixels to add before and after a side."""
    missing = max(-(-side // STRIDE) * STRIDE, SMALLEST) - side
    return missing // 2, missing - missing // 2


def _prepare(torch: Any, frames: NDArray[Any], device: str, padding: tuple[int, int, int, int]) -> Any:
    """Turn grey levels (N, H, W) into the network's input (N, 3, H', W'), float32 from -1 to 1."""
    levels = torch.from_numpy(np.ascontiguousarray(frames, np.float32)).to(device)
    padded = torch.nn.functional.pad(levels[:, None] / 127.5 - 1, padding, mode="replicate")
    return padded.expand(-1, 3, -1, -1)


def _torch() -> Any:
    """Import torch, or raise ArgumentError."""
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            f"needs torch and torchvision, which cannot be imported ({error}); pip install torch torchvision"
        ) from error
    return torch


def _choose(torch: Any, device: str) -> str:
    """Return the name of the device to work on; raise DeviceError if torch cannot use it."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if device == "cpu" or index < count:
        return device
    if count:
        raise DeviceError(
            f"there is no cuda:{index}; torch sees {count} device(s), cuda:0 to cuda:{count - 1}"
        )
    raise DeviceError(
        f"device {device!r} needs an NVIDIA GPU that torch {torch.__version__} can use, and it finds none; "
        "install a driver and a CUDA build of torch, or use device 'cpu'"
    )


def _load(torch: Any, parameters: RaftParameters) -> tuple[RaftParameters, Any]:
    """Return the parameters with names and checksum filled in, and the network with its weights."""
    from torchvision.models import get_model_weights
    from torchvision.models.optical_flow import raft_large, raft_small

    p = parameters
    known = get_model_weights(f"raft_{p.model}").__members__
    if p.weights in known:
        # the name that DEFAULT stands for now; a later version of torchvision may choose another one
        p = dataclasses.replace(p, weights=known[p.weights].name)
        try:
            state = known[p.weights].get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network, or a download that was cut short
            raise ArgumentError(
                f"weights {p.weights} cannot be downloaded from {known[p.weights].url} ({error}); "
                "download them elsewhere and name the file"
            ) from error
    else:
        p, state = _read(torch, p, known)
    model = {"large": raft_large, "small": raft_small}[p.model](weights=None)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = first_line(error).rstrip(":")
        raise ArgumentError(f"{p.weights} holds no weights of raft {p.model}: {reason}") from error
    return p, model.eval()


def _read(torch: Any, parameters: RaftParameters, known: Any) -> tuple[RaftParameters, Any]:
    """Return the parameters with the checksum of a weights file, and the file's state dict."""
    path = Path(parameters.weights)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ArgumentError(
            f"weights must be one of {', '.join(known)} or a file, got {parameters.weights!r} ({error.strerror})"
        ) from error
    if parameters.weights_sha256 not in ("", digest):
        raise ArgumentError(
            f"{path} is not the weights file that was asked for: "
            f"its SHA-256 is {digest}, expected {parameters.weights_sha256}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common error class for files that it cannot load
        raise ArgumentError(f"{path} is not a state dict that torch can load: {first_line(error)}") from error
    return dataclasses.replace(parameters, weights_sha256=digest), state
