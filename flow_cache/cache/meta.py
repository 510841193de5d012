"""What a cache file says about itself: `meta.json` as a checked, frozen value."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from flow_cache.cache.codecs import Codec, StorageSettings
from flow_cache.errors import ArgumentError, check_whole_number
from flow_cache.quantization import DEFAULT_BOUND, check_bound
from flow_cache.video.damage import Gap
from flow_cache.video.frames import MAX_SIDE, check_resize

FORMAT = "flow-cache"
SQUARE = "1:1"  # pixels; the usual case, which is not written
Part = Literal["", "prefix", "gaps"]
"""What a cache file holds of its video: all of it, its readable beginning, or the good frames with gaps between."""

# A file has the first version whose readers know its codec, so that older builds read what they can and refuse the rest
# by name. 1 held near-lossless JPEG-LS, which this build would decode to other levels; 3 brought zstd and jpegxl.
FORMAT_VERSIONS = (2, 3)


def field_runs(frames: int, step: int, gaps: Iterable[int] = ()) -> tuple[range, ...]:
    """Return the numbers of the flow fields of a video, in runs that no gap interrupts.

    Field t leads from frame t to frame t + step. There is none from one side of a gap to the other.

    Args:
        frames: number of frames.
        step: frames from one end of a flow vector to the other.
        gaps: indices of frames before which frames are missing, ascending.
    """
    borders = [0, *(before for before in gaps if 0 < before < frames), frames]
    return tuple(range(start, stop - step) for start, stop in pairwise(borders) if stop - start > step)


class OtherVersionError(ValueError):
    """A `meta.json` of another format version."""

    def __init__(self, version: object) -> None:
        known = " and ".join(map(str, FORMAT_VERSIONS))
        super().__init__(f"format version {version!r:.20}, this build reads {known}")


@dataclass(frozen=True)
class Source:
    """The video that a cache file was made from.

    Attributes:
        path: relative to the input folder, with forward slashes and suffix.
        bytes: size of the file, or of all images of a folder together.
        sha256: hash of the file's bytes, or of the images' names and bytes; empty if none was computed.

    Example:
        >>> from flow_cache import Source
        >>> Source("walk/a.avi", bytes=48_200).path
        'walk/a.avi'
    """

    path: str
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class CacheMeta:
    """Everything that a cache file says about itself.

    The writer fills in the counts and the size in pixels when it closes the file.

    Attributes:
        source: the video.
        method: the flow estimator.
        parameters: every parameter of the method, not only those that differ from a preset.
        backend: what computed the flow, such as numba-cpu.
        bound: flow of +-bound pixels per step fills the grey levels.
        step: flow is from frame t to frame t + step.
        short_side: shorter side in pixels that was asked for, or None.
        size: (W, H) in pixels that was asked for, or None.
        storage: how fields and RGB frames are stored.
        fps: frames per second of the source; 0.0 if unknown.
        pixel_aspect: width of the source's pixels to their height; frames were resized so that theirs are 1:1.
        width, height: size of a field in pixels.
        rgb_size: (W, H) of an RGB frame in pixels; None where it is that of a field, and before the file is closed.
        frames: frames that were decoded and kept.
        fields: flow fields stored: frames - step, without those that would lead across a gap.
        clip_fraction: share of the flow values beyond the bound, 0 to 1.
        partial: why frames are missing; None for a whole video.
        gaps: where frames are missing, ascending; none for a whole video, and for one that was kept up to its damage.
        versions: of the file format and of the libraries, by name.

    Raises:
        ArgumentError: a value that is impossible.

    Example:
        >>> from flow_cache import CacheMeta, Source
        >>> meta = CacheMeta(Source("a.avi"), "tvl1", bound=20.0)
        >>> meta.difference(CacheMeta(Source("a.avi"), "tvl1", bound=15.0))
        'bound 20.0 (asked for: 15.0)'
    """

    source: Source
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    bound: float = DEFAULT_BOUND
    step: int = 1
    short_side: int | None = None
    size: tuple[int, int] | None = None
    storage: StorageSettings = field(default_factory=StorageSettings)
    fps: float = 0.0
    pixel_aspect: str = SQUARE
    width: int = 0
    height: int = 0
    frames: int = 0
    fields: int = 0
    clip_fraction: float = 0.0
    partial: str | None = None
    gaps: tuple[Gap, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    rgb_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_bound(self.bound)
        check_whole_number("step", self.step, 1)
        check_resize(self.short_side, self.size)
        for name, highest in (
            ("width", MAX_SIDE),
            ("height", MAX_SIDE),
            ("frames", 1 << 40),
            ("fields", 1 << 40),
        ):
            check_whole_number(name, getattr(self, name), 0, highest)
        if self.rgb_size is not None:
            check_resize(None, self.rgb_size)
            if self.storage.own_rgb_side is None:
                raise ArgumentError(
                    f"rgb_size {self.rgb_size} is given, but no RGB frames with rgb_short_side are"
                )
        if not (math.isfinite(self.fps) and self.fps >= 0):
            raise ArgumentError(f"fps must be at least 0, got {self.fps}")
        if not 0 <= self.clip_fraction <= 1:
            raise ArgumentError(f"clip_fraction must lie between 0 and 1, got {self.clip_fraction}")
        places = [gap.before for gap in self.gaps]
        if any(first >= second for first, second in pairwise(places)) or places[-1:] > [self.frames]:
            raise ArgumentError(
                f"gaps must lie before different frames from 0 to {self.frames}, ascending, got {places}"
            )
        if self.gaps and self.partial is None:
            raise ArgumentError("a video with gaps must say why frames are missing (partial)")

    @property
    def part(self) -> Part:
        """What the file holds of its video."""
        if self.partial is None:
            return ""
        return "gaps" if self.gaps else "prefix"

    @property
    def runs(self) -> tuple[range, ...]:
        """The numbers of the flow fields that are stored, in runs that no gap interrupts; one run for a whole video."""
        return field_runs(self.frames, self.step, (gap.before for gap in self.gaps))

    @property
    def has_rgb(self) -> bool:
        """Whether RGB frames are stored beside the flow."""
        return self.storage.rgb

    def difference(self, asked: CacheMeta) -> str | None:
        """Say how this file differs from the one asked for.

        Everything that decides what the fields look like is compared. The backend and the versions are not, since a
        cache may be finished on another machine.

        Returns:
            The differences in one line; None if this file can be used.
        """
        ours, theirs = self.request(), asked.request()
        if self.method != asked.method:  # then there is no sense in comparing parameters
            ours, theirs = {"method": self.method}, {"method": asked.method}
        differences = [
            f"{name} {ours.get(name)} (asked for: {theirs.get(name)})"
            for name in [*ours, *(name for name in theirs if name not in ours)]
            if ours.get(name) != theirs.get(name)
        ]
        return ", ".join(differences) or None

    def recoded(self, codec: Codec) -> CacheMeta:
        """Return the meta of the same flow with another codec; raises ArgumentError as `StorageSettings.recoded`."""
        storage = self.storage.recoded(codec)
        format_version = {"format": str(storage.format_version)} if "format" in self.versions else {}
        return replace(self, storage=storage, versions={**self.versions, **format_version})

    def closed(self, **counts: Any) -> CacheMeta:
        """Return a copy with the counts that are known once all is written."""
        return replace(self, **counts)

    def to_json(self) -> bytes:
        """Return the contents of `meta.json`: ASCII JSON, one value a line."""
        document = {
            "format": FORMAT,
            "format_version": self.storage.format_version,
            "source": {"path": self.source.path, "bytes": self.source.bytes, "sha256": self.source.sha256},
            "frames": self.frames,
            "fields": self.fields,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            **({} if self.pixel_aspect == SQUARE else {"pixel_aspect": self.pixel_aspect}),
            "method": self.method,
            "parameters": dict(self.parameters),
            "backend": self.backend,
            "bound": self.bound,
            "step": self.step,
            "short_side": self.short_side,
            "size": None if self.size is None else list(self.size),
            **self.storage.as_dict(),
            **self._own_rgb_size(),
            "clip_fraction": self.clip_fraction,
            "partial": self.partial,
            **({"gaps": {str(gap.before): gap.missing for gap in self.gaps}} if self.gaps else {}),
            "versions": dict(self.versions),
        }
        return json.dumps(document, indent=1, allow_nan=False).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> CacheMeta:
        """Read the contents of `meta.json`.

        Raises:
            OtherVersionError: it has another format version.
            ValueError: it is damaged, or not of this format; the message is the reason.
        """
        try:
            document = json.loads(data)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f'is not of this format (no "format": "{FORMAT}")')
        version = document.get("format_version")
        if version not in FORMAT_VERSIONS:
            raise OtherVersionError(version)
        get = functools.partial(_get, document)
        source = get("source", dict)
        size = get("size", list, optional=True)
        storage: dict[str, Any] = {"codec": get("codec", str)}
        storage |= {name: get(name, int, optional=True) for name in ("max_error", "quality", "rgb_quality")}
        rgb_size = None
        if "rgb_short_side" in document:  # only where the frames have a size of their own
            storage["rgb_short_side"] = get("rgb_short_side", int)
            rgb_size = tuple(get("rgb_size", list))
        try:
            settings = StorageSettings.from_dict(storage)
            if settings.format_version != version:
                raise ValueError(f"format version {version} does not go with codec {settings.codec}")
            return cls(
                source=Source(
                    _get(source, "path", str), _get(source, "bytes", int), _get(source, "sha256", str)
                ),
                method=get("method", str),
                parameters=_mapping(get("parameters", dict), (int, float, str)),
                backend=get("backend", str),
                bound=float(get("bound", (int, float))),
                step=get("step", int),
                short_side=get("short_side", int, optional=True),
                size=None if size is None else tuple(size),
                storage=settings,
                fps=float(get("fps", (int, float))),
                pixel_aspect=_get({"pixel_aspect": SQUARE} | document, "pixel_aspect", str),
                width=get("width", int),
                height=get("height", int),
                frames=get("frames", int),
                fields=get("fields", int),
                clip_fraction=float(get("clip_fraction", (int, float))),
                partial=get("partial", str, optional=True),
                gaps=_gaps(get("gaps", dict)) if "gaps" in document else (),
                versions=_mapping(get("versions", dict), (str,)),
                rgb_size=rgb_size,
            )
        except (ArgumentError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def request(self) -> dict[str, Any]:
        """Return every setting that decides what the fields look like, and the video."""
        size = None if self.size is None else f"{self.size[0]}x{self.size[1]}"
        return {
            "video": self.source.path,
            "method": self.method,
            **self.parameters,
            "bound": self.bound,
            "step": self.step,
            "short_side": self.short_side,
            "size": size,
            **self.storage.as_dict(),
        }

    def _own_rgb_size(self) -> dict[str, list[int] | None]:
        """Return the entry of `meta.json` for RGB frames with a size of their own; empty for others."""
        if self.storage.own_rgb_side is None:
            return {}
        return {"rgb_size": None if self.rgb_size is None else list(self.rgb_size)}


def current_versions(libraries: Sequence[str] = (), storage: StorageSettings | None = None) -> dict[str, str]:
    """Return the versions that are recorded in `meta.json`: those that can change what a cache holds.

    Args:
        libraries: what the estimator uses besides, by the names that pip knows.
        storage: how fields are stored, which decides the version of the file format; None for the default.
    """
    versions = {"format": str((storage or StorageSettings()).format_version)}
    for name in ("twostream", "av", "opencv-contrib-python", "imagecodecs", "numpy", *libraries):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # Not installed under this name: run from a checkout, or another OpenCV package.
            versions[name] = "unknown"
    return versions


def _get(document: Any, name: str, kind: type | tuple[type, ...], *, optional: bool = False) -> Any:
    """Return a value of the document; raises ValueError if it is missing or of another type."""
    if not isinstance(document, dict) or name not in document:
        raise ValueError(f"lacks {name!r}")
    value = document[name]
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}")
    return value


def _gaps(value: dict[str, Any]) -> tuple[Gap, ...]:
    """Return gaps by the frame after them; raises ValueError or ArgumentError for others."""
    for before, missing in value.items():
        if not (before.isascii() and before.isdecimal() and len(before) < 16):
            raise ValueError(f"gaps holds {before!r:.40}")
        if isinstance(missing, bool) or not isinstance(missing, int | None):
            raise ValueError(f"gaps holds {missing!r:.40}")
    return tuple(Gap(int(before), missing) for before, missing in value.items())


def _mapping(value: dict[str, Any], kinds: tuple[type, ...]) -> dict[str, Any]:
    """Return a dict whose values are of these types; raises ValueError for another."""
    for name, entry in value.items():
        if isinstance(entry, bool) or not isinstance(entry, kinds):
            raise ValueError(f"{name} is {entry!r}")
    return value
