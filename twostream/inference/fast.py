"""The quickest flow that a checkpoint tolerates: what `--fast` takes in place of the one it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from flow_cache import FlowSettings, get_method, preset_names

# By the method that a checkpoint was trained with: method and preset. Another method's flow is another input to the
# network; TV-L1 `fast` is nearest to TV-L1 and to learned flow, DIS to Farneback.
_FASTER: dict[str, tuple[Literal["tvl1", "dis"], str]] = {
    "tvl1": ("tvl1", "fast"),
    "raft": ("tvl1", "fast"),
    "farneback": ("dis", "medium"),
}


def faster(flow: FlowSettings) -> FlowSettings:
    """Return settings of quicker flow between the same frames, on the same scale; the same ones if there are none.

    Example:
        >>> from flow_cache import FlowSettings
        >>> from twostream.inference.fast import faster
        >>> faster(FlowSettings("raft", short_side=240)).preset
        'fast'
    """
    if flow.method not in _FASTER:
        return flow
    method, preset = _FASTER[flow.method]
    return replace(flow, method=method, preset=preset, parameters={})


def describe(flow: FlowSettings | Mapping[str, Any]) -> str:
    """Name a method, and its preset where there is one of these very parameters.

    Args:
        flow: settings, or what a checkpoint says of its flow.
    """
    if isinstance(flow, FlowSettings):
        method, parameters = flow.method, flow.estimator().parameters.as_dict()
    else:
        method, parameters = flow["method"], flow["parameters"]
    # RAFT's presets cannot be asked for their parameters without its weights.
    for preset in () if method == "raft" else preset_names(method):
        if get_method(method, preset=preset).parameters.as_dict() == parameters:
            return f"{method} {preset}"
    return str(method)
