"""Estimators that run on the CPU and on a GPU, and how far what they say there is apart."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarking import Frames
from cuda_report import Agreement

from flow_cache.cuda.backend import Backend
from flow_cache.cuda.engine import CudaMethod
from flow_cache.cuda.tvl1 import TUNINGS, TVL1
from flow_cache.errors import ArgumentError
from flow_cache.methods import get_method
from flow_cache.methods.base import Parameters

CLASSES = {"tvl1": ("flow_cache.cuda.tvl1", "TVL1"), "farneback": ("flow_cache.cuda.farneback", "Farneback")}


@dataclass(frozen=True)
class Estimator:
    """A method and a preset, on any device."""

    method: str
    preset: str
    tuning: int = 0
    """Which of the ways to compile TV-L1's iterations."""

    @classmethod
    def named(cls, name: str) -> Estimator:
        """Take METHOD:PRESET."""
        method, _, preset = name.partition(":")
        made = cls(method, preset)
        if method not in CLASSES:
            raise ArgumentError(
                f"a preset must be METHOD:PRESET with one of {', '.join(CLASSES)}, got {name!r}"
            )
        made.parameters()
        return made

    @property
    def name(self) -> str:
        how = TUNINGS[self.tuning]
        told = (
            f", {how.iterations} iterations, {how.columns} columns, {how.resident} blocks"
            if self.tuning
            else ""
        )
        return f"{self.method} {self.preset}{told}"

    def parameters(self, **changed: Any) -> Parameters:
        """Return the preset's parameters, some of them replaced."""
        return get_method(self.method, preset=self.preset, **changed).parameters

    def on_cpu(self, **changed: Any) -> Any:
        """Return our CPU path, with all cores."""
        return get_method(self.method, preset=self.preset, threads=0, **changed)

    def on_gpu(self, backend: Backend, **changed: Any) -> CudaMethod:
        """Return the estimator on a device."""
        module, name = CLASSES[self.method]
        made: CudaMethod = getattr(importlib.import_module(module), name)(self.parameters(**changed), backend)
        if isinstance(made, TVL1):
            made.tuning = TUNINGS[self.tuning]
        return made


def differences(flow: Any, other: Any) -> list[float]:
    """Return the mean end-point difference of each pair of fields, pixels."""
    distance = np.hypot(flow[:, 0] - other[:, 0], flow[:, 1] - other[:, 1])
    return [float(value) for value in distance.mean(axis=(1, 2))]


def compare(backend: Backend, estimator: Estimator, setting: str, stacks: list[Frames]) -> Agreement:
    """Compare a GPU's flow with the CPU's on all pairs of some stacks."""
    changed = {"epsilon": 0.0} if setting == "fixed iterations" and estimator.method == "tvl1" else {}
    gpu, cpu = estimator.on_gpu(backend, **changed), estimator.on_cpu(**changed)
    found, own, moved = [], [], []
    for stack in stacks:
        expected = cpu(stack)
        found += differences(gpu(stack), expected)
        # grey levels that differ by a unit in the last place
        own += differences(cpu(np.nextafter(stack.astype(np.float32), np.float32(128))), expected)
        moved += [float(value) for value in np.hypot(expected[:, 0], expected[:, 1]).mean(axis=(1, 2))]
    return Agreement(estimator.name, setting, moved, found, own)


def agreement(
    backend: Backend, estimators: list[Estimator], stacks: list[Frames], fixed: int
) -> Iterator[Agreement]:
    """Compare all presets: TV-L1 on all pairs with convergence, and on the first `fixed` stacks with none."""
    for estimator in estimators:
        if estimator.method == "tvl1":
            yield compare(backend, estimator, "convergence", stacks)
        yield compare(
            backend, estimator, "fixed iterations", stacks[:fixed] if estimator.method == "tvl1" else stacks
        )
