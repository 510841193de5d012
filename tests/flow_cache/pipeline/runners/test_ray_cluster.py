"""Precompute on a real Ray cluster of several nodes on this machine, and what becomes of it when parts of it die."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flow_cache.cache.meta import CacheMeta, Source, current_versions
from flow_cache.cli.main import main
from flow_cache.errors import ArgumentError, CacheWriteError, DeviceError, FlowCacheError, LostDeviceError
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.outcome import Failure, PrecomputeInterrupted
from flow_cache.pipeline.run import precompute, start_runner
from flow_cache.pipeline.runners.base import Died, Finished
from flow_cache.pipeline.runners.gpu_service import EstimationProcess
from flow_cache.pipeline.runners.ray_cluster import RayCluster
from flow_cache.pipeline.runners.ray_host import Host
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone
from flow_cache.runtime import interruptible
from flow_cache.storage.atomic import temporary_files

ray = pytest.importorskip("ray", reason="Ray is not installed: it comes with the test extra")
if sys.platform != "linux":
    pytest.skip("Ray's clusters of several nodes on one machine are for Linux", allow_module_level=True)

_NODE: dict[str, Any] = {
    "num_cpus": 1,
    "num_gpus": 1,
    "object_store_memory": 80 << 20,
}  # GPUs that are not there


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each, and a head without any, all started in a folder of their own."""
    from ray.cluster_utils import Cluster

    with contextlib.chdir(tmp_path_factory.mktemp("nodes")):
        cluster = Cluster()
        cluster.add_node(num_cpus=0, object_store_memory=80 << 20, include_dashboard=False)
        for _ in range(2):
            cluster.add_node(**_NODE)
        cluster.home = Path.cwd()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def videos(tmp_path: Path, make_video) -> Path:
    root = tmp_path / "videos"
    for number in range(5):
        make_video(root / "walk" / f"{number}.avi", frames=3 + number, seed=number)
    return root


@pytest.fixture
def config(nodes: Any, videos: Path, tmp_path: Path) -> PrecomputeConfig:
    return PrecomputeConfig(
        videos, tmp_path / "cache", flow=FlowSettings(method="farneback"), ray=nodes.address
    )


@pytest.fixture
def expected(config: PrecomputeConfig, tmp_path: Path) -> dict[str, bytes]:
    """The files that a run of this machine's own makes."""
    precompute(replace(config, ray=None, output=tmp_path / "local", workers=1), progress=False)
    return files(tmp_path / "local")


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.flow.zip")}


def processes() -> dict[int, tuple[int, str]]:
    """All processes: the parent and the command of each."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()
                if parent[0] != "Z":
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(folder.name)] = int(parent[1]), command
    return found


def below(ancestors: set[int]) -> set[int]:
    """Processes, and all that were started by them."""
    found, everything = set(ancestors), processes()
    while more := {pid for pid, (parent, _) in everything.items() if parent in found} - found:
        found |= more
    return found


def actors() -> set[int]:
    return {pid for pid, (_, command) in processes().items() if command.startswith("ray::Host")}


def actor_that_writes_in(folder: Path) -> int:
    """The actor one of whose workers has a file open there."""

    def opened(pid: int) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    yield link.readlink()

    (found,) = [
        actor
        for actor in actors()
        if any(path.parent == folder for pid in below({actor}) for path in opened(pid))
    ]
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Many seconds of work."""
    path = tmp_path_factory.mktemp("long") / "long.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (320, 240))
    for number in range(1500):
        writer.write(np.full((240, 320, 3), 90 + 8 * (number % 2), np.uint8))
    writer.release()
    return path.read_bytes()


class Trap:
    """A video that keeps a worker busy until it is short, of as many bytes."""

    def __init__(self, video: Path, cache: Path, long: bytes) -> None:
        self.video = video
        self.folder = cache / video.parent.name
        self._short = video.read_bytes() + bytes(len(long) - video.stat().st_size)
        self._long = long
        self._seen: set[Path] = set()
        self.open()

    def set(self) -> None:
        self._replace(self._long)

    def open(self) -> None:
        self._replace(self._short)

    @property
    def caught(self) -> bool:
        """Whether a worker is in it that was not when this was last asked."""
        found = set(temporary_files(self.folder)) - self._seen
        self._seen |= found
        return bool(found)

    def _replace(self, content: bytes) -> None:
        other = self.video.with_suffix(".new")
        other.write_bytes(content)
        other.replace(self.video)


@pytest.fixture
def trap(videos: Path, config: PrecomputeConfig, long_video: bytes, make_video) -> Trap:
    """The video `trap/trap.avi`, which is the largest and therefore begun with."""
    return Trap(make_video(videos / "trap" / "trap.avi"), Path(config.output), long_video)


def on(cluster: type[RayCluster]) -> dict[str, Any]:
    """Return the argument with which `precompute` works on another kind of cluster."""
    return {"start_runner": partial(start_runner, cluster=cluster)}


def killing_when_caught(
    trap: Trap, kill: Callable[[], None], times: int
) -> tuple[type[RayCluster], list[Died]]:
    """Make a cluster on which `kill` is called as soon as a worker is in a video, so many times.

    Returns it, and a list that the videos join whose workers have died.
    """
    died: list[Died] = []

    class Deadly(RayCluster):
        left = times

        def __enter__(self):
            trap.set()
            return super().__enter__()

        def poll(self, timeout=None):
            if self.left and trap.caught:
                self.left -= 1
                if not self.left:
                    trap.open()
                kill()
            events = super().poll(0.1 if self.left else timeout)
            died.extend(event for event in events if isinstance(event, Died))
            return events

    return Deadly, died


def kill_workers() -> None:
    for pid in below(actors()):
        if "spawn_main" in processes().get(pid, (0, ""))[1]:
            os.kill(pid, signal.SIGKILL)


def test_same_files_as_a_local_run_which_a_second_run_keeps(
    config: PrecomputeConfig, expected: dict[str, bytes], videos: Path, tmp_path: Path, capfd
) -> None:
    (videos / "text.avi").write_text("no video")
    arguments = ["precompute", str(videos), "--out", str(config.output), "--method", "farneback"]
    assert main([*arguments, "--ray", config.ray]) == 1
    said = capfd.readouterr()
    assert "videos done       5" in said.out
    assert said.err == ""  # nothing of Ray's own
    assert files(tmp_path / "cache") == expected
    assert (tmp_path / "cache" / "failures.csv").read_text().splitlines()[1].startswith('text.avi,"cannot be')
    assert not actors()
    assert not ray.is_initialized()

    (videos / "text.avi").unlink()
    again = precompute(replace(config, ray="nobody.invalid:1"), progress=False)  # nobody is asked for nothing
    assert (again.done, again.skipped, again.failures) == (0, 5, [])


def test_nodes_that_die_cost_nothing_and_one_that_joins_is_used(
    config: PrecomputeConfig,
    nodes: Any,
    trap: Trap,
    expected: dict[str, bytes],
    tmp_path: Path,
) -> None:
    dead = []

    def pull_the_plug() -> None:
        if dead:  # the other node has begun the video again: now it dies too, and a new one is there
            with contextlib.chdir(nodes.home):
                nodes.add_node(**_NODE)
        actor = actor_that_writes_in(trap.folder)
        ((node, pids),) = [
            (node, pids) for node in nodes.worker_nodes if actor in (pids := processes_of(node))
        ]
        dead.append(node.node_id)
        nodes.worker_nodes.discard(node)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes_of(node: Any) -> set[int]:
        return below({kept.process.pid for kind in node.all_processes.values() for kept in kind})

    deadly, died = killing_when_caught(trap, pull_the_plug, times=2)
    summary = precompute(config, progress=False, **on(deadly))
    assert (summary.done, summary.failures) == (6, [])
    assert len(set(dead)) == 2
    assert [event.job.video for event in died] == ["trap/trap.avi"]  # the first loss was without blame
    assert files(tmp_path / "cache") == expected
    assert not list(temporary_files(tmp_path / "cache"))


@pytest.mark.parametrize("times", [1, 2])
def test_a_video_whose_worker_dies_is_tried_once_more(
    config: PrecomputeConfig, trap: Trap, times: int
) -> None:
    deadly, _ = killing_when_caught(trap, kill_workers, times)
    summary = precompute(replace(config, workers=1), progress=False, **on(deadly))
    reason = "its worker process died twice (killed by SIGKILL)"
    assert summary.failures == [Failure("trap/trap.avi", reason)][: times - 1]
    assert summary.done == 7 - times


def test_a_video_that_loses_its_actor_three_times_has_failed(config: PrecomputeConfig, trap: Trap) -> None:
    def kill_actor() -> None:
        os.kill(actor_that_writes_in(trap.folder), signal.SIGKILL)

    deadly, _ = killing_when_caught(trap, kill_actor, times=3)
    summary = precompute(config, progress=False, **on(deadly))
    assert summary.done == 5
    (failure,) = summary.failures
    assert failure.video == "trap/trap.avi"
    assert failure.reason.startswith("its worker was lost 3 times (with its Ray actor on node ")


def test_interruption_keeps_what_is_done_and_leaves_nobody_behind(config: PrecomputeConfig) -> None:
    config = replace(config, workers=1)

    class Interrupted(RayCluster):
        def run(self, jobs):
            for event in super().run(jobs):
                yield event
                if isinstance(event, Finished):
                    raise KeyboardInterrupt

    with pytest.raises(PrecomputeInterrupted) as caught:
        precompute(config, progress=False, **on(Interrupted))
    assert (caught.value.summary.done, caught.value.summary.remaining) == (1, 4)
    wait_for(lambda: not actors())
    assert not list(temporary_files(Path(config.output)))
    again = precompute(config, progress=False)
    assert again.done + again.skipped == 5


def test_sigterm_interrupts_the_driver_as_ctrl_c_does(config: PrecomputeConfig) -> None:
    """Ray has a handler of its own, which ends the driver at once with status 1."""

    class Terminated(RayCluster):
        def run(self, jobs):
            for event in super().run(jobs):
                yield event
                if isinstance(event, Finished):
                    signal.raise_signal(signal.SIGTERM)

    with interruptible() as interruption, pytest.raises(PrecomputeInterrupted):
        precompute(config, progress=False, **on(Terminated))
    assert interruption.exit_status == 143
    wait_for(lambda: not actors())
    assert (Path(config.output) / "index.csv").exists()


def test_a_killed_driver_leaves_nobody_behind_and_the_next_run_completes(
    config: PrecomputeConfig, trap: Trap, expected: dict[str, bytes], repository: Path, tmp_path: Path
) -> None:
    tool = [sys.executable, str(repository / "tools" / "precompute_flow.py"), str(config.input)]
    options = ["--out", str(config.output), "--method", "farneback", "--ray", config.ray]
    precompute(replace(config, ray=None), ["walk/1.avi", "walk/3.avi"], progress=False)
    trap.set()
    driver = subprocess.Popen([*tool, *options], stdout=subprocess.DEVNULL)
    wait_for(lambda: trap.caught or driver.poll() is not None, 60)
    crew = below(actors())
    assert len(crew) >= 2
    driver.kill()
    driver.wait()
    wait_for(lambda: not crew & processes().keys())
    assert len(files(tmp_path / "cache")) in range(2, 6)
    trap.open()
    summary = precompute(config, progress=False)
    assert (summary.done + summary.skipped, summary.failures) == (6, [])
    assert files(tmp_path / "cache") == expected
    assert not list(temporary_files(tmp_path / "cache"))


def test_a_cluster_that_goes_is_one_error(tmp_path: Path, make_video) -> None:
    """In a process of its own, since Ray ends its process some time after the cluster."""
    make_video(tmp_path / "videos" / "a.avi")
    code = f"""
import os, signal, subprocess
from functools import partial
from flow_cache import precompute
from flow_cache.cli.main import main
from flow_cache.pipeline.run import start_runner
from flow_cache.pipeline.runners.ray_cluster import RayCluster
class Doomed(RayCluster):
    give_up_after = 1
    def submit(self, job):
        super().submit(job)
        for name in ("gcs_server", "raylet"):
            for pid in subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", name], text=True).split():
                os.kill(int(pid), signal.SIGKILL)
arguments = ["precompute", {str(tmp_path / "videos")!r}, "--out", {str(tmp_path / "cache")!r},
    "--method", "farneback", "--ray", "local", "--workers", "1"]
os._exit(main(arguments, run=partial(precompute, start_runner=partial(start_runner, cluster=Doomed))))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert run.returncode == 1, run.stderr
    assert "flow-cache: error: the Ray cluster at local has gone; what is done is kept" in run.stderr


def test_a_node_that_cannot_write_ends_the_run(config: PrecomputeConfig) -> None:
    config = replace(config, workers=1)
    Path(config.output).mkdir()
    (Path(config.output) / "walk").touch()  # the folder cannot be made
    with pytest.raises(CacheWriteError, match=r"cannot write .*walk: .* \(on node \d+\.\d+\.\d+\.\d+ \("):
        precompute(config, progress=False)


def test_what_a_node_does_not_see_is_told(
    config: PrecomputeConfig, nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, workers=1)
    here = Path("/proc/self/cwd")  # another folder for each process
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArgumentError, match=r"^node .* does not see the video .*; the input must be on storage"
    ):
        precompute(replace(config, input=here / "videos"), progress=False)
    away = replace(config, output=here / "cache")
    with pytest.raises(ArgumentError, match=r"^node .* does not see .*; the cache folder must be on storage"):
        precompute(away, progress=False)
    (nodes.home / "cache").mkdir()
    with pytest.raises(ArgumentError, match=r"^what node .* writes to .* is not there .*must be on storage"):
        precompute(away, progress=False)
    assert not files(nodes.home)


def on_device(config: PrecomputeConfig, device: str) -> PrecomputeConfig:
    return replace(config, flow=replace(config.flow, device=device))


def run_on(cluster: RayCluster, config: PrecomputeConfig) -> list[FieldsDone | Finished]:
    """Give a cluster all videos."""
    template, root, output = config.flow.template(config.storage), Path(config.input), Path(config.output)
    output.mkdir()
    jobs = []
    for video in sorted(root.rglob("*.avi")):
        name = video.relative_to(root)
        source = Source(name.as_posix(), video.stat().st_size)
        jobs.append(Job(video, output / name.with_suffix(".flow.zip"), replace(template, source=source)))
    with cluster:
        return list(cluster.run(jobs))


def test_a_file_that_vanishes_is_told(config: PrecomputeConfig) -> None:
    class Forgetful(Host):
        def exchange(self, jobs):
            events = super().exchange(jobs)
            for event in events:
                if isinstance(event, Finished):
                    event.job.target.unlink()
            return events

    output = Path(config.output)
    cluster = RayCluster(config.ray, config.flow.template(config.storage), output, workers=1, host=Forgetful)
    with pytest.raises(FlowCacheError, match=r"zip was written on node .* and is not there for this machine"):
        run_on(cluster, config)


def test_other_versions_on_a_node_are_refused(config: PrecomputeConfig) -> None:
    meta = replace(config.flow.template(config.storage), versions={"twostream": "0.0.7", "numpy": "1.0"})
    cluster = RayCluster(config.ray, meta, Path(config.output), workers=1)
    with pytest.raises(
        ArgumentError, match=r"^node .* has twostream .*, the driver 0\.0\.7; install the same"
    ):
        run_on(cluster, config)


def test_a_node_without_flow_cache_is_told(config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module: Any = types.ModuleType("only_here")
    exec("class Host:\n    def open(self, versions, task): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    cluster = RayCluster(
        config.ray, config.flow.template(config.storage), Path(config.output), workers=1, host=module.Host
    )
    with pytest.raises(
        ArgumentError, match=r"cannot load flow_cache \(.*only_here.*\); install the same version"
    ):
        run_on(cluster, config)


def test_a_dry_run_counts_the_workers_of_the_cluster(config: PrecomputeConfig) -> None:
    class Roomy(RayCluster):
        def __enter__(self):
            return self  # without the GPU that this machine need not have

        def __exit__(self, *exception):
            pass

        def capacity(self):
            return 2, 2

    found = estimate(on_device(config, "cuda"), cluster=Roomy)
    assert (found.workers, found.fields) == (4, 20)
    assert not Path(config.output).exists()


def test_waiting_for_resources_is_told(config: PrecomputeConfig, caplog: pytest.LogCaptureFixture) -> None:
    class Impatient(RayCluster):
        warn_after = 0.0
        check_interval = 0.2

        def capacity(self):
            return 1, 999

        def poll(self, timeout=None):
            assert super().poll(1.0) == []
            raise KeyboardInterrupt

    with pytest.raises(PrecomputeInterrupted):
        precompute(config, progress=False, **on(Impatient))
    assert caplog.messages == ["waiting for Ray: no node has 999 cores free yet"]


def test_a_cluster_without_a_gpu_is_told(config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(DeviceError, match=r"has no GPU; use --device cpu"):
        precompute(on_device(config, "cuda"), progress=False)
    assert not ray.is_initialized()
    with RayCluster(
        config.ray, config.flow.template(config.storage), Path(config.output), device="auto"
    ) as cluster:
        assert cluster.capacity() == (4, 1)


def test_gpus_get_their_share_of_the_cores(config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    template = config.flow.template(config.storage)
    many = [
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
    ]
    for workers, capacity in ((0, (4, 8)), (12, (4, 3)), (3, (3, 1))):
        cluster = RayCluster(config.ray, template, Path(config.output), device="cuda", workers=workers)
        with cluster, monkeypatch.context() as patch:
            patch.setattr(ray, "nodes", lambda: many)
            assert cluster.capacity() == capacity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ray": "127.0.0.1:1"}, r"no Ray cluster at 127\.0\.0\.1:1: nothing answers there"),
        ({"ray": "ray://127.0.0.1:1"}, "run the same command on a node of the cluster"),
        ({"ray": "nonsense"}, r"cannot use a Ray cluster at 'nonsense'.*must be auto, local or HOST:PORT"),
        ({"device": "cuda:1"}, r"device must be cpu, cuda or auto with --ray.*got 'cuda:1'"),
    ],
)
def test_unusable_arguments_are_told(config: PrecomputeConfig, change: dict[str, str], message: str) -> None:
    other = on_device(config, change["device"]) if "device" in change else replace(config, **change)
    with pytest.raises(ArgumentError, match=message):
        precompute(other, progress=False)


def test_ray_that_is_not_installed_is_told(config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match="not installed: python3 -m pip install ray"):
        precompute(config, progress=False)


def test_a_program_stays_connected(
    config: PrecomputeConfig, expected: dict[str, bytes], tmp_path: Path
) -> None:
    config = replace(config, workers=1)
    ray.init(address=config.ray, log_to_driver=False, logging_level="error")
    try:
        precompute(config, progress=False)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert files(tmp_path / "cache") == expected


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    """What an actor is, in this process."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "", raising=False)  # which it drops
    with contextlib.ExitStack() as stack:
        yield lambda *services: stack.enter_context(contextlib.closing(Host("here", *services)))


@pytest.fixture
def job(videos: Path, tmp_path: Path) -> Job:
    parameters = get_method("farneback").parameters.as_dict()
    meta = CacheMeta(Source("walk/4.avi", 1), "farneback", parameters)
    return Job(videos / "walk" / "4.avi", tmp_path / "cache" / "walk" / "4.flow.zip", meta)


def open_host(host: Host, job: Job, device: str = "cpu") -> Any:
    cache = job.target.parents[1]
    cache.mkdir(exist_ok=True)
    return host.open(
        {"twostream": current_versions()["twostream"]}, pickle.dumps((job.meta, device, 2, cache, job.source))
    )


def finish(host: Host, job: Job) -> Any:
    events: Any = host.exchange([job])
    while isinstance(events, list) and not any(isinstance(event, Finished) for event in events):
        events = host.exchange([])
    return events


def test_on_a_gpu_one_process_estimates_for_all_workers(make_host: Callable[..., Host], job: Job) -> None:
    with EstimationProcess("farneback", "cpu", dict(job.meta.parameters)) as process:  # in place of a GPU

        @contextlib.contextmanager
        def services(meta: CacheMeta, device: str) -> Iterator[list[Any]]:
            assert (meta, device) == (job.meta, "cuda")
            try:
                yield [process.service]
            except LostDeviceError as error:
                raise LostDeviceError("why it is lost") from error

        host = make_host(services)
        node, probe = open_host(host, job, "cuda")
        assert (node, probe.parent, probe.read_bytes()) == ("here", job.target.parents[1], b"")
        assert finish(host, job)[-1] == Finished(job, fields=6)
    lost = finish(host, job)
    assert isinstance(lost, LostDeviceError)
    assert str(lost) == "node here: why it is lost"


def test_a_device_that_a_node_has_not_is_told(make_host: Callable[..., Host], job: Job) -> None:
    @contextlib.contextmanager
    def services(meta: CacheMeta, device: str) -> Iterator[list[Any]]:
        raise DeviceError("it is broken")
        yield []

    error = open_host(make_host(services), job, "cuda")
    assert isinstance(error, DeviceError)
    assert str(error) == "node here: it is broken"


def test_a_folder_that_cannot_be_written_is_told(make_host: Callable[..., Host], job: Job) -> None:
    job.target.parents[1].mkdir()
    broken = replace(job, target=job.target.parents[1] / "file" / "walk" / "4.flow.zip")
    broken.target.parents[1].touch()
    task = pickle.dumps((job.meta, "cpu", 1, broken.target.parents[1], job.source))
    error = make_host().open({}, task)
    assert isinstance(error, CacheWriteError)
    assert str(error) == f"cannot write {broken.target.parents[1]}: Not a directory (on node here)"
