"""The file or folder that a video comes from: a local copy of a remote one, its size, its stamp, its hash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flow_cache.errors import CacheWriteError, VideoError
from flow_cache.storage.atomic import working_folder
from flow_cache.storage.paths import Status, is_local, list_files, staging_folder, status_of
from flow_cache.video.find import all_images, image_files, is_image, split_series

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath


@contextlib.contextmanager
def local_copy(source: AnyPath) -> Iterator[Path]:
    """Yield a local path of a video: its own, or that of a temporary copy if it is remote.

    Args:
        source: the video, local or remote.

    Yields:
        The local path, valid inside the `with` block.

    Raises:
        VideoError: the video cannot be read; the error names `source`, not the copy.
        CacheWriteError: no space is left for the copy.

    Example:
        >>> from flow_cache import as_path, local_copy
        >>> with local_copy(as_path("videos/a.avi")) as path:
        ...     str(path)  # its own, since it is local
        'videos/a.avi'
    """
    if is_local(source):
        yield source
        return
    # Not decoded from the storage itself: the hash that a cache file keeps needs every byte, and decoders seek. A copy
    # on the disk asks for each byte once, takes no memory, and is as quick as the quickest other way
    # (reports/benchmarks/decoding.md).
    with working_folder(staging_folder()) as folder:
        try:
            copy = source.download(folder)
        except OSError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
                raise CacheWriteError.from_os_error(folder, error.__cause__) from error
            raise VideoError(source, error.strerror or str(error)) from error
        try:
            yield copy
        except VideoError as error:
            raise VideoError(source, error.reason, error.frame) from error


def source_status(path: AnyPath, *, flow: bool = False) -> Status:
    """Return the size of a video and a stamp that is another one after a change, without reading it.

    Args:
        path: file or folder, local or remote.
        flow: take all images of a folder, those of flow too: what an import reads.

    Returns:
        Of a file, what its storage says: bytes, and the time of the last change or an ETag. Of a folder, the bytes of
        its images, and a hash of their names, sizes and stamps. Size 0 without a stamp if it cannot be read.
    """
    inode = None
    try:
        if is_local(path):
            found = path.stat()
            status = Status.of(found)
            if not stat.S_ISDIR(found.st_mode):
                return status
            inode = status.inode
            images = {image.name: status_of(image) for image in _images(path, flow)}
        else:
            with contextlib.suppress(FileNotFoundError):
                return status_of(path)
            files = list_files(path)
            names = [name for name in files if "/" not in name and is_image(name)]
            images = {name: files[name] for name in (sorted(names) if flow else split_series(names).frames)}
    except (OSError, VideoError):
        return Status(0, "", inode)  # the error will be reported when the video is read
    known = bool(images) and all(status.stamp for status in images.values())
    text = "\n".join(f"{name}\0{status.size}\0{status.stamp}" for name, status in images.items())
    stamp = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() if known else ""
    return Status(sum(status.size for status in images.values()), stamp, inode)


def source_bytes(path: AnyPath, *, flow: bool = False) -> int:
    """Return the bytes of a video file, or of the images of a folder; 0 if they cannot be read."""
    return source_status(path, flow=flow).size


def _images(folder: Path, flow: bool) -> list[Path]:
    """List the images of a folder: its frames, or all of them."""
    return all_images(folder) if flow else image_files(folder)


def hash_of_video(video: AnyPath, *, flow: bool = False) -> str:
    """Return the SHA-256 of a video file, or of the names and bytes of a folder's images: what its cache file keeps.

    Args:
        video: file or folder, local or remote.
        flow: take all images of a folder, those of flow too: what an import reads.

    Returns:
        64 hexadecimal digits.

    Raises:
        VideoError: it cannot be read, or the images are not one series.

    Example:
        >>> import pathlib, tempfile
        >>> from flow_cache import hash_of_video
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video = pathlib.Path(folder) / "run.mp4"
        ...     size = video.write_bytes(b"not really one")
        ...     hash_of_video(video)[:8]
        'fbc55d52'
    """
    with local_copy(video) as copy:
        return hash_source(copy, flow=flow)


def hash_source(path: Path, *, flow: bool = False) -> str:
    """Return the SHA-256 of a video file, or of the names and bytes of a folder's images.

    Args:
        path: local file or folder.
        flow: take all images of a folder, as `source_status` does.

    Returns:
        64 hexadecimal digits.

    Raises:
        VideoError: a file cannot be read, or the images are not one series.
    """
    digest = hashlib.sha256()
    try:
        for file in _images(path, flow) if path.is_dir() else [path]:
            if path.is_dir():
                digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error
    return digest.hexdigest()
