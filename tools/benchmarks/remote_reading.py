"""Remote videos: copied, then decoded, against decoded straight from fsspec's file objects; over HTTP on this machine.

Each way also takes the hash of the file's content, without which a cache file does not know its video. The server
waits before each answer, as a distant one would, and sends no faster than it is told to.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import fsspec

from benchmarks.process_monitor import checkout_environment
from benchmarks.timing import ratios, time_in_turns
from flow_cache.runtime import pyav
from flow_cache.storage.paths import as_path
from flow_cache.video.source import hash_source, local_copy

COPY = "copy, then hash and decode"
CACHES = {"readahead": "readahead", "blocks": "blockcache", "whole file in memory": "all"}
_PIECE = 1 << 16  # bytes


@dataclass(frozen=True)
class RemoteRow:
    """One way to read remote files; time is in multiples of copying, hashing and decoding them."""

    files: str
    latency: float
    """Of each request, milliseconds."""
    way: str
    time: float
    low: float
    high: float
    requests: int
    megabytes: float
    """Sent by the server."""


class _Server(ThreadingHTTPServer):
    """Serves the files of a folder, with ranges; every request waits, and what is sent is counted."""

    daemon_threads = True
    folder = Path()
    latency = 0.0
    speed = 0.0
    requests = 0
    sent = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        server = self.server
        if self.path == "/statistics":
            body = f"{server.requests} {server.sent}".encode()
            server.requests = server.sent = 0
            self._head(200, len(body), {})
            self.wfile.write(body)
            return
        time.sleep(server.latency)
        server.requests += 1
        path = server.folder / self.path.lstrip("/")
        if not path.is_file():
            self._head(404, 0, {})
            return
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if (wanted := self.headers.get("Range")) is not None:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last, status = int(start), min(int(end or last), last), 206
        length = last - first + 1
        self._head(status, length, {"Content-Range": f"bytes {first}-{last}/{size}"} if status == 206 else {})
        if with_body:
            with path.open("rb") as file:
                file.seek(first)
                self._send(file, length)

    def _head(self, status: int, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: IO[bytes], length: int) -> None:
        started, sent = time.perf_counter(), 0
        try:
            while sent < length:
                piece = file.read(min(_PIECE, length - sent))
                self.wfile.write(piece)
                sent += len(piece)
                self.server.sent += len(piece)
                time.sleep(max(0.0, started + sent / self.server.speed - time.perf_counter()))
        except ConnectionError:
            self.close_connection = True  # the reader has what it wanted


def serve(folder: Path, latency: float, speed: float) -> None:
    """Serve a folder until standard input ends; prints the port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.latency, server.speed = folder, latency / 1e3, speed * 1e6
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


@contextmanager
def _served(folder: Path, latency: float, speed: float) -> Iterator[str]:
    """Serve a folder from another process, so that it does not share our interpreter; yields the URL."""
    command = [sys.executable, "-m", "benchmarks.remote_reading", str(folder), str(latency), str(speed)]
    environment = checkout_environment()
    environment["PYTHONPATH"] = f"{Path(__file__).parents[1]}:{environment['PYTHONPATH']}"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()


def decode_all(source: str | IO[bytes]) -> int:
    """Decode all frames, without a check; returns how many."""
    with pyav().open(source) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def _copied(urls: Sequence[str]) -> tuple[int, str]:
    count, digests = 0, ""
    for url in urls:
        with local_copy(as_path(url)) as copy:
            digests += hash_source(copy)
            count += decode_all(str(copy))
    return count, digests


def _streamed(urls: Sequence[str], cache: str) -> tuple[int, str]:
    count, digests = 0, ""
    for url in urls:
        with fsspec.filesystem("http").open(url, "rb", cache_type=cache) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            digests += digest.hexdigest()
            file.seek(0)
            count += decode_all(file)
    return count, digests


def measure_remote(
    sets: dict[str, list[Path]], latencies: Sequence[float], speed: float, repeats: int
) -> list[RemoteRow]:
    """Compare the ways for each set of files (all of one folder) and each latency.

    Raises:
        SystemExit: The ways do not give the same number of frames and the same hashes.
    """
    rows = []
    for name, files in sets.items():
        for latency in latencies:
            with _served(files[0].parent, latency, speed) as url:
                urls = [f"{url}/{file.name}" for file in files]
                ways: dict[str, Callable[[], tuple[int, str]]] = {COPY: partial(_copied, urls)}
                ways |= {
                    f"hash and decode from the server, {way}": partial(_streamed, urls, cache)
                    for way, cache in CACHES.items()
                }
                ask = partial(fsspec.filesystem("http").cat_file, f"{url}/statistics")
                ask()
                results, traffic = {}, {}
                for way, work in ways.items():
                    results[way] = work()
                    traffic[way] = [int(number) for number in ask().split()]
                if len(set(results.values())) != 1:
                    raise SystemExit(f"{name}: the ways give different frames or hashes: {results}")
                times = time_in_turns(ways, repeats)
                for way, seconds in times.items():
                    requests, sent = traffic[way]
                    rows.append(
                        RemoteRow(name, latency, way, *ratios(seconds, times[COPY]), requests, sent / 1e6)
                    )
                    print(name, latency, way, f"{rows[-1].time:.2f}", requests, flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a folder slowly.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("latency", type=float, help="of each request, milliseconds")
    parser.add_argument("speed", type=float, help="of each answer, MB/s")
    given = parser.parse_args()
    serve(given.folder, given.latency, given.speed)
