"""Flow estimators by name; see `base.FlowMethod` for the interface that they share."""

from __future__ import annotations

import importlib
from typing import Any

from flow_cache.cores import available_cores
from flow_cache.errors import ArgumentError
from flow_cache.methods.base import FlowMethod, Parameters

# name -> (module, class). Modules are imported when asked for, so that one estimator's libraries burden no
# other.
_METHODS = {
    "tvl1": ("flow_cache.methods.tvl1", "TVL1"),
    "farneback": ("flow_cache.methods.farneback", "Farneback"),
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

    threads: pairs that are worked on at the same time; 0 = as many as this process has cores. The result is the same.
    parameters: `preset` and any of the estimator's own, which replace the preset's. Raises ArgumentError for
    an unknown name, device, preset or parameter, and for values outside their range.
    """
    method = _load(name)
    if device not in method.devices:
        raise ArgumentError(
            f"method {name} runs on {', '.join(method.devices)} only in this build, got device {device!r}"
        )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ArgumentError(f"threads must be a whole number of at least 0, got {threads!r}")
    try:
        values = method.parameters_type.build(**parameters)
    except ArgumentError as error:
        raise ArgumentError(f"method {name}: {error}") from error
    estimator: FlowMethod = method(values)
    estimator.threads = threads or available_cores()
    return estimator


def _load(name: str) -> Any:
    if name not in _METHODS:
        raise ArgumentError(f"unknown method {name!r}; choose one of {', '.join(_METHODS)}")
    module, attribute = _METHODS[name]
    return getattr(importlib.import_module(module), attribute)
