"""Devices by name, and the errors of a GPU that cannot be used, with a stand-in for CuPy."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods import device
from flow_cache.methods.cuda.cupy_backend import CupyBackend
from flow_cache.methods.registry import build_method, get_method


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def raising(error):
    def function(*arguments):
        raise error

    return function


def fake_cupy(built=13020, driver=13000, count=1, capability="90", **changes):
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        runtimeGetVersion=lambda: built,
        driverGetVersion=lambda: driver,
        getDeviceCount=lambda: count,
        memGetInfo=lambda: (1 << 30, 1 << 30),
    )
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 2))
    for name, value in changes.items():
        setattr(nvrtc if name == "getVersion" else runtime, name, value)

    class Device(contextlib.nullcontext):
        compute_capability = capability
        attributes = {"MultiProcessorCount": 2}  # noqa: RUF012

    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=nvrtc, Device=Device))


def importing(cupy):
    """Return an importer that finds this module as CuPy."""
    return lambda name: cupy if name == "cupy" else importlib.import_module(name)


@pytest.fixture(autouse=True)
def fresh():
    """Forget opened devices and logged warnings, before and after."""
    for function in (device.open_cuda, device._warn_once):
        function.cache_clear()
    yield
    for function in (device.open_cuda, device._warn_once):
        function.cache_clear()


WRONG = {
    "no driver": (fake_cupy(driver=0), "needs an NVIDIA driver, none was found; install one"),
    "no driver library": (
        fake_cupy(driverGetVersion=raising(CUDARuntimeError(35, "insufficient"))),
        "needs an NVIDIA driver, none was found; install one",
    ),
    "old driver": (
        fake_cupy(driver=12040),
        "knows CUDA up to 12.4, but CuPy is built for 13.2; update the driver, or pip install cupy-cuda12x in place",
    ),
    "older driver": (
        fake_cupy(getDeviceCount=raising(CUDARuntimeError(35, "insufficient"))),
        "the NVIDIA driver is too old for CuPy; update the driver",
    ),
    "no device": (
        fake_cupy(getDeviceCount=raising(CUDARuntimeError(100, "no device"))),
        "CUDA sees no device; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    "no visible device": (fake_cupy(count=0), "CUDA sees no device"),
    "broken device": (
        fake_cupy(getDeviceCount=raising(CUDARuntimeError(999, "unknown error\nmore"))),
        "cannot be used: unknown error",
    ),
    "old card": (
        fake_cupy(capability="61"),
        "has compute capability 6.1, CUDA 13 needs at least 7.5; use a newer card, cupy-cuda12x or device='cpu'",
    ),
    "memory taken": (
        fake_cupy(memGetInfo=raising(CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"))),
        "cannot be used (cudaErrorMemoryAllocation: out of memory); see in nvidia-smi whether its memory is taken",
    ),
    "no compiler": (
        fake_cupy(getVersion=raising(RuntimeError("libnvrtc.so.13 not found"))),
        "NVRTC cannot be loaded (libnvrtc.so.13 not found); pip install nvidia-cuda-nvrtc",
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["tvl1", "farneback"])
def test_says_what_to_install_or_change(what, name):
    cupy, message = WRONG[what]
    load = importing(cupy)
    with pytest.raises(DeviceError) as caught:
        build_method(name, "cuda", 1, {}, lambda name: device.open_device(name, load))
    assert message in str(caught.value)
    assert str(caught.value).startswith("device cuda:0")
    assert "\n" not in str(caught.value)


def test_cupy_that_is_not_installed():
    load = raising(ModuleNotFoundError("No module named 'cupy'", name="cupy"))
    with pytest.raises(
        DeviceError, match="device cuda:0 needs CuPy, which is not installed; pip install cupy-cuda13x"
    ):
        device.open_device("cuda", load)


def test_cupy_that_cannot_be_loaded():
    load = raising(ImportError("libcuda.so.1: cannot open\nmore"))
    with pytest.raises(
        DeviceError, match=r"CuPy cannot be loaded \(libcuda.so.1: cannot open\); pip install"
    ):
        device.open_device("cuda", load)


def test_cupy_whose_cache_cannot_be_written():
    load = raising(PermissionError(13, "Permission denied", "/.cupy"))
    with pytest.raises(DeviceError, match=r"cannot be loaded \(.*/.cupy'\); name a folder .* CUPY_CACHE_DIR"):
        device.open_device("cuda", load)


def test_a_number_beyond_the_devices():
    with pytest.raises(DeviceError, match=r"there is no cuda:2; CUDA sees 2 device\(s\), cuda:0 to cuda:1"):
        device.open_device("cuda:2", importing(fake_cupy(count=2)))


def test_auto_falls_back_and_says_so_once(caplog):
    load = importing(fake_cupy(driver=0))
    frames = np.zeros((2, 16, 16), np.uint8)
    with caplog.at_level(logging.WARNING, logger="flow_cache"):
        methods = [
            build_method("tvl1", "auto", 1, {}, lambda name: device.open_device(name, load)) for _ in range(3)
        ]
    assert not methods[0](frames).any()
    assert methods[0].backend == "numba-cpu"
    assert len(caplog.records) == 1
    assert "device 'auto' works on the CPU: device cuda:0 needs an NVIDIA driver" in caplog.text


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", None, 0])
def test_unknown_names_are_refused(name):
    with pytest.raises(ArgumentError, match="device must be cpu, cuda, cuda:N"):
        get_method("tvl1", device=name)


def test_the_cpu_needs_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert device.open_device("cpu") is None
    with pytest.raises(DeviceError, match="needs CuPy"):
        get_method("tvl1", device="cuda")
    assert get_method("tvl1").backend == "numba-cpu"


def test_a_usable_gpu_is_opened_once():
    opened = []
    backend = SimpleNamespace(
        CupyBackend=lambda cupy, index: opened.append(index) or CupyBackend(cupy, index)
    )
    modules = {"cupy": fake_cupy(count=2), "flow_cache.methods.cuda.cupy_backend": backend}

    def open_gpu(name):
        return device.open_device(name, modules.__getitem__)

    assert open_gpu("cuda:1") is open_gpu("cuda:1")
    assert build_method("tvl1", "auto", 1, {}, open_gpu).device.index == 0
    assert opened == [1, 0]
