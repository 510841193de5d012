"""Devices by name, and what is said where a GPU cannot be used, with a CuPy that is only pretended."""

from __future__ import annotations

import contextlib
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods import device
from flow_cache.methods.registry import get_method


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def raising(error):
    def function(*arguments):
        raise error

    return function


def pretended_cupy(built=13020, driver=13000, count=1, capability="90", **changes):
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

    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=nvrtc, Device=Device))


@pytest.fixture(autouse=True)
def fresh():
    """Forget what was opened and said, before and after."""
    for function in (device.open_cuda, device._say_once):
        function.cache_clear()
    yield
    for function in (device.open_cuda, device._say_once):
        function.cache_clear()


WRONG = {
    "no driver": (pretended_cupy(driver=0), "needs an NVIDIA driver, none was found; install one"),
    "no driver library": (
        pretended_cupy(driverGetVersion=raising(CUDARuntimeError(35, "insufficient"))),
        "needs an NVIDIA driver, none was found; install one",
    ),
    "old driver": (
        pretended_cupy(driver=12040),
        "knows CUDA up to 12.4, but CuPy is built for 13.2; update the driver, or pip install cupy-cuda12x in place",
    ),
    "older driver": (
        pretended_cupy(getDeviceCount=raising(CUDARuntimeError(35, "insufficient"))),
        "the NVIDIA driver is too old for CuPy; update the driver",
    ),
    "no device": (
        pretended_cupy(getDeviceCount=raising(CUDARuntimeError(100, "no device"))),
        "CUDA sees no device; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    "no visible device": (pretended_cupy(count=0), "CUDA sees no device"),
    "broken device": (
        pretended_cupy(getDeviceCount=raising(CUDARuntimeError(999, "unknown error\nmore"))),
        "cannot be used: unknown error",
    ),
    "old card": (
        pretended_cupy(capability="61"),
        "has compute capability 6.1, CUDA 13 needs at least 7.5; use a newer card, cupy-cuda12x or device='cpu'",
    ),
    "memory taken": (
        pretended_cupy(memGetInfo=raising(CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"))),
        "cannot be used (cudaErrorMemoryAllocation: out of memory); see in nvidia-smi whether its memory is taken",
    ),
    "no compiler": (
        pretended_cupy(getVersion=raising(RuntimeError("libnvrtc.so.13 not found"))),
        "NVRTC cannot be loaded (libnvrtc.so.13 not found); pip install nvidia-cuda-nvrtc",
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["tvl1", "farneback"])
def test_says_what_to_install_or_change(monkeypatch, what, name):
    cupy, message = WRONG[what]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(DeviceError) as caught:
        get_method(name, device="cuda")
    assert message in str(caught.value)
    assert str(caught.value).startswith("device cuda:0")
    assert "\n" not in str(caught.value)


def test_cupy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(
        device.importlib, "import_module", raising(ModuleNotFoundError("No module named 'cupy'", name="cupy"))
    )
    with pytest.raises(
        DeviceError, match="device cuda:0 needs CuPy, which is not installed; pip install cupy-cuda13x"
    ):
        device.open_device("cuda")


def test_cupy_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(
        device.importlib, "import_module", raising(ImportError("libcuda.so.1: cannot open\nmore"))
    )
    with pytest.raises(
        DeviceError, match=r"CuPy cannot be loaded \(libcuda.so.1: cannot open\); pip install"
    ):
        device.open_device("cuda")


def test_cupy_whose_cache_cannot_be_written(monkeypatch):
    error = PermissionError(13, "Permission denied", "/.cupy")
    monkeypatch.setattr(device.importlib, "import_module", raising(error))
    with pytest.raises(DeviceError, match=r"cannot be loaded \(.*/.cupy'\); name a folder .* CUPY_CACHE_DIR"):
        device.open_device("cuda")


def test_a_number_beyond_the_devices(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy(count=2))
    with pytest.raises(DeviceError, match=r"there is no cuda:2; CUDA sees 2 device\(s\), cuda:0 to cuda:1"):
        device.open_device("cuda:2")


def test_auto_falls_back_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy(driver=0))
    frames = np.zeros((2, 16, 16), np.uint8)
    with caplog.at_level(logging.WARNING, logger="flow_cache"):
        methods = [get_method("tvl1", device="auto") for _ in range(3)]
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
    assert get_method("tvl1").backend == "numba-cpu"


def test_a_usable_gpu_is_opened_once(monkeypatch):
    made = []
    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy(count=2))
    module = SimpleNamespace(
        CupyBackend=lambda cupy, index: made.append(index) or SimpleNamespace(index=index)
    )
    monkeypatch.setitem(sys.modules, "flow_cache.methods.cuda.cupy_backend", module)
    assert device.open_device("cuda:1") is device.open_device("cuda:1")
    assert get_method("tvl1", device="auto").device.index == 0
    assert made == [1, 0]
