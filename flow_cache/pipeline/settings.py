"""Settings: how flow is computed, and what a run does. How it is stored: `flow_cache.cache.codecs.StorageSettings`.

Every command that computes flow nests these classes, so that each default is written once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source, current_versions
from flow_cache.errors import ArgumentError, check_whole_number
from flow_cache.methods.base import FlowMethod
from flow_cache.methods.registry import get_method
from flow_cache.quantization import DEFAULT_BOUND

Damaged = Literal["fail", "keep-prefix", "skip-frames"]
"""What is done with a damaged video: it fails; the frames before the damage are kept; all good frames are kept."""

# Names that `parameters` cannot hold: each is a separate argument.
_RESERVED = ("preset", "name", "device", "threads")


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed.

    Attributes:
        method: flow estimator: tvl1, farneback, dis or raft.
        preset: named parameter set of the method; default: its first (tvl1: opencv, opencv-cuda, fast; farneback:
            default, opencv; dis: fast, ultrafast, medium; raft: large, small).
        parameters: single parameters of the method, which replace the preset's, such as warps 3.
        device: where flow is computed: cpu; cuda, cuda:N, or several with commas between; auto: a GPU where there is
            one.
        short_side: resize frames so that the shorter side has this many pixels.
        size: resize frames to this width and height, such as 340x256.
        bound: flow beyond this many pixels per step is clipped.
        step: flow is computed from frame t to frame t + step.

    Raises:
        ArgumentError: a size that cannot be read.

    Example:
        >>> from flow_cache import FlowSettings
        >>> settings = FlowSettings("farneback", parameters={"winsize": 9}, size="340x256")
        >>> settings.size
        (340, 256)
        >>> settings.estimator().parameters.winsize
        9
    """

    method: Literal["tvl1", "farneback", "dis", "raft"] = "tvl1"
    preset: str | None = None
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    device: str = "cpu"
    short_side: int | None = None
    size: str | tuple[int, int] | None = None
    bound: float = DEFAULT_BOUND
    step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _read_size(self.size))

    def estimator(self, device: str = "cpu") -> FlowMethod:
        """Return the estimator on one device; raises ArgumentError like `get_method`."""
        reserved = set(_RESERVED) & set(self.parameters)
        if reserved:
            raise ArgumentError(
                f"parameters cannot hold {', '.join(sorted(reserved))}; it has an argument of its own"
            )
        parameters: dict[str, Any] = dict(self.parameters)
        return get_method(self.method, device, preset=self.preset, **parameters)

    def template(self, storage: StorageSettings, estimator: FlowMethod | None = None) -> CacheMeta:
        """Return the meta of every file that is made with these settings, except its source.

        Args:
            storage: how the flow is stored.
            estimator: the one that these settings mean, if there is one already.

        Raises:
            ArgumentError: the first value that is unusable.
        """
        method = estimator or self.estimator()
        return CacheMeta(
            source=Source(""),
            method=self.method,
            parameters=method.parameters.as_dict(),
            backend=method.backend,
            bound=self.bound,
            step=self.step,
            short_side=self.short_side,
            size=self.size,  # type: ignore[arg-type]  # read in __post_init__
            storage=storage,
            versions=current_versions(method.libraries, storage),
        )

    @classmethod
    def of(cls, meta: CacheMeta, **changes: Any) -> FlowSettings:
        """Return the settings that a file was made with, some of them changed."""
        names = [field.name for field in fields(cls) if hasattr(meta, field.name)]
        made = {name: getattr(meta, name) for name in names}
        return cls(**{**made, "parameters": dict(meta.parameters), **changes})


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to precompute, and how.

    Attributes:
        input: a video file, a folder of videos (searched recursively), a folder of images, a list (.txt, one path a
            line), or a manifest (.csv with a column path or video); a path, or a URL that fsspec knows, such as
            s3://bucket/videos.
        output: the cache folder, a path or a URL; files appear under the videos' relative paths.
        flow: how flow is computed.
        storage: how it is stored.
        workers: worker processes; 0 = one for every core.
        ray: distribute the videos over the Ray cluster at this address (auto, HOST:PORT, or local to start one), whose
            nodes must share the input and the cache folder; workers is then the maximum in the whole cluster.
        overwrite: redo videos that are in the cache already, whatever their parameters.
        damaged: what is done with a damaged video: fail (default), it has no cache file and is named; keep-prefix, the
            frames before the damage are kept; skip-frames, all good frames are kept, and no flow is computed across the
            gaps between them (each file is decoded once more, to know whether it is damaged).
        keep_partial: the same as damaged keep-prefix.
        check_content: read every video that has a cache file, to see whether it is still the one that the file was made
            from; otherwise its size and the time of its last change (or its ETag) say so while they are the same.
        limit: maximum number of videos; the first ones are taken.
        root: folder where the paths of a list or manifest start; default: where it lies.
        shard: only part i of n, as i/n with i from 1: shards are disjoint, may run at the same time on one cache
            folder, and together contain all videos.

    Raises:
        ArgumentError: a number outside its range, or keep_partial beside another value of damaged.

    Example:
        >>> from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings
        >>> flow = FlowSettings("tvl1", short_side=256, device="auto")
        >>> config = PrecomputeConfig("videos", "cache", flow, StorageSettings(rgb=True), workers=8)
        >>> config.flow.bound
        20.0
    """

    input: str | Path
    output: str | Path
    flow: FlowSettings = field(default_factory=FlowSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    workers: int = 0
    ray: str | None = None
    overwrite: bool = False
    damaged: Damaged | None = None
    keep_partial: bool = False
    check_content: bool = False
    limit: int | None = None
    root: str | Path | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        check_whole_number("workers", self.workers, 0)
        if self.limit is not None:
            check_whole_number("limit", self.limit, 1)
        if self.damaged not in (None, *get_args(Damaged)):
            raise ArgumentError(
                f"damaged must be one of {', '.join(get_args(Damaged))}, got {self.damaged!r}"
            )
        if self.keep_partial and self.damaged not in (None, "keep-prefix"):
            raise ArgumentError(
                f"keep_partial means damaged keep-prefix, but damaged {self.damaged} is given too; leave one out"
            )

    @property
    def on_damage(self) -> Damaged:
        """What is done with a damaged video, however it was said."""
        return "keep-prefix" if self.keep_partial else self.damaged or "fail"


def _read_size(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Read `340x256` or `340,256`; a pair is returned as it is."""
    if value is None or isinstance(value, tuple):
        return value
    match = re.fullmatch(r"\[?\s*(\d{1,6})\s*[x,]\s*(\d{1,6})\s*\]?", str(value))
    if match is None:
        raise ArgumentError(f"--size must be WIDTHxHEIGHT such as 340x256, got {value!r}")
    return int(match[1]), int(match[2])
