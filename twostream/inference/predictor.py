"""One video in, classes and confidences out."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flow_cache import (
    FlowMethod,
    FlowSettings,
    Job,
    RemotePath,
    Source,
    StorageSettings,
    VideoError,
    as_path,
    cache_path,
    cache_video,
    read_index,
)
from twostream.checkpoints import Checkpoint
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import ClipDataset
from twostream.data.sampling import longest_run
from twostream.errors import DataError
from twostream.inference.clips import choose_device, predict_clips
from twostream.settings import Damaged

_ONLY_VIDEO = "video"  # what every video is called in its temporary cache


@dataclass(frozen=True)
class Prediction:
    """What a model says of one video.

    Attributes:
        video: the file or folder of images; a URL is a `RemotePath`.
        probabilities: per output ("fused", "rgb", "flow") the probability of each class, (C,) float32.
        stream_weights: share of RGB and flow in the fusion, (2,) float32; None with one stream.
        partial: why only a part of the video was looked at; None if it was all.

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

    @property
    def decision(self) -> npt.NDArray[np.float32]:
        """The probabilities that decide: the fused ones, or the only stream's."""
        return next(iter(self.probabilities.values()))


class Predictor:
    """Classify videos as the checkpoint's evaluation would.

    Flow and frames go through a cache file made with the settings of the training cache, so that a video gets the
    same answer here as in a report.

    Args:
        checkpoint: the trained model.
        device: of the network: "auto", "cpu", "cuda", …
        flow_device: where flow is computed: "cpu", "cuda", "cuda:1" or "auto".
        damaged: what is done with a damaged video, as in `PrecomputeConfig`; "fail" raises VideoError.

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
    ) -> None:
        self.damaged = damaged
        self.card = checkpoint.card
        self.model = checkpoint.model().to(choose_device(device))
        self.data = self.card.data_config()
        flow = dict(self.card.flow)
        storage = StorageSettings.from_dict(flow.pop("codec"))
        self.storage = replace(storage, rgb=storage.rgb and "rgb" in self.model.names)
        size = tuple(flow.pop("size") or ()) or None
        self.flow = FlowSettings(**flow, size=size, device=flow_device)

    @functools.cached_property
    def estimator(self) -> FlowMethod:
        """The estimator of optical flow, made when the first video needs it."""
        return self.flow.estimator(self.flow.device)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of a prediction, first the one that decides."""
        return ("fused", *self.model.names) if len(self.model.names) > 1 else self.model.names

    def __call__(self, video: str | Path | RemotePath) -> Prediction:
        """Classify one video file or image folder, local or at a URL; its name may be any.

        Raises:
            VideoError: cannot be read.
            DataError: too short for a clip.
        """
        video = as_path(video)
        if not video.exists():
            raise VideoError(video, "no such file or folder")
        with tempfile.TemporaryDirectory(prefix="twostream-") as folder:
            cache = Path(folder)
            meta = cache_video(self._job(video, cache), lambda fields: None, self.estimator)
            entry = read_index(cache)[0]
            if longest_run(entry.runs) < self.data.stack:
                parts = f" in {len(entry.runs)} parts" if len(entry.runs) > 1 else ""
                raise DataError(
                    f"{video} has {entry.num_frames} frames{parts}, too few: this model looks at stacks of"
                    f" {self.data.stack} flow fields, which need at least"
                    f" {self.data.stack + self.flow.step} frames"
                )
            clips = ClipDataset(
                [VideoRecord(entry.video, 0, "")],
                cache,
                {entry.video: entry},
                config=self.data,
                streams=self.model.names,
                motion=self.card.model.needs_motion,
                window=self.card.model.rgb_window,
                clips={name: self.data.eval_clips_of(name) for name in self.model.names},
            )
            item = clips[0]
        batch = {name: value[None] for name, value in item.items() if isinstance(value, torch.Tensor)}
        outputs = {name: values[0] for name, values in predict_clips(self.model, batch).items()}
        weights = outputs.pop("weights", None)
        return Prediction(video, outputs, weights, meta.partial)

    def _job(self, video: Path | RemotePath, cache: Path) -> Job:
        """Describe how to make the flow of a video with the settings of the training cache."""
        # Nobody sees the name of a temporary file, so it does not depend on the video's, which may be unfit for one.
        meta = replace(self.flow.template(self.storage, self.estimator), source=Source(_ONLY_VIDEO))
        return Job(video, cache_path(cache, _ONLY_VIDEO), meta, self.damaged)
