"""Play a video with its explanation: frame and flow side by side, dark where nothing speaks for the answer.

Below them the weights of the steps over time, with a line that follows the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from twostream.data.transforms import View
from twostream.inference.cached_video import CachedVideo
from twostream.inference.explanation import Explanation
from twostream.inference.playback import play
from twostream.inference.video_file import write_video
from twostream.reports.explanation_plots import answer
from twostream.reports.outputs import COLOURS, NAMES
from twostream.reports.plots import despine, short_name
from twostream.reports.shading import shade
from twostream.settings import STREAMS, StreamName

Picture = npt.NDArray[np.uint8]

USUAL_FPS = 25.0
"""Frames per second of a video that does not say."""

_AREA = 76_800  # pixels of the frame and of its flow, those of 320x240
_LONGEST = 640  # pixels of a side, for frames that are very wide or high
_LEAST_WIDTH = 480  # pixels that the text needs
_DPI = 100
_GAP, _HEADER, _TITLES, _STEPS, _FOOTER = 8, 52, 20, 62, 34  # pixels
_LEFT = 60  # pixels that the weights' labels take


def write_explanation_video(explanation: Explanation, cached: CachedVideo, path: Path) -> None:
    """Write an explanation as a video (MP4, H.264) of as many frames as the explained one has.

    The heat of a frame between two steps lies between theirs. The whole frame is shown; what a stream does not see
    is dark.

    Args:
        explanation: of the video.
        cached: the video, from `cached_video`, still open.
        path: MP4 to write.
    """
    write_video(draw_frames(explanation, cached), explanation.fps or USUAL_FPS, path)


def draw_frames(explanation: Explanation, cached: CachedVideo) -> Iterator[Picture]:
    """Draw the explanation's frames, (H, W, 3) uint8 RGB each, H and W even."""
    sheet = _draw_sheet(explanation, cached.entry.width, cached.entry.height)
    fields = (cached.entry.height, cached.entry.width)
    for frame in play(cached):
        picture = sheet.background.copy()
        images: dict[StreamName, Picture] = {"rgb": frame.rgb, "flow": frame.flow}
        for name, image in images.items():
            sized = cv2.resize(image, sheet.size, interpolation=cv2.INTER_AREA)
            x, y = sheet.corners[name]
            look = explanation.looks.get(name)
            if look is not None and look.heat is not None:
                heat = heat_at(look.heat, explanation.frames[name], frame.index)
                whole = _on_whole_frame(heat, explanation.views[name], fields, sheet.size)
                sized = shade(sized, whole, float(look.heat.max()))
            picture[y : y + sheet.size[1], x : x + sheet.size[0]] = sized
        for top, bottom, first, last in sheet.axes:
            x = round(first + (last - first) * (frame.index + 0.5) / explanation.num_frames)
            picture[top:bottom, x : x + 2] = 0
        yield picture


def heat_at(
    heat: npt.NDArray[np.float32], frames: npt.NDArray[np.int64], index: int
) -> npt.NDArray[np.float32]:
    """Interpolate heat (T, h, w), known at n <= T frames in ascending order, to one frame: (h, w) float32."""
    later = int(np.searchsorted(frames, index))
    before, after = max(later - 1, 0), min(later, len(frames) - 1)
    distance = int(frames[after] - frames[before])
    share = (index - int(frames[before])) / distance if distance else 0.0
    return np.asarray((1 - share) * heat[before] + share * heat[after], np.float32)


def _on_whole_frame(
    heat: npt.NDArray[np.float32], view: View, fields: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Lay the heat of a view over the frame (W, H) that it was cut from; zero around it."""
    width, height = size
    down, right = height / fields[0], width / fields[1]
    top, left = round(view.top * down), round(view.left * right)
    bottom, end = round((view.top + view.height) * down), round((view.left + view.width) * right)
    whole = np.zeros((height, width), np.float32)
    whole[top:bottom, left:end] = cv2.resize(heat, (end - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    return whole


@dataclass(frozen=True)
class _Sheet:
    """What is the same in all frames, and where the rest goes.

    Attributes:
        background: (H, W, 3) uint8 RGB.
        size: (width, height) of frame and flow.
        corners: (x, y) of frame and flow.
        axes: top, bottom, left and right of each row of weights.
    """

    background: Picture
    size: tuple[int, int]
    corners: dict[str, tuple[int, int]]
    axes: list[tuple[int, int, int, int]]


def _draw_sheet(explanation: Explanation, width: int, height: int) -> _Sheet:
    size = _shown_size(width, height)
    total = max(2 * size[0] + 3 * _GAP, _LEAST_WIDTH)
    names = list(explanation.looks)
    top = _HEADER + _TITLES
    tall = top + size[1] + _GAP + len(names) * _STEPS + _FOOTER
    tall += tall % 2
    side = (total - 2 * size[0]) // 3
    corners = {"rgb": (side, top), "flow": (total - side - size[0], top)}
    figure = Figure(figsize=(total / _DPI, tall / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, points: float, colour: str = "black") -> None:
        figure.text(x / total, 1 - y / tall, text, fontsize=points, va="center", color=colour)

    longest = total // 8
    write(_GAP, 15, short_name(explanation.prediction.video.name, longest), 9)
    outputs = ",   ".join(answer(explanation, output) for output in explanation.prediction.probabilities)
    write(_GAP, 37, outputs, 8)
    for name in STREAMS:
        x, y = corners[name]
        seen = "" if name in explanation.looks else " (no stream looks at it)"
        write(x, y - 10, f"{NAMES[name]}{seen}", 8, COLOURS[name])
    rows = []
    for number, name in enumerate(names):
        first = top + size[1] + _GAP + number * _STEPS
        axes = figure.add_axes(
            (_LEFT / total, 1 - (first + _STEPS - 6) / tall, 1 - (_LEFT + _GAP) / total, (_STEPS - 16) / tall)
        )
        _draw_weights(axes, explanation, name, last=number == len(names) - 1)
        rows.append((first + 10, first + _STEPS - 6, _LEFT, total - _GAP - 2))
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    background = np.ascontiguousarray(pixels[..., :3])
    return _Sheet(background, size, corners, rows)


def _draw_weights(axes: Axes, explanation: Explanation, name: StreamName, last: bool) -> None:
    """Draw the weight of each step at its time, as wide as the part of the video that it stands for."""
    frames, fps = explanation.frames[name], explanation.fps or USUAL_FPS
    middles = (frames[1:] + frames[:-1] + 1) / 2
    edges = np.concatenate([[0], middles, [explanation.num_frames]]) / fps
    weights = explanation.looks[name].steps[: len(frames)]
    axes.bar(
        edges[:-1],
        weights,
        np.diff(edges),
        align="edge",
        color=COLOURS[name],
        edgecolor="white",
        linewidth=0.8,
    )
    axes.set_xlim(0, explanation.num_frames / fps)
    axes.set_ylim(0, max(float(weights.max()) * 1.1, 1e-6))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.locator_params(axis="y", nbins=2)
    axes.tick_params(labelsize=7, length=2)
    despine(axes)
    if last:
        axes.set_xlabel("weight of the steps over time (s)", fontsize=7.5, labelpad=2)
    else:
        axes.set_xticklabels([])


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """Return the (width, height) that frames are shown in, even, of about the same area for every video."""
    scale = min((_AREA / (width * height)) ** 0.5, _LONGEST / max(width, height))
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))
