"""Flow estimators by name; see `base.FlowMethod` for the interface that they share."""

from __future__ import annotations

import importlib
from typing import Any

from flow_cache.cores import available_cores
from flow_cache.errors import ArgumentError
from flow_cache.methods.base import FlowMethod, Parameters

# name -> kind of device -> (module, class). Modules are imported when asked for, so that one estimator's libraries
# burden no other.
_METHODS = {
    "tvl1": {"cpu": ("flow_cache.methods.tvl1", "TVL1")},
    "farneback": {"cpu": ("flow_cache.methods.farneback", "Farneback")},
    "raft": {
        "cpu": ("flow_cache.methods.raft", "Raft"),
        "cuda": ("flow_cache.methods.raft", "Raft"),
    },
}

__all__ = ["FlowMethod", "Parameters", "get_method", "method_names", "preset_names"]


def method_names() -> tuple[str, ...]:
    """List the estimators that `get_method` knows."""
    return tuple(_METHODS)


def preset_names(name: str) -> tuple[str, ...]:
    """List the presets of an estimator, the default one first."""
    presets = _load(name, "cpu").parameters_type.presets
    return tuple(presets)


def get_method(name: str, device: str = "cpu", *, threads: int = 1, **parameters: Any) -> FlowMethod:
    """Return an estimator: a callable from grey frames (T, H, W) to flow (T - step, 2, H, W) float32.

    device: `cpu`, or where an estimator runs there, `cuda` or `cuda:N`.
    threads: cores that work at the same time; 0 = as many as this process may use. The result is the same.
    parameters: `preset` and any of the estimator's own, which replace the preset's. Raises ArgumentError for
    an unknown name, device, preset or parameter, and for values outside their range.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ArgumentError(f"threads must be a whole number of at least 0, got {threads!r}")
    method = _load(name, device)
    try:
        values = method.parameters_type.build(**parameters)
        estimator: FlowMethod = method(values, device)
    except ArgumentError as error:
        raise ArgumentError(f"method {name}: {error}") from error
    estimator.threads = threads or available_cores()
    return estimator


def _load(name: str, device: str) -> Any:
    if name not in _METHODS:
        raise ArgumentError(f"unknown method {name!r}; choose one of {', '.join(_METHODS)}")
    kind = device.partition(":")[0]
    if kind not in _METHODS[name]:
        kinds = " and ".join(_METHODS[name])
        raise ArgumentError(f"method {name} runs on {kinds} only in this build, got device {device!r}")
    module, attribute = _METHODS[name][kind]
    return getattr(importlib.import_module(module), attribute)
