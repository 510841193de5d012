"""Which videos are used, how they are split, what a clip is: settings that can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from twostream.errors import DataError
from twostream.settings import StreamName, require_at_least

AnnotationFormat = Literal[
    "auto", "folders", "split_folders", "ucf", "hmdb", "jhmdb", "kth", "mmaction", "csv"
]
SplitKind = Literal["auto", "official", "group", "kfold", "logo"]
Leakage = Literal["refuse", "report"]


@dataclass(frozen=True)
class SplitConfig:
    """Say how to split.

    Attributes:
        kind: `official` (published lists or the table's split column), `group` (a share of the source groups
            is held out), `kfold` (stratified folds of source groups), `logo` (leave one group out: the sources with
            one number, of all classes, are the test part, as UCF-50's protocol has it), or `auto`: official where
            there are lists, else group.
        number: number of the official split.
        folds: number of folds for `kfold`.
        fold: which fold is the test part for `kfold`, from 1 to `folds`; for `logo` the number of the group.
        test_fraction: share of each class's videos held out for the test with `group`, whole groups at a
            time.
        val_fraction: share of the training videos taken for validation, whole groups at a time; 0 takes none.
        seed: seed of everything random in the split, apart from the training seed.
        leakage: what to do when a source has videos in training and test under different classes, as in
            HMDB's own lists: `refuse`, or `report` to keep the split and count them. Within one class it is
            always refused.

    Example:
        >>> from twostream import SplitConfig
        >>> SplitConfig(kind="kfold", folds=5, fold=2).val_fraction
        0.15
    """

    kind: SplitKind = "auto"
    number: int = 1
    folds: int = 5
    fold: int = 1
    test_fraction: float = 0.25
    val_fraction: float = 0.15
    seed: int = 0
    leakage: Leakage = "refuse"


Sampling = Literal["segments", "uniform", "dense"]
View = Literal["centre", "full"]
Views = Literal[1, 2, 10]
Size = int | tuple[int, int]
"""Side of a square in pixels, or (width, height)."""


def width_and_height(size: Size) -> tuple[int, int]:
    """Return the (width, height) that a size means."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class ClipShape:
    """Say what a clip is: `steps` (T) places in the video, `stack` (L) consecutive flow fields at each.

    Where they lie is said by `sampling`; in `dense` windows they are `stride` fields apart.
    """

    steps: int = 8
    stack: int = 5
    sampling: Sampling = "segments"
    stride: int = 1

    def __post_init__(self) -> None:
        require_at_least(self, {"steps": 1, "stack": 1, "stride": 1}, "clip ", DataError)


@dataclass(frozen=True)
class StreamClips:
    """Say what is different in the clips of one stream; null takes the setting of the same name for both.

    Attributes:
        steps: places in the video that a clip looks at (T).
        size: network input in pixels: side of a square, or [width, height].
        eval_clips: clips of a test video whose predictions are averaged (K).
        view: part of the frame seen in evaluation, as in `augment`.
        views: views of each evaluation clip, as in `augment`.

    Example:
        >>> from twostream.data.settings import StreamClips
        >>> StreamClips(size=(384, 288)).steps is None
        True
    """

    steps: int | None = None
    size: int | tuple[int, int] | None = None
    eval_clips: int | None = None
    view: View | None = None
    views: Views | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "eval_clips"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(f"data.*.{name} must be at least 1, got {value}")
        if self.size is not None and min(width_and_height(self.size)) < 16:
            raise DataError(f"data.*.size must be at least 16, got {self.size}")


@dataclass(frozen=True)
class AugmentConfig:
    """Say how training clips are varied and which part of the frame is seen in evaluation.

    Attributes:
        crop: `random` (area and aspect drawn anew), `corners` (multi-scale crops at the corners and the
            centre), or `none` (the evaluation view).
        scale_min: smallest share of the frame's area in a random crop.
        aspect_max: largest aspect ratio of a random crop, and the inverse of the smallest.
        flip: probability of a horizontal flip; 0 where left and right are what tells classes apart.
        brightness: RGB brightness is scaled by a factor from 1 - value to 1 + value.
        contrast: likewise contrast, around the clip's mean grey.
        saturation: likewise saturation, around each pixel's grey.
        view: part of the frame seen in evaluation: `centre` (largest central square) or `full` (the whole
            frame, squashed to the network's input).
        views: views of each evaluation clip whose predictions are averaged: 1, 2 (mirrored too) or 10 (centre and
            corners, each mirrored too).

    Example:
        >>> from twostream import AugmentConfig
        >>> AugmentConfig(flip=0).crop
        'random'
    """

    crop: Literal["random", "corners", "none"] = "random"
    scale_min: float = 0.4
    aspect_max: float = 4 / 3
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    view: View = "centre"
    views: Views = 1

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= 1 or self.aspect_max < 1:
            raise DataError(
                f"random crops need scale_min above 0 and up to 1 and aspect_max of at least 1: "
                f"got {self.scale_min:g} and {self.aspect_max:g}"
            )
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must be from 0 to 1, got {getattr(self, name):g}")


@dataclass(frozen=True)
class DataConfig:
    """Say which videos are used, how they are split, and what a clip is.

    Attributes:
        root: folder of the videos, by class or as the lists name them; null if only the flow cache is left.
        cache: folder of the flow cache made by `flow-cache precompute`.
        name: name of the data set in reports; empty for the name of the root folder.
        format: where the labels come from: class `folders`, `split_folders` (train|val|test/<class>/), the lists of
            `ucf`, `hmdb`, `jhmdb` (HMDB's lists), `kth` or `mmaction` (TSN's, too), a `csv`, or `auto` to tell
            from `lists` and folders.
        lists: folder of official split lists, KTH's sequences_list.txt, or a CSV table path,label[,group][,split];
            null for folders.
        groups: how a video's source is found: `auto` (for each file by its name), `ucf`, `kth`, `kinetics`, `hmdb`,
            `generic`, `video` (each is a recording of its own), several of these, separated by commas, or a pattern
            with one group. A video that nothing fits is refused.
        max_missing: largest share of the listed videos that may be missing on disk; what is missing is said, more is
            refused.
        split: how training, validation and test are made.
        steps: places in the video that a clip looks at (T).
        stack: consecutive flow fields at each place (L).
        sampling: where these places lie. `segments`: one in each of T equal parts of the video, in training anywhere in
            it (TSN). `uniform`: at equal distances over the whole video, in training all shifted alike. `dense`: in a
            window, `stride` fields apart (C3D, I3D), in training anywhere; K windows are spread over a test video.
        stride: fields from one place to the next in dense windows; 1 takes consecutive frames.
        size: network input in pixels: side of a square, or [width, height].
        rgb: what is different in the RGB stream's clips.
        flow: what is different in the flow stream's clips.
        augment: training augmentation and evaluation view.
        batch_size: clips in a batch of one device.
        balance: draw as many videos an epoch as there are, but of each class as many as of any other: some of a large
            class wait for another epoch, those of a small one are drawn again, as other clips.
        workers: loader processes of one device; -1 takes one per core, at most 8; 0 loads in the main
            process.
        eval_clips: clips of a test video whose predictions are averaged (K), each in `augment.views` views.
        protocol: how a test video is looked at, by the name that papers give it: clips x views, such as 1x1, 3x1, 10x1
            or 25x10. It decides over eval_clips and views, for both streams; null leaves it to them.
        feature_passes: passes over the training videos whose features are kept on disk where a CNN is frozen; epoch e
            sees pass e modulo this number. 0 computes them anew in every epoch.
        features: folder of these features; null for `features` in the flow cache.
        short_videos: what to do with videos of fewer than `stack` flow fields: `error` or `skip`.
        missing_videos: what to do with videos that the flow cache lacks: `error` or `skip`.

    Example:
        >>> from twostream import DataConfig, SplitConfig
        >>> config = DataConfig(root="videos", cache="cache/videos", split=SplitConfig(test_fraction=0.3))
        >>> config.shape
        ClipShape(steps=8, stack=5, sampling='segments', stride=1)
    """

    root: str | None = None
    cache: str | None = None
    name: str = ""
    format: AnnotationFormat = "auto"
    lists: str | None = None
    groups: str = "auto"
    max_missing: float = 0.05
    split: SplitConfig = field(default_factory=SplitConfig)
    steps: int = 8
    stack: int = 5
    sampling: Sampling = "segments"
    stride: int = 1
    size: int | tuple[int, int] = 112
    rgb: StreamClips = field(default_factory=StreamClips)
    flow: StreamClips = field(default_factory=StreamClips)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch_size: int = 16
    balance: bool = False
    workers: int = -1
    eval_clips: int = 3
    protocol: str | None = None
    feature_passes: int = 0
    features: str | None = None
    short_videos: Literal["error", "skip"] = "error"
    missing_videos: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "stack": 1,
            "stride": 1,
            "batch_size": 1,
            "workers": -1,
            "eval_clips": 1,
            "feature_passes": 0,
        }
        require_at_least(self, least, "data.", DataError)
        if not 0 <= self.max_missing <= 1:
            raise DataError(f"data.max_missing is a share: got {self.max_missing:g}, expected 0 to 1")
        if min(width_and_height(self.size)) < 16:
            raise DataError(f"data.size must be at least 16, got {self.size}")
        if self.protocol is not None:
            parse_protocol(self.protocol)
        most = max(self.views_of("rgb")[1], self.views_of("flow")[1])
        if most > 1 and self.augment.flip == 0:
            raise DataError(
                f"{most} evaluation views are mirrored ones too, but flip 0 says that left and right tell classes"
                " apart; give views 1"
            )

    def clips_of(self, stream: StreamName) -> tuple[ClipShape, tuple[int, int]]:
        """Return the steps and stack of a stream's clips, and the (width, height) of their frames."""
        own: StreamClips = getattr(self, stream)
        shape = ClipShape(own.steps or self.steps, self.stack, self.sampling, self.stride)
        return shape, width_and_height(own.size or self.size)

    def eval_clips_of(self, stream: StreamName) -> int:
        """Return how many evaluation clips (K) of a video a stream sees."""
        if self.protocol is not None:
            return parse_protocol(self.protocol)[0]
        own: StreamClips = getattr(self, stream)
        return own.eval_clips or self.eval_clips

    def views_of(self, stream: StreamName) -> tuple[View, Views]:
        """Return which part of the frame a stream sees in evaluation, and in how many views of each clip."""
        own: StreamClips = getattr(self, stream)
        views = own.views or self.augment.views if self.protocol is None else parse_protocol(self.protocol)[1]
        return own.view or self.augment.view, views

    @property
    def shape(self) -> ClipShape:
        """Return what a clip is as one value."""
        return ClipShape(self.steps, self.stack, self.sampling, self.stride)


def parse_protocol(text: str) -> tuple[int, Views]:
    """Read how a test video is looked at from the name that papers give it.

    Args:
        text: clips x views, such as "25x10".

    Raises:
        DataError: it is no such name.

    Example:
        >>> from twostream.data.settings import parse_protocol
        >>> parse_protocol("25x10")
        (25, 10)
    """
    clips, _, views = text.partition("x")
    if not (clips.isdecimal() and int(clips) > 0 and views.isdecimal() and int(views) in get_args(Views)):
        raise DataError(
            f"data.protocol is clips x views, such as 10x1, with 1, 2 or 10 views of each clip; got {text!r}"
        )
    return int(clips), cast(Views, int(views))
