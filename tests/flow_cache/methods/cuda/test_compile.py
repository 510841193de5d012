"""Every kernel through NVRTC, which needs no GPU, for old and new architectures; registers and spills recorded."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys

import pytest

from flow_cache.methods.cuda import tvl1
from flow_cache.methods.cuda.backend import COMPILE_OPTIONS, KERNELS, kernel_source, macro_options

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")
MACROS = {"tvl1_iterate.cu": [tuning.macros() for tuning in tvl1.TUNINGS]}
# with more registers, fewer warps would fit on a multiprocessor than the kernels are designed for
MOST_REGISTERS = {"median": 65536 // (256 * tvl1.MEDIAN_RESIDENT), "warp": 64}


@pytest.fixture(scope="module")
def nvrtc():
    module = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="NVRTC comes with CuPy")
    try:
        module.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    return module


def build(nvrtc, source: str, architecture: str, macros: dict[str, int]) -> dict[str, dict[str, int]]:
    """Compile a file; return registers, shared and spilled bytes of each kernel. Fails on any warning."""
    options = (*COMPILE_OPTIONS, *macro_options(macros), f"-arch={architecture}", "--ptxas-options=-v")
    program = nvrtc.createProgram(kernel_source(source), source, (), ())
    try:
        nvrtc.compileProgram(program, options)
    except Exception as error:
        pytest.fail(f"{source} for {architecture}: {error}\n{nvrtc.getProgramLog(program)}")
    log = nvrtc.getProgramLog(program)
    assert nvrtc.getCUBIN(program)
    nvrtc.destroyProgram(program)
    # warnings name a place in the source; the rest of the log is what the assembler reports
    assert not re.search(r"warning|error", log), log
    figures = {}
    for part in log.split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", part)
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill)", part)[:3])
        figures[part.split("'")[0]] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "shared": int(shared[1]) if shared else 0,
            "stack": stack,
            "spilled": stores + loads,
        }
    return figures


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", sorted(path.name for path in KERNELS.glob("*.cu")))
def test_compiles_without_warnings_or_spills(nvrtc, record_property, source, architecture):
    supported = nvrtc.getSupportedArchs()
    if int(architecture[3:]) not in supported:
        pytest.skip(f"this NVRTC knows {min(supported)} to {max(supported)}, not {architecture}")
    for macros in MACROS.get(source, [{}]):
        figures = build(nvrtc, source, architecture, macros)
        names = re.findall(
            r"__global__\s+void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\s*\(", kernel_source(source)
        )
        assert sorted(figures) == sorted(names)
        record_property(f"{source} {macros} {architecture}", figures)
        for name, figure in figures.items():
            assert figure["spilled"] == 0, (name, figure)
            assert figure["shared"] <= 48 * 1024, (name, figure)
            assert figure["registers"] <= MOST_REGISTERS.get(name, 255), (name, figure)


@pytest.mark.parametrize("columns", [2, 4])
def test_nothing_is_left_for_the_compiler_to_fuse(nvrtc, columns):
    """Tunings give the same flow, bit for bit: so a compiler may not choose what it fuses, in each as it likes."""

    def fused(allowed: str) -> int:
        program = nvrtc.createProgram(kernel_source("tvl1_iterate.cu"), "iterate.cu", (), ())
        macros = macro_options({"ITERATIONS": 2, "COLUMNS": columns})
        nvrtc.compileProgram(program, (*COMPILE_OPTIONS, *macros, "-arch=compute_90", f"--fmad={allowed}"))
        text = nvrtc.getPTX(program)
        nvrtc.destroyProgram(program)
        return len(re.findall(r"\bfma\.rn\S*f32", text if isinstance(text, str) else text.decode()))

    assert fused("true") == fused("false") > 20


def test_the_package_ships_every_kernel():
    patterns = configparser.ConfigParser()
    patterns.read(KERNELS.parents[3] / "setup.cfg")
    shipped = patterns["options.package_data"]["flow_cache"].replace(" ", "").split(",")
    files = [path for path in KERNELS.iterdir() if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert any(path.relative_to(KERNELS.parents[2]).match(pattern) for pattern in shipped), path


def test_flow_on_cuda_imports_few_packages(emulation):
    """Flow on an emulated device, in a process that can import the standard library, NumPy, and three packages more."""
    code = (
        "import sys, importlib.util\n"
        "class Barrier:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        allowed = {*sys.stdlib_module_names, 'numpy', 'lazy_loader', 'packaging', 'flow_cache', 'torch',\n"
        "                   'cupy', 'numba', 'backend'}\n"
        "        if name.partition('.')[0] not in allowed:\n"
        "            raise ModuleNotFoundError(f'{name} must not be needed', name=name)\n"
        "sys.meta_path.insert(0, Barrier())\n"
        f"spec = importlib.util.spec_from_file_location('backend', {emulation.__file__!r})\n"
        "backend = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(backend)\n"
        "import numpy as np\n"
        "from flow_cache.methods.cuda import cupy_backend, farneback, tvl1\n"
        "from flow_cache.methods.tvl1.parameters import TVL1Parameters\n"
        "quick = TVL1Parameters.build('fast', warps=1, nscales=1, inner_iterations=5)\n"
        "frames = np.zeros((3, 16, 16), np.uint8)\n"
        "flow, clipped = tvl1.TVL1(quick, backend.EmulatedBackend()).quantized(frames, 20.0)\n"
        "assert flow.shape == (2, 2, 16, 16) and (flow == 128).all() and not clipped\n"
        "assert not {'torch', 'cupy', 'numba', 'cv2'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=KERNELS.parents[3], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_gpu_path_needs_no_opencv():
    """GPU images often have a build of it without contrib, or none."""
    code = (
        "import sys, flow_cache.methods.device; "
        "from flow_cache.methods.cuda import cupy_backend, farneback, tvl1; "
        "sys.exit('cv2' in sys.modules or 'cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=KERNELS.parents[3]).returncode == 0
