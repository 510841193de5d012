"""The process that estimates for all workers, on the CPU in place of a GPU: nothing in it knows the difference."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import queue
import signal
import threading

import numpy as np
import pytest

from flow_cache.errors import ArgumentError, DeviceError, LostDeviceError
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.run import precompute, start_runner
from flow_cache.pipeline.runners import gpu_service as estimation
from flow_cache.pipeline.runners.gpu_service import EstimationProcess, RemoteEstimator
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig


@pytest.fixture(scope="module")
def process():
    with EstimationProcess("farneback", "cpu", {"preset": "opencv"}) as process:
        yield process


def test_says_what_estimates(process):
    assert process.service.backend == "opencv-cpu"
    assert not process.service.on_gpu
    assert process.failure is None


@pytest.mark.parametrize("step", [1, 2])
def test_gives_what_the_estimator_gives(process, stack, step):
    frames = stack(5, 40, 48, 2.0, 1.0)[:, :, ::-1]
    levels, clipped = RemoteEstimator(process.service).quantized(frames, 1.0, step)
    expected, count = get_method("farneback", preset="opencv").quantized(frames, 1.0, step)
    assert np.array_equal(levels, expected)
    assert clipped == count > 0


def test_many_workers_get_their_own_answers(process, stack):
    stacks = [stack(3 + n % 3, 32, 40 + 8 * (n % 2), 0.25 * n, 0.0, seed=n) for n in range(8)]
    made = [None] * len(stacks)

    def work(n):
        estimator = RemoteEstimator(process.service)
        made[n] = [estimator.quantized(stacks[n], 20.0)[0] for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(stacks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    method = get_method("farneback", preset="opencv")
    for frames, results in zip(stacks, made, strict=True):
        expected, _ = method.quantized(frames, 20.0)
        assert all(np.array_equal(result, expected) for result in results)


def test_an_error_is_the_askers_alone(process, stack):
    estimator = RemoteEstimator(process.service)
    with pytest.raises(ArgumentError, match="at least 8x8 pixels, got 4x4"):
        estimator.quantized(np.zeros((2, 4, 4), np.uint8), 20.0)
    assert estimator.quantized(stack(2, 32, 32, 0.5, 0.0), 20.0)[0].shape == (1, 2, 32, 32)


def test_a_worker_that_goes_takes_nothing_with_it(process, stack):
    leaving = RemoteEstimator(process.service)
    leaving._connection.send(((2, 64, 64), 20.0, 1))
    leaving._connection.close()  # before its frames
    asking = RemoteEstimator(process.service)
    asking._connection.send(((2, 64, 64), 20.0, 1))
    asking._connection.send_bytes(bytes(2 * 64 * 64))
    asking._connection.close()  # before its answer
    assert RemoteEstimator(process.service).quantized(stack(2, 32, 32, 0.5, 0.0), 20.0)[0].any()


def test_waiting_requests_of_one_kind_are_taken_together():
    def request(frames, width=8, bound=20.0):
        return estimation._Request(None, np.zeros((frames, 8, width), np.uint8), bound, 1)

    waiting = [request(5), request(3, width=16), request(4), request(9), request(2, bound=5.0), request(1)]
    together, others = estimation._gather(waiting, 10)
    assert together == [waiting[0], waiting[2], waiting[5]]
    assert others == [waiting[1], waiting[3], waiting[4]]
    assert estimation._gather([request(50)], 10)[1] == []


def test_stacks_that_wait_are_given_to_the_estimator_at_once():
    class Recorder:
        chunk = 4

        def __init__(self):
            self.calls = []

        def quantized_stacks(self, stacks, bound, step):
            self.calls.append([len(frames) for frames in stacks])
            if len(self.calls) == 2:
                raise KeyboardInterrupt  # ends the loop
            return [(np.zeros((len(frames) - step, 2, 8, 8), np.uint8), 0) for frames in stacks]

    requests = queue.SimpleQueue()
    ends = []
    for frames in (5, 6, 4, 3):
        ours, theirs = multiprocessing.Pipe()
        ends.append((ours, theirs))
        requests.put(estimation._Request(theirs, np.zeros((frames, 8, 8), np.uint8), 20.0, 1))
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        estimation._estimate_all(recorder, requests)
    assert recorder.calls == [[5, 6, 4], [3]]  # 16 frames at most
    assert [ours.recv() for ours, _ in ends[:3]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("tvl1", "cuda:7", {}), DeviceError, "cuda:7"),
        (("tvl1", "cpu", {"warps": 0}), ArgumentError, "warps must be at least 1"),
    ],
)
def test_what_cannot_start_says_why(arguments, error, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(error, match=message):
        EstimationProcess(*arguments)


class ProcessOnCpu(EstimationProcess):
    """A process on the CPU that stands for one on a GPU."""

    def __init__(self, method, device, parameters):
        super().__init__(method, "cpu", parameters)
        self.service = dataclasses.replace(self.service, on_gpu=True)
        self.device = device


def precompute_with(start_process, config):
    """Run with other processes in place of those of GPUs."""
    runner = functools.partial(start_runner, start_process=start_process)
    return precompute(config, progress=False, start_runner=runner)


def flow_of(cache, name):
    from flow_cache.cache.reader import CacheReader

    with CacheReader(cache / f"{name}.flow.zip") as reader:
        return reader.flow(range(reader.num_fields))


def test_precompute_through_processes_gives_what_it_gives_without(make_video, tmp_path):
    started = []
    for n in range(4):
        make_video(tmp_path / "videos" / f"{n}.avi", frames=4 + n, seed=n)

    def start(*arguments):
        started.append(ProcessOnCpu(*arguments))
        return started[-1]

    def run(output, device):
        flow = FlowSettings("farneback", device=device)
        config = PrecomputeConfig(tmp_path / "videos", tmp_path / output, flow, workers=3)
        return precompute_with(start, config)

    plain = run("a", "cpu")
    shared = run("b", "cuda:0,cuda:1")
    assert [process.device for process in started] == ["cuda:0", "cuda:1"]
    assert shared.done == plain.done == 4
    for n in range(4):
        assert np.array_equal(flow_of(tmp_path / "a", n), flow_of(tmp_path / "b", n))
    again = run("b", "cuda:0")
    assert again.skipped == 4
    assert len(started) == 2  # none is started where there is nothing to do


def test_a_process_that_dies_ends_the_run_and_blames_no_video(make_video, tmp_path):
    for n in range(6):
        make_video(tmp_path / "videos" / f"{n}.avi", frames=30, width=320, height=240, seed=n)

    class Dying(ProcessOnCpu):
        def __enter__(self):
            threading.Timer(1.5, os.kill, (self._process.pid, signal.SIGKILL)).start()
            return super().__enter__()

    config = PrecomputeConfig(
        tmp_path / "videos", tmp_path / "cache", flow=FlowSettings(device="cuda"), workers=2
    )
    with pytest.raises(LostDeviceError, match=r"cuda \(exit status -9\); what is done is kept"):
        precompute_with(Dying, config)
    assert not (tmp_path / "cache" / "failures.csv").exists()
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("device", ["cpu,cuda", "cuda,cuda:0", "auto,cuda:1", "cuda:0,gpu", ""])
def test_unusable_devices_are_named(tmp_path, make_video, device):
    video = make_video(tmp_path / "a.avi")
    with pytest.raises(ArgumentError, match="device"):
        precompute(
            PrecomputeConfig(video, tmp_path / "cache", flow=FlowSettings(device=device)), progress=False
        )
