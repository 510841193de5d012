"""Flow estimators by name; see `base.FlowMethod` for the interface that they share."""

from __future__ import annotations

import importlib
from typing import Any

from flow_cache.errors import ArgumentError, DeviceError, check_whole_number
from flow_cache.methods.base import FlowMethod, Parameters
from flow_cache.methods.device import check_device, open_device
from flow_cache.runtime import available_cores

# name -> (module, class). Modules are imported when asked for, so that one estimator's libraries burden no other.
_METHODS = {
    "tvl1": ("flow_cache.methods.tvl1.estimator", "TVL1"),
    "farneback": ("flow_cache.methods.farneback", "Farneback"),
    "raft": ("flow_cache.methods.raft", "Raft"),
}

# the ones that have kernels of ours, on CUDA
_ON_CUDA = {
    "tvl1": ("flow_cache.methods.cuda.tvl1", "TVL1"),
    "farneback": ("flow_cache.methods.cuda.farneback", "Farneback"),
}

__all__ = ["FlowMethod", "Parameters", "get_method", "method_names", "preset_names"]


def method_names() -> tuple[str, ...]:
    """List the estimators that `get_method` knows."""
    return tuple(_METHODS)


def preset_names(name: str) -> tuple[str, ...]:
    """List the presets of an estimator, the default one first."""
    presets = _load(name).parameters_type.presets
    return tuple(presets)


def get_method(name: str, device: str = "cpu", *, threads: int = 1, **parameters: Any) -> FlowMethod:
    """Return an estimator: a callable from grey frames (T, H, W) to flow (T - step, 2, H, W) float32.

    device: cpu, cuda, cuda:N, or auto (a GPU where there is a usable one, else the CPU). On a GPU, frames may also be
    arrays that are there already (torch, CuPy), and so is then the flow; see `flow_cache.methods.cuda.engine.CudaMethod`.
    threads: cores that work at the same time; 0 = as many as this process may use. The result is the same.
    parameters: `preset` and any of the estimator's own, which replace the preset's. Raises ArgumentError for
    an unknown name, device, preset or parameter, and for values outside their range; DeviceError where a GPU is asked
    for that cannot be used.
    """
    method = _load(name)
    check_device(device)
    check_whole_number("threads", threads, 0)
    try:
        values = method.parameters_type.build(**parameters)
        gpu = open_device(device) if name in _ON_CUDA else None
        estimator: FlowMethod = method(values, device) if gpu is None else _load(name, _ON_CUDA)(values, gpu)
    except DeviceError:
        raise
    except ArgumentError as error:
        raise ArgumentError(f"method {name}: {error}") from error
    estimator.threads = threads or available_cores()
    return estimator


def _load(name: str, homes: dict[str, tuple[str, str]] = _METHODS) -> Any:
    if name not in homes:
        raise ArgumentError(f"unknown method {name!r}; choose one of {', '.join(homes)}")
    module, attribute = homes[name]
    return getattr(importlib.import_module(module), attribute)
