"""What an evaluation found, as values: the protocol it followed and the arrays it produced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from twostream.errors import DataError, one_line
from twostream.evaluation.late_fusion import WeightedFusion, fit_weighted, mean_rule, product_rule
from twostream.settings import STREAMS, require_at_least

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

OUTPUTS = ("fused", "rgb", "flow")
"""Names of the outputs a run can have, in the order in which reports list them."""

_SUM_TOLERANCE = 1e-2  # rows come from a softmax, perhaps in bfloat16, averaged over clips


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Say under which conditions figures were obtained; every report opens with its `line()`.

    Attributes:
        dataset: name of the data set.
        split: name of the split, in words ("split 1", "group-wise 70/15/15, seed 0").
        side: side of the split that was evaluated ("test", "validation").
        num_train: videos in the training side.
        num_videos: videos that were evaluated.
        clips_per_video: clips sampled from each video; their probabilities are averaged at video level.
        clips_by_stream: the same of each stream, where they differ; empty if they do not.
        sampling: how many clips and views of each these are, by stream, such as "10x2"; empty if unknown.
        level: "video" (one row a video) or "clip" (one row a clip).
        streams: names of the streams, of "rgb" and "flow".
        checkpoint: file name of the checkpoint.
        epoch: epoch the checkpoint was saved after, or None if unknown.
        flow: method, bound and step of the optical flow, in words; empty if no flow was used.
        groups: rule that tells which videos share a source, in words.
        seed: seed of the run.
        command: command that made the evaluation.
        notes: further remarks for the reader, a sentence each.
        num_validation: videos in the validation side, or None if unknown.
        seen: videos among the evaluated ones that the checkpoint was trained or validated on, under this name, another
            one or by other clips of their source; each with how it was found.

    Example:
        >>> from twostream import Protocol
        >>> protocol = Protocol(
        ...     dataset="films", split="split 1", side="test", num_train=90, num_videos=2, clips_per_video=1,
        ...     streams=("rgb",), checkpoint="best.ckpt", epoch=4, flow="", groups="every film", seed=0, command="",
        ... )
        >>> protocol.line().partition("; ")[0]
        'Protocol: data set films'
    """

    dataset: str
    split: str
    side: str
    num_train: int
    num_videos: int
    clips_per_video: int
    clips_by_stream: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    level: str = "video"
    streams: tuple[str, ...]
    checkpoint: str
    epoch: int | None
    flow: str
    groups: str
    seed: int
    command: str
    notes: tuple[str, ...] = ()
    num_validation: int | None = None
    seen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            DataError: level or streams have an unknown value, or a count is below what it can be.
        """
        if self.level not in ("video", "clip"):
            raise DataError(f"Protocol.level: expected 'video' or 'clip', got {self.level!r}")
        if not self.streams or not set(self.streams) <= set(STREAMS):
            raise DataError(f"Protocol.streams: expected 'rgb', 'flow' or both, got {self.streams!r}")
        least = {"num_train": 0, "num_videos": 1, "clips_per_video": 1}
        if self.num_validation is not None:
            least["num_validation"] = 0
        require_at_least(self, least, "Protocol.", DataError)

    def line(self) -> str:
        """Return the protocol in one line of plain text.

        Returns:
            Text without line breaks: data set, split, sizes, clips, level, streams, checkpoint, flow, groups.
        """
        clips = f"{self.clips_per_video} clip{'s' if self.clips_per_video != 1 else ''} per video"
        if len(set(self.sampling.values())) == 1:
            clips += f" ({next(iter(self.sampling.values()))}: clips x views)"
        elif self.sampling:
            clips += (
                f" (clips x views: {', '.join(f'{name} {text}' for name, text in self.sampling.items())})"
            )
        elif len(set(self.clips_by_stream.values())) > 1:
            clips += f" ({', '.join(f'{name} {count}' for name, count in self.clips_by_stream.items())})"
        averaged = ", probabilities averaged" if self.level == "video" and self.clips_per_video > 1 else ""
        streams = " + ".join(self.streams) + (" fused" if len(self.streams) > 1 else " alone")
        epoch = "" if self.epoch is None else f" (epoch {self.epoch})"
        parts = [
            f"data set {self.dataset}",
            f"split {self.split.removeprefix('split ')}",
            f"{self.side} side of {self.num_videos} videos (trained on {self.num_train})",
            *([f"{len(self.seen)} of them SEEN in training or validation"] if self.seen else []),
            f"{clips}{averaged}",
            f"{self.level} level",
            f"streams {streams}",
            f"checkpoint {self.checkpoint}{epoch}",
        ]
        if self.flow:
            parts.append(f"flow {self.flow}")
        if self.groups:
            parts.append(f"groups {self.groups}")
        parts.append(f"seed {self.seed}")
        return one_line(f"Protocol: {'; '.join(parts)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Hold the predictions of one checkpoint on one side of a split.

    Rows are videos (or clips, where the protocol's level is "clip"); N rows, C classes.

    Attributes:
        protocol: conditions of the evaluation.
        classes: names of the C classes, unique; may include classes without a row.
        videos: N names, relative posix paths; unique at video level.
        groups: N names of the source group (film, camera, person) of each row.
        labels: (N,) int64, true class of each row, in [0, C).
        probabilities: output name ("fused", "rgb", "flow") to (N, C) float32 rows that sum to 1.
        stream_weights: (N, 2) float32, the fusion's weights of RGB and flow, non-negative, or None.
        shared_source: (N,) bool, True where clips of the row's source, of other classes, are in the
            training side too; None where that is not known.
        validation_labels: (M,) int64, true class of each video of the validation side, on which the baseline "weighted"
            is fitted; None where that side was not predicted.
        validation_probabilities: output name to (M, C) float32, as `probabilities`, of the validation side; given if
            and only if `validation_labels` is.

    Example:
        >>> import numpy as np
        >>> from twostream import Evaluation, Protocol
        >>> protocol = Protocol(
        ...     dataset="films", split="split 1", side="test", num_train=90, num_videos=2, clips_per_video=1,
        ...     streams=("rgb",), checkpoint="best.ckpt", epoch=4, flow="", groups="every film", seed=0, command="",
        ... )
        >>> evaluation = Evaluation(
        ...     protocol=protocol, classes=("run", "sit"), videos=("a.avi", "b.avi"), groups=("a", "b"),
        ...     labels=np.array([0, 1]), probabilities={"rgb": np.array([[0.9, 0.1], [0.7, 0.3]])},
        ... )
        >>> evaluation.predictions()
        array([0, 0])
    """

    protocol: Protocol
    classes: tuple[str, ...]
    videos: tuple[str, ...]
    groups: tuple[str, ...]
    labels: IntArray
    probabilities: Mapping[str, FloatArray]
    stream_weights: FloatArray | None = None
    shared_source: BoolArray | None = None
    validation_labels: IntArray | None = None
    validation_probabilities: Mapping[str, FloatArray] | None = None

    def __post_init__(self) -> None:
        """Bring arrays to their dtype and check shapes and values.

        Raises:
            DataError: a shape, a label, a probability or an output name is not as documented above.
        """
        n, c = len(self.videos), len(self.classes)
        if n == 0:
            raise DataError("Evaluation: expected at least one video, got none")
        if c < 2 or len(set(self.classes)) != c:
            raise DataError(f"Evaluation.classes: expected two or more unique names, got {self.classes!r}")
        if self.protocol.level == "video":
            _expect_shape("videos, as protocol.num_videos", (n,), (self.protocol.num_videos,))
            if len(set(self.videos)) != n:
                raise DataError("Evaluation.videos: expected each video once at video level, got duplicates")
        _expect_shape("groups", (len(self.groups),), (n,))
        self._set("labels", _checked_labels("labels", self.labels, n, c))
        self._set("probabilities", _checked_probabilities("probabilities", self.probabilities, n, c))
        if self.stream_weights is not None:
            weights = np.asarray(self.stream_weights, dtype=np.float32)
            _expect_shape("stream_weights", weights.shape, (n, 2))
            if not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise DataError(
                    "Evaluation.stream_weights: expected finite values of at least 0, got NaN, inf or less"
                )
            self._set("stream_weights", weights)
        if self.shared_source is not None:
            shared = np.asarray(self.shared_source)
            _expect_shape("shared_source", shared.shape, (n,))
            self._set("shared_source", shared.astype(np.bool_))
        self._check_validation(c)

    @property
    def decision(self) -> str:
        """Name the output that decides: "fused" if there is one, else the only stream."""
        return next(iter(self.probabilities))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Name the outputs, the deciding one first."""
        return tuple(self.probabilities)

    @property
    def streams(self) -> tuple[str, ...]:
        """Name the outputs that are single streams."""
        return tuple(name for name in self.probabilities if name != "fused")

    def predictions(self, output: str | None = None) -> IntArray:
        """Return the most probable class of each row.

        Args:
            output: name of the output; None for the deciding one.

        Returns:
            (N,) int64, the lowest index where probabilities tie.
        """
        return np.asarray(self.probabilities[output or self.decision].argmax(axis=1), dtype=np.int64)

    @cached_property
    def weighted_fusion(self) -> WeightedFusion | None:
        """Return what the baseline "weighted" is, fitted on the validation side; None without predictions of it."""
        labels, streams = self.validation_labels, self.validation_probabilities
        if labels is None or streams is None or "fused" not in streams:
            return None
        return fit_weighted(labels, streams["rgb"], streams["flow"])

    def baselines(self) -> dict[str, FloatArray]:
        """Fuse the probabilities of the two streams by the simple rules that a learned fusion has to beat.

        Returns:
            "product", "mean" and, where the validation side was predicted, "weighted", each (N, C) float32 with rows
            that sum to 1; nothing for a single stream.
        """
        if "fused" not in self.probabilities:
            return {}
        rgb, flow = self.probabilities["rgb"], self.probabilities["flow"]
        fused = {"product": product_rule(rgb, flow), "mean": mean_rule(rgb, flow)}
        if self.weighted_fusion is not None:
            fused["weighted"] = self.weighted_fusion(rgb, flow)
        return fused

    def _check_validation(self, c: int) -> None:
        labels, probabilities = self.validation_labels, self.validation_probabilities
        if (labels is None) != (probabilities is None):
            raise DataError(
                "Evaluation.validation_labels and validation_probabilities: expected both or neither, got one; "
                "pass both"
            )
        if labels is None or probabilities is None:
            return
        m = len(labels)
        if m == 0:
            raise DataError("Evaluation.validation_labels: expected at least one video, got none; pass None")
        if set(probabilities) != set(self.probabilities):
            raise DataError(
                f"Evaluation.validation_probabilities: expected the outputs {sorted(self.probabilities)}, "
                f"got {sorted(probabilities)}"
            )
        if self.protocol.num_validation is not None:
            expected = (self.protocol.num_validation,)
            _expect_shape("validation_labels, as protocol.num_validation", (m,), expected)
        self._set("validation_labels", _checked_labels("validation_labels", labels, m, c))
        checked = _checked_probabilities("validation_probabilities", probabilities, m, c)
        self._set("validation_probabilities", checked)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; __post_init__ normalises once


def _checked_labels(name: str, values: IntArray, n: int, c: int) -> IntArray:
    labels = np.asarray(values)
    _expect_shape(name, labels.shape, (n,))
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"Evaluation.{name}: expected int64, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= c:
        raise DataError(
            f"Evaluation.{name}: expected values in [0, {c}), got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def _checked_probabilities(
    field: str, outputs: Mapping[str, FloatArray], n: int, c: int
) -> dict[str, FloatArray]:
    names = set(outputs)
    if names not in ({"rgb"}, {"flow"}, set(OUTPUTS)):
        raise DataError(
            f"Evaluation.{field}: expected 'rgb' or 'flow' alone, or 'fused', 'rgb' and 'flow'; "
            f"got {sorted(names)}"
        )
    checked: dict[str, FloatArray] = {}
    for name in (output for output in OUTPUTS if output in names):
        values = np.asarray(outputs[name], dtype=np.float32)
        _expect_shape(f"{field}[{name!r}]", values.shape, (n, c))
        if not np.isfinite(values).all():
            raise DataError(f"Evaluation.{field}[{name!r}]: expected finite values, got NaN or inf")
        worst = float(np.abs(values.sum(axis=1) - 1).max())
        if values.min() < 0 or worst > _SUM_TOLERANCE:
            raise DataError(
                f"Evaluation.{field}[{name!r}]: expected rows of at least 0 that sum to 1, got a "
                f"least value of {values.min():.3g} and a sum off by {worst:.3g}; pass softmax outputs"
            )
        checked[name] = values
    return checked


def _expect_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise DataError(f"Evaluation.{name}: expected shape {expected}, got {got}")
