"""The ways to store flow and frames that the cache is compared with."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import RGB, Codec, StorageSettings, decode_into
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.runtime import opencv

RGB_QUALITY = 90
OURS_CODEC = StorageSettings(rgb=True, rgb_quality=RGB_QUALITY)
CODECS: tuple[Codec, ...] = (
    "jpegls",
    "zstd",
    "jpegxl",
    "png",
)  # of our own files; levels change only by the grid
FOLDERS = "JPEG folders q95"


def store_name(codec: Codec) -> str:
    """Name our own files of a codec."""
    return f"cache, {codec}" + (" error 1" if StorageSettings(codec).grid > 1 else "")


OURS = store_name(OURS_CODEC.codec)

Levels = NDArray[np.uint8]
Read = tuple[Levels, Levels]  # fields (n, 2, H, W), frames (n, H, W, 3)


@dataclass(frozen=True)
class Clip:
    """One video's levels and frames."""

    flow: Levels
    rgb: Levels


class Store(ABC):
    """One way to store videos; a store is made once and then asked for clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        """Read a training clip from nothing but the files."""

    def files(self, video: int) -> Iterator[Path]:
        """Iterate the files that a clip of a video is read from."""
        yield from (path for path in self.folder.rglob("*") if path.is_file())

    def close(self) -> None:  # noqa: B027 - most stores hold nothing open
        """Close open files, or the kernel would keep their pages."""

    def drop(self, video: int) -> None:
        """Ask the kernel to forget a video's files."""
        self.close()
        for path in self.files(video):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


class Cache(Store):
    """Our cache files, opened for every clip."""

    def path(self, video: int) -> Path:
        return self.folder / f"{video}.flow.zip"

    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        with CacheReader(self.path(video)) as reader:
            return reader.flow(fields), reader.rgb(frames)

    def files(self, video: int) -> Iterator[Path]:
        yield self.path(video)


class Folders(Store):
    """`flow_x_00001.jpg` folders, read by OpenCV."""

    keeps = True  # images that a clip has read already

    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        cv2 = opencv()
        folder = self.folder / str(video)
        images: dict[str, Levels] = {}

        def image(name: str, mode: int) -> Levels:
            if not self.keeps or name not in images:
                images[name] = cv2.imread(str(folder / name), mode)
            return images[name]

        flow = [
            [image(f"flow_{axis}_{n + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE) for axis in "xy"] for n in fields
        ]
        rgb = [image(f"img_{n + 1:05d}.jpg", cv2.IMREAD_COLOR)[..., ::-1] for n in frames]
        return np.array(flow), np.array(rgb)

    def files(self, video: int) -> Iterator[Path]:
        yield from (self.folder / str(video)).iterdir()


class FoldersEveryTime(Folders):
    """The same, each image opened as often as it occurs."""

    keeps = False


def decode_unique(
    indices: Sequence[int], shape: tuple[int, ...], codec: StorageSettings, read: Callable[[int], bytes]
) -> Levels:
    """Decode each wanted image once."""
    out = np.empty((len(indices), *shape), np.uint8)
    first: dict[int, int] = {}  # where each index occurs first
    for position, index in enumerate(indices):
        if index in first:
            out[position] = out[first[index]]
        else:
            decode_into(read(index), codec, out[position])
            first[index] = position
    return out


class Hdf5(Store):
    """One HDF5 file of all videos: levels in chunks of a field, frames as JPEG bytes."""

    compression: str | None = None

    def open(self) -> Any:
        import h5py

        if not hasattr(self, "_file"):
            self._file = h5py.File(self.folder / "all.h5", "r")
        return self._file

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
            del self._file

    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        group = self.open()[str(video)]
        unique, inverse = np.unique(fields, return_inverse=True)
        # In runs of neighbours: h5py takes seconds for a list of scattered indices.
        runs = np.split(unique, np.flatnonzero(np.diff(unique) > 1) + 1)
        levels = np.concatenate([group["flow"][part[0] : part[-1] + 1] for part in runs])[inverse]
        shape = (*levels.shape[2:], 3)
        return levels, decode_unique(frames, shape, RGB, lambda n: group["rgb"][n].tobytes())


class Hdf5Gzip(Hdf5):
    """The same, compressed."""

    compression = "gzip"


class Lmdb(Store):
    """One LMDB of all videos: our own encoded bytes, by number."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        super().__init__(folder)
        self.shape = shape
        self._environment: Any = None

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        import lmdb

        if self._environment is None:
            self._environment = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)
        height, width = self.shape
        with self._environment.begin() as transaction:
            flow = decode_unique(
                fields,
                (2 * height, width),
                OURS_CODEC,
                lambda n: transaction.get(f"{video}/flow/{n}".encode()),
            )
            rgb = decode_unique(
                frames, (height, width, 3), RGB, lambda n: transaction.get(f"{video}/rgb/{n}".encode())
            )
        return flow.reshape(len(flow), 2, height, width), rgb


def write_cache(path: Path, clip: Clip, settings: StorageSettings) -> None:
    """Write one of our files."""
    with CacheWriter(path, CacheMeta(Source(path.name), "benchmark", storage=settings)) as writer:
        writer.add_rgb(clip.rgb)
        writer.add_flow(clip.flow)


def build(clips: list[Clip], folder: Path) -> dict[str, Store]:
    """Write every store; the JPEG folders come first."""
    caches = {codec: Cache(folder / codec) for codec in CODECS}
    for codec, cache in caches.items():
        for number, clip in enumerate(clips):
            write_cache(cache.path(number), clip, replace(OURS_CODEC, codec=codec))
    ours = caches[OURS_CODEC.codec]
    export_cache(ExportConfig(caches["png"].folder, folder / "folders"))  # of the exact levels, not of ours
    stores: dict[str, Store] = {
        FOLDERS: Folders(folder / "folders"),
        "JPEG folders q95, as TSN reads": FoldersEveryTime(folder / "folders"),
        **{store_name(codec): cache for codec, cache in caches.items()},
    }
    if find_spec("h5py"):
        for name, store in (("HDF5, raw", Hdf5(folder / "raw")), ("HDF5, gzip", Hdf5Gzip(folder / "gzip"))):
            write_hdf5(store, clips, ours)
            stores[name] = store
    if find_spec("lmdb"):
        shape = (clips[0].flow.shape[2], clips[0].flow.shape[3])
        stores["LMDB of our bytes"] = Lmdb(folder / "lmdb", shape)
        write_lmdb(folder / "lmdb", ours, len(clips))
    return stores


def write_hdf5(store: Hdf5, clips: list[Clip], ours: Cache) -> None:
    """Write all clips into one HDF5 file."""
    import h5py

    store.folder.mkdir()
    with h5py.File(store.folder / "all.h5", "w") as file:
        for number, clip in enumerate(clips):
            group = file.create_group(str(number))
            chunks = (1, *clip.flow.shape[1:])
            group.create_dataset(
                "flow", data=clip.flow, chunks=chunks, compression=store.compression,
                shuffle=store.compression is not None,
            )  # fmt: skip
            with CacheReader(ours.path(number)) as reader:
                frames = [np.frombuffer(reader.encoded_rgb(n), np.uint8) for n in range(reader.num_frames)]
            rgb = group.create_dataset("rgb", (len(frames),), h5py.vlen_dtype(np.uint8))
            for n, frame in enumerate(frames):
                rgb[n] = frame


def write_lmdb(folder: Path, ours: Cache, count: int) -> None:
    """Copy the members of our files into an LMDB."""
    import lmdb

    folder.mkdir()
    environment = lmdb.open(str(folder), map_size=1 << 36)
    with environment.begin(write=True) as transaction:
        for number in range(count):
            with zipfile.ZipFile(ours.path(number)) as archive:
                for name in archive.namelist()[1:]:
                    kind, index = name.split(".")[0].split("/")
                    transaction.put(f"{number}/{kind}/{int(index)}".encode(), archive.read(name))
    environment.close()
