"""The base of the estimators on CUDA: frames in and flow out, batches, memory, quantised flow."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods.cuda.engine import value_range
from flow_cache.methods.cuda.tvl1 import TVL1
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1.parameters import TVL1Parameters
from flow_cache.quantization import count_clipped, quantize

QUICK = TVL1Parameters.build("fast", warps=1, nscales=2, inner_iterations=5)


class OnDevice:
    """A caller's array that is on the emulated device."""

    def __init__(self, array):
        self.emulated = array


def on_device(device, array):
    """Return an array on the device, as a caller would have it."""
    if hasattr(device, "launches"):
        return OnDevice(array)
    import cupy

    return cupy.asarray(array)


@pytest.fixture
def method(device):
    return TVL1(QUICK, device)


@pytest.mark.parametrize("batch", [None, 1, 2, 3])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_stacks_are_their_pairs(method, stack, batch, step):
    frames = stack(7, 20, 24, 0.5, 0.25)
    expected = TVL1(QUICK, method.device).pairs(frames[:-step], frames[step:])
    method.batch = batch
    flow = method(frames, step)
    assert flow.shape == (7 - step, 2, 20, 24)
    assert flow.dtype == np.float32
    assert np.array_equal(flow, expected)


def test_each_frame_is_prepared_once(emulated, stack):
    device = emulated()
    method = TVL1(QUICK, device)
    method.batch = 3
    frames = stack(10, 20, 24, 0.5, 0.25)
    upload, seen = device.upload, []
    device.upload = lambda source, target: (
        seen.append(len(source)) if source.dtype == np.uint8 and source.ndim == 3 else None,
        upload(source, target),
    )
    method(frames, 2)
    assert sum(seen) == len(frames)


def test_floats_and_views_give_what_bytes_and_copies_give(method, stack):
    frames = stack(6, 24, 48, 0.5, 0.25)
    view = frames[::2, ::-1, ::2]
    expected = method(view.copy())
    assert np.array_equal(method(view), expected)
    assert np.array_equal(method(view.astype(np.float32)), expected)


def test_frames_on_the_device_give_flow_there(method, device, stack):
    frames = stack(4, 20, 24, 0.5, 0.25)
    for given in (frames, frames.astype(np.float32), np.asfortranarray(frames)[:, ::-1]):
        flow = method(on_device(device, given))
        assert np.array_equal(device.download(flow), method(given))
    pairs = method.pairs(on_device(device, frames[:-1]), on_device(device, frames[1:]))
    assert np.array_equal(device.download(pairs), method(frames))


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["dlpack", "interface"])
def test_torch_and_other_libraries_need_no_copy_through_the_host(gpu, stack, way):
    torch = pytest.importorskip("torch")
    frames = stack(4, 20, 24, 0.5, 0.25)
    method = TVL1(QUICK, gpu)
    given = torch.from_numpy(frames).cuda()
    if way == "interface":
        given = type(
            "Array", (), {"__cuda_array_interface__": given.__cuda_array_interface__, "owner": given}
        )()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        flow = torch.from_dlpack(method(given))
    assert flow.is_cuda
    assert np.array_equal(flow.cpu().numpy(), method(frames))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((20, 24), np.uint8), r"frames must be a stack \(T, H, W\)"),
        (
            np.zeros((3, 20, 24), np.int32),
            "frames must be uint8 or float32 grey levels 0 to 255, got dtype int32",
        ),
        (np.zeros((3, 7, 24), np.uint8), "at least 8x8 pixels, got 24x7"),
        (np.full((3, 20, 24), -1.0, np.float32), "float frames must be grey levels 0 to 255"),
        (np.full((3, 20, 24), np.nan, np.float32), "float frames must be grey levels 0 to 255"),
        (np.full((3, 20, 24), 0.5, np.float32), "none exceeds 1; multiply them by 255"),
        (np.zeros((1, 20, 24), np.uint8), "flow needs at least 2 frames, got 1"),
        (np.zeros((3, 20, 24), np.uint8), "step 3 needs at least 4 frames, got 3"),
    ],
)
def test_unusable_frames_are_named_wherever_they_are(method, device, frames, message):
    for given in (frames, on_device(device, frames)):
        with pytest.raises(ArgumentError, match=message):
            method(given, 3)


def test_pairs_that_differ_are_refused(method, device):
    frames = np.zeros((3, 16, 16), np.uint8)
    for other, message in [
        (frames[:2], "one shape"),
        (frames.astype(np.float32), "one dtype"),
        (on_device(device, frames), "in one place, got one stack on the device and one on the host"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            method.pairs(frames, other)
    assert method.pairs(frames[:0], frames[:0]).shape == (0, 2, 16, 16)


@pytest.mark.parametrize("values", [[3.5, -2.25, 0.0], [1e-30, -0.0, 3e38], [7.0]])
def test_range_of_floats(device, values):
    array = device.empty(len(values), np.float32)
    device.upload(np.array(values, np.float32), array)
    low, high = np.float32(min(values)), np.float32(max(values))
    assert value_range(device, array) == (low, high)


@pytest.mark.parametrize("bound", [0.3, 1.0, 20.0])
def test_bytes_are_those_of_the_host(method, device, stack, bound):
    frames = stack(5, 20, 24, 0.9, -0.4)
    flow = method(frames)
    method.batch = 3
    levels, clipped = method.quantized(frames, bound)
    assert levels.dtype == np.uint8
    assert np.array_equal(levels, quantize(flow, bound))
    assert clipped == count_clipped(flow, bound)
    there, also = method.quantized(on_device(device, frames), bound)
    assert np.array_equal(device.download(there), levels)
    assert also == clipped


@pytest.mark.parametrize(("batch", "step"), [(2, 1), (4, 2), (64, 1), (64, 3)])
def test_stacks_together_give_what_they_give_alone(method, stack, batch, step):
    stacks = [stack(frames, 20, 24, 0.9, -0.4, seed=frames) for frames in (4, 5, 4)]
    alone = [method.quantized(frames, 0.5, step) for frames in stacks]
    method.batch = batch
    together = method.quantized_stacks(stacks, 0.5, step)
    assert [len(levels) for levels, _ in together] == [4 - step, 5 - step, 4 - step]
    for (levels, clipped), (expected, count) in zip(together, alone, strict=True):
        assert np.array_equal(levels, expected)
        assert clipped == count > 0


def test_stacks_that_differ_are_refused(method, stack):
    with pytest.raises(ArgumentError, match="one frame size and dtype"):
        method.quantized_stacks([stack(3, 20, 24, 0.5, 0.5), stack(3, 20, 28, 0.5, 0.5)], 20.0)


def test_the_cpu_makes_bytes_too(stack):
    frames = stack(4, 20, 24, 0.9, -0.4)
    cpu = get_method("tvl1", preset="fast")
    levels, clipped = cpu.quantized(frames, 0.5, step=2)
    assert np.array_equal(levels, quantize(cpu(frames, 2), 0.5))
    assert clipped == count_clipped(cpu(frames, 2), 0.5) > 0


@pytest.mark.parametrize(
    "special", [0.0, -0.0, 0.5, 1.5, -0.5, 2.5, 127.0, 127.5, -128.5, 1e30, -1e30, 1e-40]
)
def test_rounding_of_bytes_is_that_of_the_host(device, special):
    """Halves go to the even level; a level is 1 px here."""
    from flow_cache.methods.cuda.engine import _Quantizer

    flow = (special + np.array([[0, 1e-6, -1e-6, 1e-3]], np.float32)).astype(np.float32)
    given = device.empty(flow.shape, np.float32)
    device.upload(flow, given)
    quantizer = _Quantizer(device, 127.5, 1)
    assert np.array_equal(device.download(quantizer(given, 0)), quantize(flow, 127.5))
    assert quantizer.clipped(0, 1) == count_clipped(flow, 127.5)


def test_nan_is_refused_as_on_the_host(device):
    from flow_cache.methods.cuda.engine import _Quantizer

    given = device.empty((3, 2), np.float32)
    device.upload(np.array([[0, 50], [np.nan, 1], [2, 3]], np.float32), given)
    quantizer = _Quantizer(device, 20.0, 4)
    quantizer(given, 1)
    assert quantizer.clipped(0, 2) == 1
    assert quantizer.clipped(3, 4) == 0
    with pytest.raises(ArgumentError, match="flow holds NaN"):
        quantizer.clipped(0, 4)


def test_the_memory_chooses_the_batch(emulated, stack):
    frames = stack(9, 64, 64, 0.5, 0.25)
    expected = TVL1(QUICK, emulated())(frames)
    for limit, most in [(1 << 40, 8), (4_000_000, 4), (1_500_000, 2)]:
        device = emulated(limit=limit)
        method = TVL1(QUICK, device)
        assert np.array_equal(method(frames), expected)
        (work,) = method._workspaces.values()
        assert 1 <= work.pairs <= most
    method = TVL1(QUICK, emulated(limit=4_000_000))
    method.memory_fraction = 0.1
    method(frames)
    assert next(iter(method._workspaces.values())).pairs == 1


def test_memory_that_runs_out_half_way_halves_the_batch(emulated, emulation, stack):
    """Other programs may take memory after the check, also during the work."""
    frames = stack(9, 32, 40, 0.5, 0.25)
    expected = TVL1(QUICK, emulated())(frames)
    for failing in (3, 12, 17, 20, 21, 25):

        class Failing(emulation.EmulatedBackend):
            calls = 0

            def empty(self, shape, dtype):
                self.calls += 1
                if self.calls == failing:  # noqa: B023
                    raise emulation.DeviceMemoryError("out of memory")
                return super().empty(shape, dtype)

        device = Failing()
        method = TVL1(QUICK, device)
        levels, clipped = method.quantized(frames, 0.2)
        assert np.array_equal(levels, quantize(expected, 0.2))
        assert clipped == count_clipped(expected, 0.2)
        if device.calls > failing:
            (work,) = method._workspaces.values()
            assert work.pairs == 4


def test_a_pair_too_large_for_the_device_is_one_clear_error(emulated):
    method = TVL1(QUICK, emulated(limit=200_000))
    with pytest.raises(DeviceError) as caught:
        method(np.zeros((3, 64, 64), np.uint8))
    message = str(caught.value)
    assert "a pair of 64x64 frames needs 0.5 MiB of device memory, 0.2 MiB are free" in message
    assert "device='cpu'" in message
    assert "\n" not in message


@pytest.mark.parametrize("way", ["stack", "pairs", "quantized"])
def test_arrays_of_the_device_are_held_until_the_work_on_them_is_done(emulated, stack, way):
    """Their owner may give their memory away as soon as the caller drops them."""

    class Queued(emulated):
        done = False

        def mark(self):
            return object()

        def reached(self, mark):
            return self.done

    device = Queued()
    method = TVL1(QUICK, device)
    frames = stack(3, 20, 24, 0.5, 0)
    given = OnDevice(frames)
    seen = weakref.ref(given)
    if way == "stack":
        method(given)
    elif way == "pairs":
        method.pairs(given, given)
    else:
        method.quantized(given, 1.0)
    del given
    for done in (False, True):
        device.done = done
        method(frames)
        gc.collect()
        assert (seen() is None) == done


def test_the_workspaces_used_last_are_kept(emulated, stack):
    method = TVL1(QUICK, emulated())
    for width in (20, 21, 22, 23, 20, 24):
        method(stack(2, 20, width, 0.5, 0))
    assert [size[1] for size in method._workspaces] == [22, 23, 20, 24]


def test_few_workspaces_are_kept(emulated, stack):
    device = emulated()
    method = TVL1(QUICK, device)
    for width in range(20, 32):
        method(stack(2, 20, width, 0.5, 0))
    kept = len(device.allocations())
    for width in range(20, 32):
        method(stack(2, 20, width, 0.5, 0))
    assert len(device.allocations()) == kept
    assert len(method._workspaces) <= 4
