"""Estimators that run on the CPU and on a GPU, and how far their results are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cuda_report import Agreement
from benchmarks.endpoint_errors import endpoint_errors, mean_lengths
from benchmarks.videos import Frames
from flow_cache.errors import ArgumentError
from flow_cache.methods.base import Parameters
from flow_cache.methods.cuda.backend import Backend
from flow_cache.methods.cuda.engine import CudaMethod
from flow_cache.methods.cuda.farneback import Farneback
from flow_cache.methods.cuda.tvl1 import TUNINGS, TVL1
from flow_cache.methods.registry import get_method

CLASSES: dict[str, Callable[..., CudaMethod]] = {"tvl1": TVL1, "farneback": Farneback}


@dataclass(frozen=True)
class Estimator:
    """A method and a preset, on any device."""

    method: str
    preset: str
    tuning: int = 0
    """Which of the ways to compile TV-L1's iterations."""
    get_method: Callable[..., Any] = get_method
    """Makes the method of the CPU, and with it the parameters of both."""

    @classmethod
    def named(cls, name: str, get_method: Callable[..., Any] = get_method) -> Estimator:
        """Take METHOD:PRESET; raises ArgumentError if there is no such method or preset."""
        method, _, preset = name.partition(":")
        estimator = cls(method, preset, get_method=get_method)
        if method not in CLASSES:
            raise ArgumentError(
                f"a preset must be METHOD:PRESET with one of {', '.join(CLASSES)}, got {name!r}"
            )
        estimator.parameters()
        return estimator

    @property
    def name(self) -> str:
        """The method, the preset, and the tuning if it is not the usual one."""
        if not self.tuning:
            return f"{self.method} {self.preset}"
        tuning = TUNINGS[self.tuning]
        tuned = f"{tuning.iterations} iterations, {tuning.columns} columns, {tuning.resident} blocks"
        return f"{self.method} {self.preset}, {tuned}"

    def parameters(self, **changed: Any) -> Parameters:
        """Return the preset's parameters, some of them replaced."""
        parameters: Parameters = self.get_method(self.method, preset=self.preset, **changed).parameters
        return parameters

    def on_cpu(self, **changed: Any) -> Any:
        """Return our CPU path, with all cores."""
        return self.get_method(self.method, preset=self.preset, threads=0, **changed)

    def on_gpu(self, backend: Backend, **changed: Any) -> CudaMethod:
        """Return the estimator on a device."""
        method = CLASSES[self.method](self.parameters(**changed), backend)
        if isinstance(method, TVL1):
            method.tuning = TUNINGS[self.tuning]
        return method


def compare(backend: Backend, estimator: Estimator, setting: str, stacks: list[Frames]) -> Agreement:
    """Compare a GPU's flow with the CPU's on all pairs of some stacks."""
    changed = {"epsilon": 0.0} if setting == "fixed iterations" and estimator.method == "tvl1" else {}
    gpu, cpu = estimator.on_gpu(backend, **changed), estimator.on_cpu(**changed)
    to_cpu, to_itself, motion = [], [], []
    for stack in stacks:
        expected = cpu(stack)
        to_cpu += endpoint_errors(gpu(stack), expected)
        # grey levels that differ by a unit in the last place
        to_itself += endpoint_errors(cpu(np.nextafter(stack.astype(np.float32), np.float32(128))), expected)
        motion += mean_lengths(expected)
    return Agreement(estimator.name, setting, motion, to_cpu, to_itself)


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
