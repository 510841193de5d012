"""The classes of one video in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twostream.checkpoints import load_checkpoint
from twostream.inference.prediction_file import best_classes
from twostream.inference.predictor import Predictor

if TYPE_CHECKING:
    from flow_cache import RemotePath


def predict(checkpoint: str | Path, video: str | Path | RemotePath, device: str = "auto") -> dict[str, float]:
    """Classify a video. For many, or for what each stream says, make a `Predictor` once.

    Args:
        checkpoint: what `load_checkpoint` takes: a checkpoint, the folder of a run, or exported weights.
        video: a file or a folder of images, local or at a URL.
        device: of the network: "auto", "cpu", "cuda", …

    Returns:
        The probability of every class by its name, the most probable first.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        VideoError: the video cannot be read.
        DataError: it is too short for a clip.

    Example:
        >>> from pathlib import Path
        >>> from twostream import predict
        >>> classes = predict("runs/videos", min(Path("videos").rglob("*.avi")))
        >>> len(classes), round(sum(classes.values()), 4), max(classes, key=classes.get) == next(iter(classes))
        (9, 1.0, True)
    """
    predictor = Predictor(load_checkpoint(checkpoint), device)
    classes = predictor.card.classes
    return dict(best_classes(predictor(video).decision, classes, len(classes)))
