"""Caches and videos at URLs: in memory, and on real servers that speak S3 and FTP."""

import csv
import io
import multiprocessing
import pickle
import socket
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from upath import UPath

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.cli.main import main
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.commands.import_folders import ImportConfig, import_folders
from flow_cache.commands.verify import Videos, repair_cache, verify_cache
from flow_cache.commands.view import view
from flow_cache.errors import CacheFileError, CacheMismatchError, CacheWriteError, StorageError, VideoError
from flow_cache.pipeline.inputs import choose_videos
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.storage.atomic import temporary_files, write_atomically
from flow_cache.storage.paths import as_path, is_local, list_files, staging_folder, status_of
from flow_cache.storage.remote import RemotePath
from flow_cache.video.find import find_videos
from flow_cache.video.source import local_copy


@pytest.fixture(autouse=True)
def own_staging_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way lies where no other program of this user puts anything."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("t")))
    monkeypatch.setattr(tempfile, "tempdir", None)  # so that TMPDIR is read anew


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on an S3 server of our own."""
    server_module = pytest.importorskip("moto.server", reason="moto and s3fs come with the test extra")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder on an FTP server of our own, where a file shows under its name while it is still being written."""
    reason = "pyftpdlib comes with the test extra"
    authorizers = pytest.importorskip("pyftpdlib.authorizers", reason=reason)
    handlers = pytest.importorskip("pyftpdlib.handlers", reason=reason)
    servers = pytest.importorskip("pyftpdlib.servers", reason=reason)

    class Handler(handlers.FTPHandler):  # type: ignore[misc, name-defined]
        authorizer = authorizers.DummyAuthorizer()

    with warnings.catch_warnings(action="ignore"):  # of strangers who may write
        Handler.authorizer.add_anonymous(str(tmp_path_factory.mktemp("ftp")), perm="elradfmwMT")
    server = servers.FTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.1}, daemon=True)
    thread.start()
    host, port = server.address
    yield f"ftp://{host}:{port}"
    server.close_all()
    thread.join(10)


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> str:
    """An empty remote folder, for what happens in this process."""
    root = "memory:/" if request.param == "memory" else request.getfixturevalue(request.param)
    return f"{root}/{uuid.uuid4().hex}"


@pytest.fixture(params=["s3", "ftp"])
def shared(request: pytest.FixtureRequest) -> str:
    """An empty remote folder that other processes see."""
    return f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video, stack) -> Path:
    root = tmp_path_factory.mktemp("videos")
    make_video(root / "walk" / "a b.avi", frames=5, seed=1)
    make_video(root / "c.mp4", frames=4, seed=2)
    for number, image in enumerate(stack(4, 48, 64, 1.0, 0.5), 9):
        (root / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "images" / f"img_{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def local(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the videos, on disk."""
    cache = tmp_path_factory.mktemp("cache")
    precompute(config_for(videos, cache), progress=False)
    return cache


def config_for(source: object, output: object) -> PrecomputeConfig:
    return PrecomputeConfig(
        str(source),
        str(output),
        flow=FlowSettings(method="farneback"),
        storage=StorageSettings(rgb=True),
        workers=2,
    )


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            target = UPath(url) / path.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def contents(root: Path | str) -> dict[str, bytes]:
    folder = as_path(root)
    return {name: (folder / name).read_bytes() for name in list_files(folder) if name.endswith(".flow.zip")}


def test_a_remote_cache_holds_the_bytes_of_a_local_one(shared: str, videos: Path, local: Path) -> None:
    summary = precompute(config_for(videos, shared), progress=False)
    assert (summary.done, summary.skipped, summary.failures) == (3, 0, [])
    assert contents(shared) == contents(local)
    assert sorted(list_files(as_path(shared))) == sorted(list_files(local)), "nothing else is left there"
    assert read_index(shared) == read_index(local)
    assert not list(temporary_files(as_path(shared)))
    assert not list(staging_folder().iterdir())
    again = precompute(config_for(videos, shared), progress=False)
    assert (again.done, again.skipped) == (0, 3)


def test_remote_videos_give_the_bytes_of_local_ones(
    shared: str, videos: Path, local: Path, tmp_path: Path
) -> None:
    upload(videos, shared + "/in")
    summary = precompute(config_for(shared + "/in/", tmp_path / "cache"), progress=False)
    assert (summary.done, summary.failures) == (3, [])
    assert contents(tmp_path / "cache") == contents(local)
    both = precompute(config_for(shared + "/in", shared + "/out"), progress=False)
    assert both.done == 3
    assert contents(shared + "/out") == contents(local)
    assert not list(staging_folder().iterdir())


def test_videos_are_found_as_in_local_folders(remote: str, videos: Path) -> None:
    upload(videos, remote)
    (UPath(remote) / ".hidden" / "d.avi").write_bytes(b"x") if "s3" in remote else None
    for part in ("", "/walk", "/images", "/c.mp4"):
        there, here = choose_videos(remote + part), choose_videos(str(videos) + part)
        assert there.names == here.names
        assert str(there.root).rstrip("/").removeprefix(remote) == str(here.root).removeprefix(str(videos))
    assert find_videos(as_path(remote + "/images")) == [as_path(remote + "/images")]
    write_atomically(as_path(remote + "/list.txt"), b"c.mp4\nwalk/a b.avi\n")
    assert choose_videos(remote + "/list.txt").names == ["c.mp4", "walk/a b.avi"]
    assert choose_videos(remote + "/list.txt", root=str(videos)).root == videos


def test_resume_redoes_what_is_damaged_changed_or_asked_for(shared: str, videos: Path, local: Path) -> None:
    config = config_for(videos, shared)
    precompute(config, progress=False)
    damaged = cache_path(shared, "c.mp4")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(CacheFileError, match=r"c\.flow\.zip"):
        read_index(shared)
    again = precompute(config, progress=False)
    assert (again.done, again.skipped) == (1, 2)
    assert contents(shared) == contents(local)
    with pytest.raises(CacheMismatchError, match=r"bound 20\.0 \(asked for: 10\.0\)"):
        precompute(replace(config, flow=replace(config.flow, bound=10.0)), progress=False)
    assert (
        precompute(
            replace(config, flow=replace(config.flow, bound=10.0), overwrite=True), progress=False
        ).done
        == 3
    )
    assert {entry.bound for entry in read_index(shared)} == {10.0}


def test_a_replaced_remote_video_is_redone_and_one_uploaded_again_is_not(
    s3: str, videos: Path, tmp_path: Path
) -> None:
    source = f"{s3}/{uuid.uuid4().hex}"
    upload(videos, source)
    config = config_for(source, tmp_path / "cache")
    precompute(config, progress=False)
    before = contents(tmp_path / "cache")
    upload(videos, source)
    assert precompute(config, progress=False).skipped == 3
    for name in ("c.mp4", "images/img_10.png"):
        path = as_path(source) / name
        data = bytearray(path.read_bytes())
        data[-3] ^= 1  # near the end: what is decoded may be the same
        path.write_bytes(bytes(data))
    summary = precompute(config, progress=False)
    assert summary.skipped == 1
    after = contents(tmp_path / "cache")
    assert after["c.flow.zip"] != before["c.flow.zip"]
    assert after["walk/a b.flow.zip"] == before["walk/a b.flow.zip"]


def test_failures_are_listed_beside_the_cache(shared: str, tmp_path: Path, make_video) -> None:
    (tmp_path / "broken.avi").write_bytes(b"no video")
    make_video(tmp_path / "good.avi")
    summary = precompute(config_for(tmp_path, shared), progress=False)
    assert [failure.video for failure in summary.failures] == ["broken.avi"]
    text = (as_path(shared) / "failures.csv").read_bytes().decode()
    assert [row["video"] for row in csv.DictReader(io.StringIO(text))] == ["broken.avi"]
    (tmp_path / "broken.avi").unlink()
    assert precompute(config_for(tmp_path, shared), progress=False).skipped == 1
    assert not (as_path(shared) / "failures.csv").exists()


def test_a_remote_video_that_fails_is_named_by_its_url(shared: str, tmp_path: Path) -> None:
    write_atomically(as_path(shared) / "broken.avi", b"no video")
    summary = precompute(config_for(shared, tmp_path / "cache"), progress=False)
    assert "cannot be opened" in summary.failures[0].reason
    with pytest.raises(VideoError, match=f"^{shared}/none.avi: "), local_copy(as_path(shared) / "none.avi"):
        pass
    with (
        pytest.raises(VideoError, match=f"^{shared}/broken.avi: why"),
        local_copy(as_path(shared) / "broken.avi"),
    ):
        raise VideoError("somewhere", "why")


def test_a_missing_remote_file_is_named_by_its_url(remote: str) -> None:
    with pytest.raises(CacheFileError, match=f"^{remote}/none.flow.zip: no such cache file$") as caught:
        CacheReader(remote + "/none.flow.zip")
    assert caught.value.path == as_path(remote) / "none.flow.zip"


def test_every_tool_reads_a_remote_cache(
    remote: str, videos: Path, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(local, remote)
    with (
        CacheReader(remote + "/walk/a b.flow.zip") as reader,
        CacheReader(local / "walk/a b.flow.zip") as same,
    ):
        np.testing.assert_array_equal(reader.flow([3, 0, 0]), same.flow([3, 0, 0]))
        np.testing.assert_array_equal(reader.rgb([4]), same.rgb([4]))
        with pickle.loads(pickle.dumps(reader)) as copy:
            np.testing.assert_array_equal(copy.flow([1]), same.flow([1]))
    assert verify_cache(as_path(remote), Videos(videos), decode=True).faults == []
    assert main(["info", remote]) == 0
    assert "3" in capsys.readouterr().out
    exported = export_cache(ExportConfig(remote, tmp_path / "out"))
    assert (exported.videos, exported.failures) == (3, [])
    assert (tmp_path / "out" / "walk" / "a b" / "flow_x_00004.jpg").is_file()
    view(remote + "/c.flow.zip", tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000
    imported = import_folders(
        ImportConfig(str(tmp_path / "out"), remote + "/imported", storage=StorageSettings(rgb=True))
    )
    assert (imported.done, imported.failures) == (3, [])


def read_first_field(path: str) -> bytes:
    with CacheReader(path) as reader:
        return reader.flow([0]).tobytes()


def test_forked_workers_read_what_their_parent_has_read(s3: str, local: Path) -> None:
    """As those of a data loader do."""
    root = s3 + "/" + uuid.uuid4().hex
    upload(local, root)
    path = root + "/c.flow.zip"
    expected = read_first_field(path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(read_first_field, [path]).get(60) == expected


def test_a_forked_process_asks_with_a_file_system_of_its_own(s3: str) -> None:
    path = as_path(f"{s3}/{uuid.uuid4().hex}/a.txt")
    write_atomically(path, b"some bytes")
    assert path.exists()
    assert path.read_bytes() == b"some bytes"

    def ask() -> None:
        assert path.exists()
        assert path.read_bytes() == b"some bytes"

    process = multiprocessing.get_context("fork").Process(target=ask, daemon=True)
    process.start()
    process.join(60)
    process.kill()  # where it waits for the file system of its parent
    assert process.exitcode == 0


def test_verify_finds_and_repairs_remote_damage(shared: str, videos: Path, local: Path) -> None:
    upload(local, shared)
    path = as_path(shared) / "c.flow.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    found = verify_cache(as_path(shared), Videos(videos))
    assert [fault.cache_file for fault in found.faults] == ["c.flow.zip"]
    repair = repair_cache(found, Videos(videos), workers=1, progress=False)
    assert repair.repaired == ["c.flow.zip"]
    assert contents(shared) == contents(local)


def test_a_dry_run_says_what_would_be_done(
    remote: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(videos, remote + "/in")
    assert (
        main(["precompute", remote + "/in", "--out", remote + "/out", "--method=farneback", "--dry-run"]) == 0
    )
    assert "new videos        3" in capsys.readouterr().out
    assert not list_files(as_path(remote + "/out"))


class BreakingStorage:
    """A file system whose connection breaks in the middle of an upload."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def put_file(self, local: str, target: str) -> None:
        data = Path(local).read_bytes()
        if not target.endswith(".zip"):  # one that shows what has arrived
            self.storage.pipe_file(target, data[: len(data) // 2])
        raise RuntimeError("the line went dead")


class BreakingPath(RemotePath):
    def open_storage(self) -> Any:
        return BreakingStorage(super().open_storage())


def write_one_field(path: RemotePath) -> None:
    with CacheWriter(path, FlowSettings(method="farneback").template(StorageSettings())) as writer:
        writer.add_flow(np.zeros((1, 2, 8, 8), np.uint8))


def test_an_upload_that_breaks_leaves_nothing_visible(remote: str) -> None:
    url = remote + "/walk/c.flow.zip"
    with pytest.raises(CacheWriteError, match=f"^cannot write {url}: the line went dead$"):
        write_one_field(BreakingPath(url))
    assert list_files(as_path(remote)) == {}
    assert not list(staging_folder().iterdir())
    write_one_field(RemotePath(url))
    with CacheReader(url) as reader:
        assert reader.num_fields == 1


def test_a_file_that_appears_slowly_is_renamed_when_it_is_whole(tmp_path: Path) -> None:
    folder = as_path(f"memory://{uuid.uuid4().hex}")
    shown: list[list[str]] = []

    class Storage(BreakingStorage):
        def put_file(self, local: str, target: str) -> None:
            self.storage.pipe_file(target, b"half of it")
            shown.append(list(list_files(folder)))
            self.storage.put_file(local, target)

    class SlowPath(RemotePath):
        def open_storage(self) -> Any:
            return Storage(super().open_storage())

    (tmp_path / "whole").write_bytes(b"all of it")
    SlowPath(f"{folder}/a.flow.zip").upload(tmp_path / "whole")
    assert len(shown) == 1
    assert [name[0] for name in shown[0]] == ["."], "hidden"
    assert list(list_files(folder)) == ["a.flow.zip"]
    assert (folder / "a.flow.zip").read_bytes() == b"all of it"


@pytest.mark.parametrize("where", ["local", "memory", "s3", "ftp"])
def test_a_remote_path_answers_as_a_local_one(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = str(tmp_path) if where == "local" else "memory:/"
    if where in ("s3", "ftp"):
        root = request.getfixturevalue(where)
    folder = as_path(f"{root}/{uuid.uuid4().hex}/a b")
    path = folder / "c.txt"
    assert not any((folder.exists(), folder.is_dir(), path.exists(), path.is_file()))
    with pytest.raises(FileNotFoundError):
        status_of(path)
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    path.unlink(missing_ok=True)
    if where == "local":
        folder.mkdir(parents=True)
    write_atomically(path, b"some bytes")
    assert path.exists()
    assert path.is_file()
    assert not path.is_dir()
    assert folder.exists()
    assert folder.is_dir()
    assert not folder.is_file()
    assert list(folder.glob("*.txt")) == [path]
    assert list(folder.glob("*.csv")) == []
    assert path.read_bytes() == b"some bytes"
    (listed,) = list_files(folder).items()
    for name, status in (listed, ("c.txt", status_of(path))):
        assert (name, status.size) == ("c.txt", 10)
        assert status.stamp, "or a file that is written anew could not be told"
    with path.open("rb") as file:
        assert (file.seek(-5, 2), file.read(3), file.read()) == (5, b"byt", b"es")
    if where != "memory":  # whose files never close
        with pytest.raises(ValueError, match="closed"):
            file.read(1)
    path.unlink()
    assert not path.exists()
    path.unlink(missing_ok=True)


def test_an_error_of_a_storage_is_a_storage_error_in_another_process_too(remote: str) -> None:
    class TheirError(Exception):
        """Not to be pickled."""

    class Storage(BreakingStorage):
        def refuse(self, *arguments: Any, **options: Any) -> None:
            raise TheirError("no\nway")

        exists = isdir = isfile = info = find = ls = cat_file = rm_file = refuse

    class RefusingPath(RemotePath):
        def open_storage(self) -> Any:
            return Storage(super().open_storage())

    path = RefusingPath(remote)
    for ask in (
        path.exists,
        path.is_dir,
        path.is_file,
        path.details,
        path.files,
        path.read_bytes,
        path.unlink,
    ):
        with pytest.raises(StorageError) as caught:
            ask()
        assert str(caught.value) == f"{remote}: no way"
    again = StorageError(as_path(remote), "no way")
    assert str(pickle.loads(pickle.dumps(again))) == f"{remote}: no way"


def test_a_folder_that_another_process_makes_at_the_same_time_is_used(ftp: str, tmp_path: Path) -> None:
    class Storage(BreakingStorage):
        def makedirs(self, path: str, exist_ok: bool) -> None:
            self.storage.makedirs(path)
            self.storage.mkdir(path)

        def put_file(self, local: str, target: str) -> None:
            self.storage.put_file(local, target)

    class SlowPath(RemotePath):
        def open_storage(self) -> Any:
            return Storage(super().open_storage())

    (tmp_path / "a").write_bytes(b"a")
    path = SlowPath(f"{ftp}/{uuid.uuid4().hex}/a")
    path.upload(tmp_path / "a")
    assert path.read_bytes() == b"a"


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_run_over_the_memory_of_one_process_is_refused(
    which: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    upload(videos, url)
    arguments = [url, "--out", str(tmp_path / "x")] if which == "input" else [str(videos), "--out", url]
    before = list_files(as_path(url))
    assert main(["precompute", *arguments, "--method=farneback"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{url} is in the memory of this process" in message
    assert list_files(as_path(url)) == before
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense://bucket/x", "cannot be used"),
        ("s3://no-such-bucket/x", "cannot write"),
    ],
)
def test_unusable_urls_are_one_line(
    s3: str, url: str, reason: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["precompute", str(videos), "--out", url]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert reason in message
    assert url in message


def test_a_storage_that_does_not_answer_is_one_line(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for arguments in (["precompute", "s3://bucket/in", "--out", "x"], ["info", "s3://bucket/cache"]):
        assert main(arguments) in (1, 2)
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "s3://bucket" in message


def test_local_urls_are_paths(tmp_path: Path) -> None:
    assert as_path(f"file://{tmp_path}/x") == tmp_path / "x"
    assert is_local(as_path("c:/videos"))
    assert as_path("memory://a/b/") == as_path("memory://a/b")
