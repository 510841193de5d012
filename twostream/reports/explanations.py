"""Leave a picture and a video of every prediction in a folder, which show why it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flow_cache import RemotePath
from twostream.errors import ConfigError
from twostream.files import replacing
from twostream.inference.cached_video import cached_video
from twostream.inference.explanation import explain
from twostream.inference.predictor import Prediction, Predictor
from twostream.reports.explanation_plots import plot_explanation
from twostream.reports.explanation_video import write_explanation_video


class Explanations:
    """Write `NAME.png` and `NAME.mp4` for each prediction.

    Flow is computed once more for them, into a temporary cache.

    Args:
        predictor: that makes the predictions.
        folder: made if missing.
        videos: all that are going to be predicted, also in other runs of the same command: where two have one name,
            the folders that tell them apart come before it.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, predictor: Predictor, folder: Path, videos: Sequence[Path | RemotePath]) -> None:
        self.predictor = predictor
        self.folder = folder
        self._names = dict(zip(map(str, videos), distinct_names(videos), strict=True))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror}); give another folder") from error

    def add(self, prediction: Prediction) -> list[Path]:
        """Explain a prediction; returns the files.

        Raises:
            VideoError: the video cannot be read any more.
        """
        name = self._names[str(prediction.video)]
        picture, video = (self.folder / f"{name}.{suffix}" for suffix in ("png", "mp4"))
        with cached_video(self.predictor, prediction.video) as cached:
            explanation = explain(self.predictor, cached, prediction)
            with replacing(picture) as partial:
                plot_explanation(explanation, partial)
            write_explanation_video(explanation, cached, video)
        return [picture, video]


def distinct_names(videos: Sequence[Path | RemotePath]) -> list[str]:
    """Name files after videos: by their own name, or as many of the folders before it as tell all apart.

    Example:
        >>> from pathlib import Path
        >>> distinct_names([Path("run/a.avi"), Path("jump/a.avi")])
        ['run_a.avi', 'jump_a.avi']
    """
    parts = [[part.strip("/\\:") for part in video.parts] for video in videos]
    names: list[str] = []
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(filter(None, each[-count:])) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}_{name}" for number, name in enumerate(names, 1)]
