"""The CuPy backend with a stand-in for CuPy: its arrays are NumPy's, its kernels the emulated ones.

It behaves like CuPy where the backend relies on it: captured launches and memsets run when the graph is launched, not
before; there is a current stream and a current device; memory may run out.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods.cuda.backend import kernel_source
from flow_cache.methods.cuda.cupy_backend import CupyBackend
from flow_cache.methods.cuda.tvl1 import TVL1
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1.parameters import TVL1Parameters


class OutOfMemoryError(MemoryError):
    pass


class CompileError(Exception):
    pass


class Given:
    """A caller's array on a device."""

    def __init__(self, array, index=0):
        self.array, self.index = array, index
        self.__cuda_array_interface__ = {"version": 3}


class FakeCupy:
    """The part of CuPy that the backend uses."""

    def __init__(self, emulated):
        self.emulated = emulated
        self.captured = None
        self.graphs = self.compiled = 0
        self.done = True  # whether events have been reached
        self.current = [
            SimpleNamespace(waited=[], wait_event=lambda event: self.current[-1].waited.append(event))
        ]
        self.devices = [0]
        fake = self

        class Array(np.ndarray):
            device = SimpleNamespace(id=0)

            @property
            def data(self):
                return SimpleNamespace(
                    array=self,
                    ptr=self.ctypes.data,
                    memset_async=lambda value, size: fake.do(lambda: self.fill(value)),
                    copy_from_device_async=self.copy,
                )

            def copy(self, source, size):
                assert size == self.nbytes == source.array.nbytes
                assert self.flags.c_contiguous
                assert source.array.flags.c_contiguous
                fake.do(lambda: np.copyto(self, source.array))

            def __setitem__(self, key, value):
                # CuPy compiles a kernel for it, unless both are NumPy's here
                assert not isinstance(value, Array), "needs CUDA's headers"
                super().__setitem__(key, value)

            def set(self, source, stream):
                assert stream is fake.current[-1]
                assert (self.dtype, self.shape) == (source.dtype, source.shape)
                assert self.flags.c_contiguous
                assert source.flags.c_contiguous
                self[...] = source

        class Device(contextlib.AbstractContextManager):
            def __init__(self, index):
                self.index = index
                self.attributes = {"MultiProcessorCount": 2}
                self.mem_info = (1 << 30, 1 << 30)

            def __enter__(self):
                fake.devices.append(self.index)

            def __exit__(self, *_):
                fake.devices.pop()

        class Stream(contextlib.AbstractContextManager):
            def __init__(self, non_blocking):
                assert non_blocking

            def __enter__(self):
                fake.current.append(self)

            def __exit__(self, *_):
                fake.current.pop()

            def begin_capture(self):
                fake.captured = []

            def end_capture(self):
                captured, fake.captured = fake.captured, None

                def launch(stream):
                    assert stream is fake.current[-1]
                    fake.graphs += 1
                    for work in captured:
                        work()

                return SimpleNamespace(launch=launch)

        self.array = Array
        self.ndarray = Array
        self.RawModule = self.raw_module
        self.cuda = SimpleNamespace(
            Device=Device,
            Stream=Stream,
            Event=lambda disable_timing: SimpleNamespace(record=lambda: None, done=self.done),
            get_current_stream=lambda: self.current[-1],
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            compiler=SimpleNamespace(CompileException=CompileError),
        )

    def do(self, work):
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def empty(self, shape, dtype):
        assert self.captured is None, "allocated while a graph was captured"
        return self.emulated.empty(shape, dtype).view(self.array)

    def asnumpy(self, array):
        assert self.captured is None, "copied to the host while a graph was captured"
        return np.array(array)

    def asarray(self, given):
        own = given.array.view(self.array)
        own.device = SimpleNamespace(id=given.index)
        return own

    def get_default_memory_pool(self):
        return SimpleNamespace(free_bytes=lambda: 0)

    def raw_module(self, code, options, backend):
        assert self.devices[-1] == 0
        assert backend == "nvrtc"
        self.compiled += 1
        macros = dict(option[2:].split("=") for option in options if option.startswith("-D"))
        (source,) = [name for name in SOURCES if kernel_source(name) == code]
        module = self.emulated.module(source, **{name: int(value) for name, value in macros.items()})

        def get_function(name):
            def launch(grid, block, values, shared_mem):
                given = [None if isinstance(value, np.uintp) and not value else value for value in values]
                self.do(lambda: module.launch(name, grid, block, given, shared_mem))

            return launch

        return SimpleNamespace(get_function=get_function)


SOURCES = ["gather.cu", "tvl1_pyramid.cu", "tvl1_warp.cu", "tvl1_median.cu", "tvl1_iterate.cu", "quantize.cu"]


@pytest.fixture
def cupy(emulated):
    return FakeCupy(emulated())


def test_direct_launches_and_graphs_give_the_same(cupy, stack):
    frames = stack(4, 20, 30, 0.5, 0.25)
    expected = get_method("tvl1", preset="fast")(frames)
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    flows = [method(frames) for _ in range(4)]
    assert cupy.graphs == 3
    assert cupy.compiled == 4
    assert np.abs(flows[0] - expected).mean() < 0.01
    for flow in flows[1:]:
        assert np.array_equal(flow, flows[0])
    other = method(255 - frames[:3])  # fewer pairs through the same graph
    assert cupy.graphs in (3, 4)
    assert np.array_equal(other, TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))(255 - frames[:3]))


def test_arrays_of_the_device_are_taken_as_they_are(cupy, stack):
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    frames = stack(3, 20, 30, 0.5, 0.25)
    flow = method(Given(frames))
    assert isinstance(flow, cupy.array)
    assert np.array_equal(np.asarray(flow), method(frames))
    levels, _ = method.quantized(Given(frames), 1.0)
    assert isinstance(levels, cupy.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "view",
    [lambda a: a[::2, ::-1, ::3], lambda a: a.transpose(0, 2, 1), lambda a: a[:, 1:, 2:]],
    ids=range(3),
)
def test_arrays_with_strides_are_copied_without_the_headers_of_cuda(cupy, monkeypatch, dtype, view):
    monkeypatch.setattr("flow_cache.methods.cuda.cupy_backend.MOST_BLOCKS", 2)
    whole = np.random.default_rng(0).integers(0, 256, (5, 41, 70)).astype(dtype)
    taken = CupyBackend(cupy, 0).adopt(Given(view(whole)))
    assert taken.flags.c_contiguous
    assert np.array_equal(np.asarray(taken), view(whole))


def test_what_are_no_frames_is_left_for_the_check(cupy):
    backend = CupyBackend(cupy, 0)
    for array in (np.zeros((4, 6)).T, np.zeros((3, 4, 5), np.float64)[:, ::2], np.zeros((3, 0, 5), np.uint8)):
        assert backend.adopt(Given(array)).shape == array.shape


def test_another_stream_waits_for_the_workspaces(cupy, stack):
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    frames = stack(3, 20, 30, 0.5, 0.25)
    method(frames)
    assert cupy.current[-1].waited == []
    method(frames)
    assert len(cupy.current[-1].waited) == 1


def test_frames_of_another_device_are_refused(cupy):
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    frames = Given(np.zeros((3, 20, 30), np.uint8), index=1)
    with pytest.raises(ArgumentError, match="frames are on cuda:1 but the method runs on cuda:0"):
        method(frames)


def test_memory_that_is_exhausted_is_one_clear_error(cupy):
    def empty(shape, dtype):
        raise OutOfMemoryError("Out of memory\nallocating")

    cupy.empty = empty
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    with pytest.raises(DeviceError, match=r"a pair of 30x20 frames needs .* MiB of device memory") as caught:
        method(np.zeros((3, 20, 30), np.uint8))
    assert "\n" not in str(caught.value)


def test_a_capture_that_fails_is_ended(cupy):
    backend = CupyBackend(cupy, 0)
    calls = []

    def work():
        calls.append(cupy.captured is not None)
        if len(calls) == 2:
            raise OutOfMemoryError("while capturing")

    recorded = backend.recorded(work)
    recorded()
    with pytest.raises(OutOfMemoryError):
        recorded()
    assert cupy.captured is None
    recorded()  # captures anew
    assert calls == [False, True, True]
    assert cupy.graphs == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            CompileError("nvrtc: error: invalid value for --gpu-architecture (-arch)\nmore"),
            r"do not compile for this GPU .*; install a CuPy for a newer CUDA",
        ),
        (
            RuntimeError("Failed to find CUDA headers\nmore"),
            r"cannot be made \(Failed to find CUDA headers\); .* pip install 'cupy-cuda13x\[ctk\]'",
        ),
    ],
)
def test_kernels_that_cannot_be_made_are_one_clear_error(cupy, error, message):
    def get_function(name):
        raise error

    cupy.RawModule = lambda **_: SimpleNamespace(get_function=get_function)
    method = TVL1(TVL1Parameters.build("fast"), CupyBackend(cupy, 0))
    with pytest.raises(DeviceError, match=message) as caught:
        method(np.zeros((3, 20, 30), np.uint8))
    assert "\n" not in str(caught.value)
