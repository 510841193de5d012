"""Files on a web server, which has no folders: what is asked of it, and how often."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flow_cache import as_path
from flow_cache.errors import VideoError
from flow_cache.video.source import local_copy

pytest.importorskip("aiohttp", reason="needs fsspec's HTTP")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and writes down what it was asked for."""

    asked: list[str]

    def __init__(self, asked: list[str], *arguments: Any, **options: Any) -> None:
        self.asked = asked
        super().__init__(*arguments, **options)

    def log_request(self, *arguments: Any) -> None:
        self.asked.append(f"{self.command} {self.path}")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the URL at which it is served, and what was asked so far."""
    folder, asked = tmp_path / "site", []
    folder.mkdir()
    handler = partial(Handler, asked, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_video_is_loaded_once(site: tuple[Path, str, list[str]]) -> None:
    folder, url, asked = site
    (folder / "a.avi").write_bytes(b"0123456789" * 1000)
    with local_copy(as_path(f"{url}/a.avi")) as copy:
        assert copy.read_bytes() == (folder / "a.avi").read_bytes()
    assert asked.count("GET /a.avi") == 1


def test_what_is_a_folder_is_found_without_loading_files(site: tuple[Path, str, list[str]]) -> None:
    folder, url, asked = site
    (folder / "walk").mkdir()
    (folder / "walk" / "a.avi").write_bytes(b"0123456789")
    assert as_path(f"{url}/walk/").is_dir()
    assert not as_path(f"{url}/walk/a.avi").is_dir()
    assert not as_path(f"{url}/run").is_dir()
    assert "GET /walk/a.avi" not in asked


def test_a_missing_video_is_named(site: tuple[Path, str, list[str]]) -> None:
    _, url, _ = site
    with pytest.raises(VideoError, match=r"b\.avi"), local_copy(as_path(f"{url}/b.avi")):
        pass
