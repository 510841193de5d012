"""Which device a method runs on: names, what they need, and what to say where it is not there."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from typing import TYPE_CHECKING, Any

from flow_cache.errors import ArgumentError, DeviceError, first_line

if TYPE_CHECKING:
    from flow_cache.methods.cuda.backend import Backend

_log = logging.getLogger(__name__)
_INSTALL = "pip install cupy-cuda13x (NVIDIA driver 580 or newer) or cupy-cuda12x (525 or newer)"
_OLDEST = {
    12: (5, 0),
    13: (7, 5),
}  # compute capability that CUDA's compiler still knows, by its major version
_NO_DEVICE, _INSUFFICIENT_DRIVER = 100, 35  # CUDA's error codes


def check_device(device: str) -> str:
    """Return a device's name as written; raise ArgumentError unless it is cpu, cuda, cuda:N or auto."""
    if not isinstance(device, str) or not re.fullmatch(r"cpu|auto|cuda(:\d+)?", device):
        raise ArgumentError(f"device must be cpu, cuda, cuda:N (N = 0, 1, ...) or auto, got {device!r}")
    return device


def check_devices(names: str) -> list[str]:
    """Split names of devices between commas; the CPU is none, since workers use it themselves."""
    if names == "cpu":
        return []
    devices = [check_device(name.strip()) for name in names.split(",")]
    unusable = {"cpu", "auto"} & set(devices) if len(devices) > 1 else None
    if unusable or len({name.replace("cuda:0", "cuda") for name in devices}) < len(devices):
        raise ArgumentError(f"several devices must be different GPUs, e.g. cuda:0,cuda:1, got {names!r}")
    return devices


def check_cluster_device(device: str) -> str:
    """Return a device's name as written; raise ArgumentError unless it is one that any node may have."""
    if device not in ("cpu", "cuda", "auto"):
        raise ArgumentError(
            f"device must be cpu, cuda or auto with --ray, which numbers GPUs itself, got {device!r}"
        )
    return device


def open_device(device: str) -> Backend | None:
    """Return the GPU that a name stands for; None = work on the CPU.

    auto: a GPU where there is a usable one; otherwise the CPU, which is logged once. Raises DeviceError, in one line
    that says what to install or change, where `cuda` cannot be had.
    """
    check_device(device)
    if device == "cpu":
        return None
    if device == "auto":
        try:
            return open_cuda(0)
        except DeviceError as error:
            _say_once(str(error))
            return None
    _, _, index = device.partition(":")
    return open_cuda(int(index or 0))


@functools.cache
def _say_once(reason: str) -> None:
    _log.warning("device 'auto' works on the CPU: %s", reason)


@functools.cache
def open_cuda(index: int) -> Backend:
    """Return a GPU by its number; the same object each time. Raises DeviceError where it cannot be used."""
    name = f"cuda:{index}"
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise DeviceError(f"device {name} needs CuPy, which is not installed; {_INSTALL}") from error
        raise DeviceError(
            f"device {name}: CuPy cannot be loaded ({first_line(error)}); {_INSTALL}"
        ) from error
    except OSError as error:  # it makes a folder for compiled kernels when it is imported
        raise DeviceError(
            f"device {name}: CuPy cannot be loaded ({first_line(error)}); name a folder that can be written by the "
            "environment variable CUPY_CACHE_DIR"
        ) from error
    runtime = cupy.cuda.runtime
    built = int(runtime.runtimeGetVersion())
    _check_driver(name, runtime, built)
    count = _device_count(name, runtime)
    if index >= count:
        raise DeviceError(f"there is no {name}; CUDA sees {count} device(s), cuda:0 to cuda:{count - 1}")
    try:
        device = cupy.cuda.Device(index)
        digits = str(device.compute_capability)
        with device:
            runtime.memGetInfo()  # makes the context, which takes a few hundred MiB
    except runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device {name} cannot be used ({first_line(error)}); see in nvidia-smi whether its memory is taken"
        ) from error
    capability = (int(digits[:-1]), int(digits[-1]))
    oldest = _OLDEST.get(built // 1000, _OLDEST[13])
    if capability < oldest:
        raise DeviceError(
            f"device {name} has compute capability {digits[:-1]}.{digits[-1]}, CUDA {built // 1000} needs at least "
            f"{oldest[0]}.{oldest[1]}; use a newer card{', cupy-cuda12x' if built >= 13000 else ''} or device='cpu'"
        )
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        raise DeviceError(
            f"device {name}: CUDA's compiler NVRTC cannot be loaded ({first_line(error)}); "
            f"pip install nvidia-cuda-nvrtc{'' if built >= 13000 else '-cu12'}"
        ) from error
    backend: Backend = importlib.import_module("flow_cache.methods.cuda.cupy_backend").CupyBackend(
        cupy, index
    )
    return backend


def _check_driver(name: str, runtime: Any, built: int) -> None:
    try:
        driver = int(runtime.driverGetVersion())
    except runtime.CUDARuntimeError:
        driver = 0
    if driver == 0:
        raise DeviceError(
            f"device {name} needs an NVIDIA driver, none was found; install one, or use device='cpu'"
        )
    if driver // 1000 < built // 1000:
        raise DeviceError(
            f"device {name}: the NVIDIA driver knows CUDA up to {_version(driver)}, but CuPy is built for "
            f"{_version(built)}; update the driver, or pip install cupy-cuda{driver // 1000}x in place of this one"
        )


def _device_count(name: str, runtime: Any) -> int:
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        if error.status == _INSUFFICIENT_DRIVER:
            raise DeviceError(
                f"device {name}: the NVIDIA driver is too old for CuPy; update the driver"
            ) from error
        if error.status != _NO_DEVICE:
            raise DeviceError(f"device {name} cannot be used: {first_line(error)}") from error
        count = 0
    if count == 0:
        raise DeviceError(
            f"device {name}: CUDA sees no device; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device='cpu'"
        )
    return count


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
