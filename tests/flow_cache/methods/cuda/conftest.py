"""The emulated device, and the real one where there is one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from flow_cache.errors import DeviceError
from flow_cache.methods.device import open_device


def _load(path: str):
    """Import a module by its path relative to this file, since test folders are no packages."""
    file = Path(__file__).parent / path
    name = f"flow_cache_test_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def farneback_reference():
    """The module of Farneback's plain reference."""
    return _load("farneback_reference.py")


@pytest.fixture(scope="session")
def emulation():
    """The module of the emulated device; skips where there is no C++ compiler."""
    module = _load("emulation/backend.py")
    if module.compiler() is None:
        pytest.skip("the emulation of CUDA needs a C++ compiler (g++, or the one that CXX names)")
    return module


@pytest.fixture
def emulated(emulation):
    """The class of emulated devices: emulated(seed=0, limit=bytes)."""
    return emulation.EmulatedBackend


@pytest.fixture
def gpu():
    """The first GPU."""
    return _gpu()


def _gpu():
    """Open the first GPU; where there is none, skip, or fail if FLOW_CACHE_REQUIRE_GPU is set."""
    try:
        return open_device("cuda")
    except DeviceError as error:
        if os.environ.get("FLOW_CACHE_REQUIRE_GPU"):
            raise
        pytest.skip(str(error))


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """A device to run the same test on: the emulated one, then a GPU."""
    return request.getfixturevalue("emulated")() if request.param == "emulated" else _gpu()
