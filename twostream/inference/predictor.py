"""One video in, classes and confidences out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flow_cache import (
    FlowMethod,
    FlowSettings,
    Frame,
    Framing,
    IndexEntry,
    RemotePath,
    VideoError,
    as_path,
    available_cores,
    local_copy,
)
from twostream.checkpoints import Checkpoint
from twostream.data.sampling import longest_run
from twostream.errors import DataError
from twostream.inference.clips import choose_device, evaluation_clips, predict_clips
from twostream.inference.fast import faster
from twostream.inference.footage import MOST_HELD, FlowRecipe, Footage, FrameStore, WholeVideo
from twostream.inference.settings import WindowSettings
from twostream.inference.windows import Decision, Summary, WindowClassifier
from twostream.settings import Damaged

Report = Callable[[Decision], None]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one video.

    Attributes:
        video: the file or folder of images; a URL is a `RemotePath`.
        probabilities: per output ("fused", "rgb", "flow") the probability of each class, (C,) float32.
        stream_weights: share of RGB and flow in the fusion, (2,) float32; None with one stream.
        partial: why only a part of the video was looked at; None if it was all.
        windows: how many windows it is the mean of; 0 for a video that was looked at whole.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from twostream import Prediction
        >>> prediction = Prediction(Path("a.avi"), {"flow": np.array([0.25, 0.75], np.float32)}, None)
        >>> prediction.decision.argmax()
        np.int64(1)
    """

    video: Path | RemotePath
    probabilities: dict[str, npt.NDArray[np.float32]]
    stream_weights: npt.NDArray[np.float32] | None
    partial: str | None = None
    windows: int = 0

    @property
    def decision(self) -> npt.NDArray[np.float32]:
        """The probabilities that decide: the fused ones, or the only stream's."""
        return next(iter(self.probabilities.values()))


class Drawing(Protocol):
    """What frames and decisions are drawn into while a video is looked at; see `AnnotatedVideo`."""

    @property
    def pending(self) -> Sized:
        """The frames that were taken and are not drawn yet."""
        ...

    def begin(self, footage: Footage, whole: Prediction | None) -> None:
        """Say which video comes, and what is said of it as a whole, where that is known before."""
        ...

    def take(self, frame: Frame) -> None:
        """Take the next frame."""
        ...

    def draw(self, store: FrameStore, decision: Decision | None) -> None:
        """Draw the frames that were taken, after a decision where there was one."""
        ...


class Predictor:
    """Classify videos as the checkpoint's evaluation would.

    Flow is computed with the settings of the training cache and rounded as its files are, so that a video gets the same
    answer here as in a report. Nothing is written to disk, but for the copy of a video at a URL while it is looked at.
    Long videos are looked at in windows (`twostream.inference.windows`). Memory does not depend on a video's length.

    Args:
        checkpoint: the trained model.
        device: of the network: "auto", "cpu", "cuda", …
        flow_device: where flow is computed: "cpu", "cuda", "cuda:1" or "auto".
        damaged: what is done with a damaged video, as in `PrecomputeConfig`; "fail" raises VideoError.
        windows: how long videos are cut, and how decisions are smoothed.
        fast: take the quickest flow that stands for the checkpoint's own, which changes answers a little.
        most_held: bytes of a video's frames that are kept in memory; a larger one is read again for what is needed.

    Attributes:
        flow: how flow is computed.
        length: frames of a window.

    Example:
        >>> from pathlib import Path
        >>> from twostream import Predictor, load_checkpoint
        >>> predictor = Predictor(load_checkpoint("runs/videos/checkpoints/best.ckpt"), device="cpu")
        >>> video = sorted(Path("videos").rglob("*.avi"))[0]
        >>> prediction = predictor(video)
        >>> prediction.decision.shape, round(float(prediction.stream_weights.sum()), 4)
        ((9,), 1.0)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        flow_device: str = FlowSettings.device,
        damaged: Damaged = "fail",
        windows: WindowSettings = WindowSettings(),  # noqa: B008 - a frozen value
        *,
        fast: bool = False,
        most_held: int = MOST_HELD,
    ) -> None:
        self.damaged = damaged
        self.card = checkpoint.card
        self.windows = windows
        self.model = checkpoint.model().to(choose_device(device))
        self.data = self.card.data_config()
        flow, self.storage = self.card.flow_settings()
        own = replace(flow, device=flow_device)
        self.flow = faster(own) if fast else own
        self.length = windows.length(self.data, self.model.names, own.step)
        self._most_held = most_held

    @functools.cached_property
    def estimator(self) -> FlowMethod:
        """The estimator of optical flow, made when the first video needs it."""
        estimator = self.flow.estimator(self.flow.device)
        estimator.threads = available_cores()
        return estimator

    @functools.cached_property
    def recipe(self) -> FlowRecipe:
        """How fields and RGB frames are made of frames."""
        return FlowRecipe(self.estimator, self.flow.bound, self.flow.step, self.storage)

    @property
    def framing(self) -> Framing:
        """How pictures become frames."""
        size = self.flow.size
        assert not isinstance(size, str)
        return Framing(self.flow.short_side, size, self.storage.rgb, self.storage.own_rgb_side)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of a prediction, first the one that decides."""
        return ("fused", *self.model.names) if len(self.model.names) > 1 else self.model.names

    def __call__(
        self,
        video: str | Path | RemotePath,
        report: Report | None = None,
        drawn: Drawing | None = None,
    ) -> Prediction:
        """Classify one video file or image folder, local or at a URL; its name may be any.

        Args:
            video: the file or folder.
            report: called with the decision of each window, as soon as it is made, if the video is looked at in
                windows.
            drawn: what to draw the decisions of all windows into, those of a video that is looked at whole, too.

        Raises:
            VideoError: cannot be read.
            DataError: too short for a clip.
        """
        video = as_path(video)
        if not video.exists():
            raise VideoError(video, "no such file or folder")
        with local_copy(video) as path:
            footage = Footage(path, self.framing, self.damaged)
            whole = WholeVideo(footage, self.recipe, self._most_held)
            entry = whole.scan(self.windows.longest_whole)
            if entry is None:
                return self._in_windows(video, footage, report, drawn)
            prediction = self._whole(video, footage.partial, whole, entry)
            if drawn is not None:
                drawn.begin(footage, prediction)
                for _ in self._decisions(footage, drawn):
                    pass
            return prediction

    def classifier(self) -> WindowClassifier:
        """Return what decides window by window, for frames as `framing` makes them."""
        return WindowClassifier(self.model, self.card, self.recipe, self.windows)

    def _whole(
        self, video: Path | RemotePath, partial: str | None, reader: WholeVideo, entry: IndexEntry
    ) -> Prediction:
        """Classify a video by clips from all of it."""
        if longest_run(entry.runs) < self.data.stack:
            parts = f" in {len(entry.runs)} parts" if len(entry.runs) > 1 else ""
            raise DataError(
                f"{video} has {entry.num_frames} frames{parts}, too few: this model looks at stacks of"
                f" {self.data.stack} flow fields, which need at least"
                f" {self.data.stack + self.flow.step} frames"
            )
        # No file is opened.
        batch = evaluation_clips(self.card, Path(), entry, lambda path: contextlib.nullcontext(reader))
        outputs = {name: values[0] for name, values in predict_clips(self.model, batch).items()}
        weights = outputs.pop("weights", None)
        return Prediction(video, outputs, weights, partial)

    def _decisions(self, footage: Footage, drawn: Drawing | None) -> Iterator[Decision]:
        """Read a video and decide window by window."""
        classifier = self.classifier()
        for frame in footage.frames():
            after_gap = bool(footage.gaps) and footage.gaps[-1] == frame.index
            if drawn is not None and after_gap:
                drawn.draw(classifier.store, None)
            decision = classifier.add(frame, after_gap=after_gap)
            if drawn is not None:
                drawn.take(frame)
                if decision is not None or len(drawn.pending) >= self.windows.every:
                    drawn.draw(classifier.store, decision)
            if decision is not None:
                yield decision
        if drawn is not None:
            drawn.draw(classifier.store, None)

    def _in_windows(
        self,
        video: Path | RemotePath,
        footage: Footage,
        report: Report | None,
        drawn: Drawing | None,
    ) -> Prediction:
        """Classify a video window by window."""
        summary = Summary()
        if drawn is not None:
            drawn.begin(footage, None)
        for decision in self._decisions(footage, drawn):
            summary.add(decision)
            if report is not None:
                report(decision)
        if not summary.count:
            raise DataError(
                f"{video} has no part of {self.length} frames without a gap, the length of a window; give a"
                " smaller --window"
            )
        weights = summary.stream_weights() if len(self.model.names) > 1 else None
        return Prediction(video, summary.probabilities(), weights, footage.partial, summary.count)
