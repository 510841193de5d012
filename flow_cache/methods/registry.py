"""Flow estimators by name; see `base.FlowMethod` for the interface that they share."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flow_cache.errors import ArgumentError, DeviceError, check_whole_number
from flow_cache.methods.base import FlowMethod, Parameters
from flow_cache.methods.device import check_device, open_device
from flow_cache.runtime import available_cores

if TYPE_CHECKING:
    from flow_cache.methods.cuda.backend import Backend

# name -> (module, class). A module is imported when its estimator is asked for, so that the others do not need its
# libraries.
_METHODS = {
    "tvl1": ("flow_cache.methods.tvl1.estimator", "TVL1"),
    "farneback": ("flow_cache.methods.farneback", "Farneback"),
    "dis": ("flow_cache.methods.dis", "Dis"),
    "raft": ("flow_cache.methods.raft", "Raft"),
}

# the estimators with CUDA kernels in this package
_ON_CUDA = {
    "tvl1": ("flow_cache.methods.cuda.tvl1", "TVL1"),
    "farneback": ("flow_cache.methods.cuda.farneback", "Farneback"),
}

__all__ = ["FlowMethod", "Parameters", "get_method", "method_names", "preset_names"]


def method_names() -> tuple[str, ...]:
    """List the estimators that `get_method` knows.

    Example:
        >>> from flow_cache import method_names
        >>> method_names()
        ('tvl1', 'farneback', 'dis', 'raft')
    """
    return tuple(_METHODS)


def preset_names(name: str) -> tuple[str, ...]:
    """List the presets of an estimator, the default one first.

    Args:
        name: the estimator.

    Raises:
        ArgumentError: an unknown name.

    Example:
        >>> from flow_cache import preset_names
        >>> preset_names("farneback")
        ('default', 'opencv')
    """
    presets = _load(name).parameters_type.presets
    return tuple(presets)


def get_method(name: str, device: str = "cpu", *, threads: int = 1, **parameters: Any) -> FlowMethod:
    """Return an estimator: a callable from grey frames (T, H, W) to flow (T - step, 2, H, W) float32.

    Args:
        name: one of `method_names()`.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` (a GPU if one can be used, else the CPU). An estimator on a GPU also
            takes frames that are there already (arrays of torch or CuPy), and then returns flow on the GPU; see
            `flow_cache.methods.cuda.engine.CudaMethod`.
        threads: processor cores that work at the same time; 0 = as many as this process may use. They do not change
            the result.
        **parameters: `preset`, and parameters of the estimator that replace the preset's.

    Raises:
        ArgumentError: an unknown name, device, preset or parameter, or a value outside its range.
        DeviceError: the GPU cannot be used.

    Example:
        >>> import numpy as np
        >>> from flow_cache import get_method
        >>> method = get_method("farneback", preset="opencv", winsize=21)
        >>> frames = np.random.default_rng(0).integers(0, 256, (3, 32, 40), np.uint8)
        >>> flow = method(frames)
        >>> flow.shape, flow.dtype
        ((2, 2, 32, 40), dtype('float32'))
    """
    return build_method(name, device, threads, parameters)


def build_method(
    name: str,
    device: str,
    threads: int,
    parameters: dict[str, Any],
    open_gpu: Callable[[str], Backend | None] = open_device,
) -> FlowMethod:
    """Do what `get_method` does; `open_gpu` returns the GPU that a device's name stands for, None for the CPU."""
    method = _load(name)
    check_device(device)
    check_whole_number("threads", threads, 0)
    try:
        values = method.parameters_type.build(**parameters)
        gpu = open_gpu(device) if name in _ON_CUDA else None
        estimator: FlowMethod = method(values, device) if gpu is None else _load(name, _ON_CUDA)(values, gpu)
    except DeviceError:
        raise
    except ArgumentError as error:
        raise ArgumentError(f"method {name}: {error}") from error
    estimator.threads = threads or available_cores()
    return estimator


def _load(name: str, classes: dict[str, tuple[str, str]] = _METHODS) -> Any:
    """Import the class of an estimator."""
    if name not in classes:
        raise ArgumentError(f"unknown method {name!r}; choose one of {', '.join(classes)}")
    module, attribute = classes[name]
    return getattr(importlib.import_module(module), attribute)
