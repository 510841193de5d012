"""Devices that methods run on: their names, what they need, and a clear error if that is missing."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flow_cache.errors import ArgumentError, DeviceError, first_line

if TYPE_CHECKING:
    from flow_cache.methods.cuda.backend import Backend

_log = logging.getLogger(__name__)
_INSTALL = "pip install cupy-cuda13x (NVIDIA driver 580 or newer) or cupy-cuda12x (525 or newer)"
# CUDA's major version -> oldest compute capability that its compiler supports
_OLDEST = {12: (5, 0), 13: (7, 5)}
_NO_DEVICE, _INSUFFICIENT_DRIVER = 100, 35  # CUDA's error codes


def check_device(device: str) -> str:
    """Return a device's name unchanged; raise ArgumentError unless it is cpu, cuda, cuda:N or auto."""
    if not isinstance(device, str) or not re.fullmatch(r"cpu|auto|cuda(:\d+)?", device):
        raise ArgumentError(f"device must be cpu, cuda, cuda:N (N = 0, 1, ...) or auto, got {device!r}")
    return device


def check_devices(names: str) -> list[str]:
    """Split device names at commas.

    Args:
        names: one name, or several GPUs, e.g. `cuda:0,cuda:1`.

    Returns:
        The names; an empty list for the CPU, which workers use directly.

    Raises:
        ArgumentError: a name is unknown, or several names are not different GPUs.
    """
    if names == "cpu":
        return []
    devices = [check_device(name.strip()) for name in names.split(",")]
    unusable = {"cpu", "auto"} & set(devices) if len(devices) > 1 else None
    if unusable or len({name.replace("cuda:0", "cuda") for name in devices}) < len(devices):
        raise ArgumentError(f"several devices must be different GPUs, e.g. cuda:0,cuda:1, got {names!r}")
    return devices


def check_cluster_device(device: str) -> str:
    """Return a device's name unchanged; raise ArgumentError unless every node can have it (no GPU numbers)."""
    if device not in ("cpu", "cuda", "auto"):
        raise ArgumentError(
            f"device must be cpu, cuda or auto with --ray, which numbers GPUs itself, got {device!r}"
        )
    return device


Importer = Callable[[str], Any]  # importlib.import_module, or what stands for it


def open_device(device: str, load: Importer = importlib.import_module) -> Backend | None:
    """Return the GPU that a name stands for, or None for the CPU.

    Args:
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: a GPU if one can be used, else the CPU, which is logged once.
        load: imports a module by its name.

    Raises:
        DeviceError: the GPU cannot be used; the message is one line that says what to install or change.
    """
    check_device(device)
    if device == "cpu":
        return None
    if device == "auto":
        try:
            return open_cuda(0, load)
        except DeviceError as error:
            _warn_once(str(error))
            return None
    _, _, index = device.partition(":")
    return open_cuda(int(index or 0), load)


@functools.cache
def _warn_once(reason: str) -> None:
    """Log why `auto` has chosen the CPU."""
    _log.warning("device 'auto' works on the CPU: %s", reason)


@functools.cache
def open_cuda(index: int, load: Importer) -> Backend:
    """Return a GPU by its number, the same object each time.

    Args:
        index: CUDA's number of the device.
        load: imports a module by its name.

    Raises:
        DeviceError: the GPU cannot be used.
    """
    name = f"cuda:{index}"
    try:
        cupy = load("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise DeviceError(f"device {name} needs CuPy, which is not installed; {_INSTALL}") from error
        raise DeviceError(
            f"device {name}: CuPy cannot be loaded ({first_line(error)}); {_INSTALL}"
        ) from error
    except OSError as error:  # CuPy creates a folder for compiled kernels when it is imported
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
            runtime.memGetInfo()  # creates the context, which takes a few hundred MiB
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
    backend: Backend = load("flow_cache.methods.cuda.cupy_backend").CupyBackend(cupy, index)
    return backend


def _check_driver(name: str, runtime: Any, built: int) -> None:
    """Raise DeviceError unless there is a driver for the CUDA version that CuPy is built for."""
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
    """Return how many devices CUDA sees; raise DeviceError if there are none."""
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
    """Return CUDA's version number, e.g. 13020, as people write it: 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
