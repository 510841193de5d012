"""The emulated device, and the real one where there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _load_emulation():
    """Import the emulation by its place, since test folders are no packages."""
    name = "flow_cache_test_emulation"
    if name not in sys.modules:
        path = Path(__file__).parent / "emulation" / "backend.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def emulation():
    """The module of the emulated device; skips where there is no C++ compiler."""
    module = _load_emulation()
    if module.compiler() is None:
        pytest.skip("the emulation of CUDA needs a C++ compiler (g++, or the one that CXX names)")
    return module


@pytest.fixture
def emulated(emulation):
    """Maker of emulated devices: emulated(seed=0, limit=bytes)."""
    return emulation.EmulatedBackend
