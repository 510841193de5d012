"""A video with what a model says of it: label, confidence, flow, attention over time and a timeline of classes.

    ┌───────────────────────┬──────────┐
    │ label, confidence     │ flow     │
    │                       ├──────────┤
    │ picture               │ attention│
    ├───────────────────────┴──────────┤
    │ timeline: a column a decision    │
    └──────────────────────────────────┘

Frames are drawn and written in the order in which they come, a few at a time: memory does not depend on the length.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_cache import Frame, dequantize, flow_colours, probe_fps
from twostream.inference.footage import Footage, FrameStore
from twostream.inference.prediction_file import best_classes
from twostream.inference.video_file import VideoWriter
from twostream.inference.windows import Attention, Decision

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from twostream.inference.predictor import Prediction

Image = NDArray[np.uint8]
_HEIGHT, _PANEL, _STRIP, _HEAD = 360, 260, 92, 54  # pixels
_COLUMN = 4  # pixels of a decision in the timeline
_WHITE, _DIM, _DARK = (245, 245, 245), (160, 160, 160), (24, 24, 24)
_STREAMS = {
    "rgb": (86, 180, 233),
    "flow": (230, 120, 30),
}  # blue and orange as in every picture, lighter on black
# The colours of matplotlib's tab20, the strong ones first; classes beyond repeat them.
_CLASSES = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (127, 127, 127), (188, 189, 34), (23, 190, 207), (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150),
    (197, 176, 213), (196, 156, 148), (247, 182, 210), (199, 199, 199), (219, 219, 141), (158, 218, 229),
)  # fmt: skip


class AnnotatedVideo:
    """Write a video with what is decided while it is looked at.

    Args:
        path: the file to write, MPEG-4 with H.264.
        classes: names of the classes.

    Attributes:
        pending: frames that were taken and are not drawn yet.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._video = VideoWriter(path)
        self._images: Iterator[Frame] = iter(())
        self.pending: list[tuple[Frame, Image]] = []
        self._whole: Prediction | None = None
        self._last: Decision | None = None
        self._timeline: list[tuple[int, float]] = []  # class and confidence of the newest decisions

    def begin(self, footage: Footage, whole: Prediction | None) -> None:
        """Say which video comes, and what is said of it as a whole, where that is known before."""
        if not footage.path.is_dir():
            self._video.fps = probe_fps(footage.path) or self._video.fps
        self._images = footage.display(_HEIGHT)
        self._whole = whole

    def take(self, frame: Frame) -> None:
        """Take a frame; its picture is read from the video."""
        picture = next(self._images).rgb
        assert picture is not None
        self.pending.append((frame, picture))

    def draw(self, store: FrameStore, decision: Decision | None) -> None:
        """Draw the frames that were taken, after a decision where there was one."""
        if decision is not None:
            self._last = decision
            best = int(decision.smoothed.argmax())
            self._timeline.append((best, float(decision.smoothed[best])))
            del self._timeline[: -(1 << 10)]
        step = store.recipe.step
        numbers = [frame.index - step for frame, _ in self.pending if store.has(frame.index - step)]
        fields = dict(zip(numbers, store.flow(numbers), strict=True)) if numbers else {}
        for frame, picture in self.pending:
            field = fields.get(frame.index - step)
            canvas = self._draw(picture, field, store.recipe.bound)
            self._video.write(canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2])
        self.pending.clear()

    def _draw(self, picture: Image, field: Image | None, bound: float) -> Image:
        """Draw one picture, (H, W, 3) uint8 RGB."""
        height, width = picture.shape[:2]
        canvas = np.full((height + _STRIP, width + _PANEL, 3), _DARK, np.uint8)
        canvas[:height, :width] = picture
        head = canvas[:_HEAD, :width]
        head[:] = head // 3
        below = 24
        if field is not None:
            flow = dequantize(field[None], bound)[0]
            fastest = max(float(np.hypot(*flow).max()), 1.0)
            inner = _PANEL - 16
            size = (inner, min(round(inner * field.shape[1] / field.shape[2]), height - 150))
            coloured = cv2.resize(flow_colours(flow, fastest), size, interpolation=cv2.INTER_LINEAR)
            canvas[below : below + size[1], width + 8 : width + 8 + inner] = coloured
            below += size[1]
        texts: list[tuple[tuple[int, int], str, tuple[int, int, int], int]] = []
        texts.append(((width + 8, 4), "flow", _STREAMS["flow"], 14))
        texts += self._label(width)
        if self._last is not None:
            texts += _attention(canvas, self._last.attention, below + 8, width + 8, self._last)
        texts += self._strip(canvas, height)
        return _write_texts(canvas, texts)

    def _label(self, width: int) -> list[tuple[tuple[int, int], str, tuple[int, int, int], int]]:
        """Return the texts over the picture."""
        if self._whole is not None:
            shares = self._whole.decision
        elif self._last is not None:
            shares = self._last.smoothed
        else:
            return [((8, 8), "…", _DIM, 20)]
        first, *others = (f"{name} {100 * p:.0f} %" for name, p in best_classes(shares, self._classes, 3))
        return [
            ((8, 4), _fit(first, 20, width - 16), _WHITE, 20),
            ((8, 32), _fit("  ".join(others), 14, width - 16), _DIM, 14),
        ]

    def _strip(self, canvas: Image, top: int) -> list[tuple[tuple[int, int], str, tuple[int, int, int], int]]:
        """Draw the timeline; returns its texts."""
        width = canvas.shape[1]
        shown = self._timeline[-((width - 16) // _COLUMN) :]
        low, tall = top + _STRIP - 24, _STRIP - 34
        cv2.line(canvas, (8, low), (width - 8, low), _DIM, 1)
        texts = []
        for n, (label, share) in enumerate(shown):
            x, colour = 8 + n * _COLUMN, _CLASSES[label % len(_CLASSES)]
            cv2.rectangle(canvas, (x, low - round(tall * share)), (x + _COLUMN - 1, low - 1), colour, -1)
            if n == 0 or shown[n - 1][0] != label:
                run = next((k for k in range(n, len(shown)) if shown[k][0] != label), len(shown)) - n
                room = (
                    run * _COLUMN - 2 if n + run < len(shown) else width - 8 - x
                )  # nothing follows the last one
                name = _fit(self._classes[label], 13, room)
                texts.append(((x, low + 4), name, colour, 13))
        if not shown:
            texts.append(((8, low + 4), "no window yet", _DIM, 13))
        return texts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the file."""
        self._video.__exit__(kind, error, trace)


def _attention(
    canvas: Image, attention: dict[Any, Attention], top: int, left: int, decision: Decision
) -> list[tuple[tuple[int, int], str, tuple[int, int, int], int]]:
    """Draw a bar for each place that a stream looked at, the streams one below the other; returns the texts."""
    texts = []
    inner, tall = _PANEL - 16, 36
    length = max(decision.last - decision.first, 1)
    for name, (frames, weights) in attention.items():
        if top + 18 + tall > canvas.shape[0] - _STRIP:
            break
        texts.append(((left, top), f"attention of {name} over the window", _STREAMS[name], 13))
        low = top + 18 + tall
        cv2.line(canvas, (left, low), (left + inner, low), _DIM, 1)
        for frame, weight in zip(frames.tolist(), (weights / weights.max()).tolist(), strict=True):
            x = left + round((inner - 4) * (frame - decision.first) / length)
            cv2.rectangle(
                canvas, (x, low - max(round(tall * weight), 1)), (x + 3, low - 1), _STREAMS[name], -1
            )
        top = low + 6
    return texts


@functools.cache
def _font(size: int) -> FreeTypeFont:
    """Return a font with letters of many languages, which comes with matplotlib."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


@functools.lru_cache(maxsize=4096)
def _fit(text: str, size: int, width: int) -> str:
    """Shorten a text to a width in pixels; nothing is left where not even a letter fits."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def _write_texts(
    canvas: Image, texts: Sequence[tuple[tuple[int, int], str, tuple[int, int, int], int]]
) -> Image:
    """Write texts: place, words, colour, size."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    picture = Pictures.fromarray(canvas)
    drawing = ImageDraw.Draw(picture)
    for place, text, colour, size in texts:
        if text:
            drawing.text(place, text, fill=colour, font=_font(size))
    return np.asarray(picture)
