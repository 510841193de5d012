"""Write short videos in many encodings, containers and shapes, with PyAV alone. The same picture moves in all of them.

Each encoding is a function that writes one file. Those that a build of PyAV cannot write are passed over by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from flow_cache.runtime import opencv

Image = NDArray[np.uint8]
Write = Callable[[Path], None]
RATE = 25


@dataclass(frozen=True)
class Encoding:
    """A video to be written.

    Attributes:
        codec: name of the encoder.
        suffix: of the file, which chooses the container.
        pixels: pixel format.
        size: width and height.
        frames: number of frames.
        b_frames: most B-frames between two others.
        options: of the encoder.
        container: options of the container.
        set_up: changes the stream before its first frame.
        times: time of each frame in 1/25 s.
        bare: the format's name, where the suffix does not choose it.
    """

    codec: str
    suffix: str
    pixels: str = "yuv420p"
    size: tuple[int, int] = (96, 64)
    frames: int = 12
    b_frames: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, str] = field(default_factory=dict)
    set_up: Callable[[Any], None] = lambda stream: None
    times: Callable[[int], int] = int
    bare: str | None = None

    def __call__(self, path: Path) -> None:
        """Write it."""
        with av.open(str(path), "w", format=self.bare, options=dict(self.container)) as container:
            fill(container, self.stream(container), self.frames, self.times)

    def stream(self, container: Any) -> Any:
        """Add its stream to a file that is being written."""
        stream = container.add_stream(self.codec, rate=RATE)
        stream.width, stream.height = self.size
        stream.pix_fmt = self.pixels
        context = stream.codec_context
        context.gop_size = 5
        context.max_b_frames = self.b_frames
        context.thread_count = 1
        stream.options = {**_OPTIONS.get(self.codec, {}), **self.options}
        self.set_up(stream)
        return stream


_OPTIONS = {
    "libx264": {"preset": "veryfast", "x264-params": "scenecut=0:threads=1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "snow": {"strict": "-2"},
}


def pictures(count: int, width: int, height: int, seed: int = 0) -> Iterator[Image]:
    """Yield a coloured texture that moves: (H, W, 3) uint8 RGB."""
    cv2 = opencv()
    noise = np.random.default_rng(seed).normal(size=(height + 2 * count, width + 2 * count, 3))
    smooth = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3)
    texture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for t in range(count):
        yield np.ascontiguousarray(texture[t : t + height, 2 * t : 2 * t + width])


def fill(container: Any, stream: Any, count: int, times: Callable[[int], int] = int, seed: int = 0) -> None:
    """Encode pictures into a file."""
    for index, picture in enumerate(pictures(count, stream.width, stream.height, seed)):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = times(index), Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _h264(suffix: str = "mp4", **changes: Any) -> Encoding:
    return Encoding("libx264", suffix, **changes)


def _x264(parameters: str) -> dict[str, str]:
    return {"x264-params": f"scenecut=0:threads=1:{parameters}"}


def _turned(degrees: float, *, hflip: bool = False, vflip: bool = False) -> Encoding:
    return _h264(set_up=lambda stream: stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip))


def _aspect(suffix: str, numerator: int, denominator: int, codec: str = "libx264") -> Encoding:
    def set_up(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(numerator, denominator)

    return Encoding(codec, suffix, set_up=set_up)


def _coloured(pixels: str, colorspace: int, color_range: int, codec: str = "libx264") -> Encoding:
    def set_up(stream: Any) -> None:
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range

    return Encoding(codec, "mp4", pixels, set_up=set_up)


def _sound(container: Any, seconds: float) -> None:
    """Write silence."""
    stream = container.add_stream("aac", rate=44100)
    for _ in range(int(seconds * 44100 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _long_still(path: Path) -> None:
    """Two minutes between two pictures, with more than 4,096 packets of sound."""
    with av.open(str(path), "w") as container:
        stream = _h264().stream(container)
        _sound(container, 120)
        fill(container, stream, 12, lambda index: index if index < 6 else 120 * RATE + index)


def _with_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = _h264(b_frames=2).stream(container)
        _sound(container, 0.5)
        fill(container, stream, 12)


def _with_cover(path: Path) -> None:
    with av.open(str(path), "w") as container:
        cover = Encoding("mjpeg", "mp4", "yuvj420p", (320, 240)).stream(container)
        cover.disposition = Disposition.attached_pic
        stream = _h264().stream(container)
        frame = av.VideoFrame.from_ndarray(next(pictures(1, 320, 240)), "rgb24")
        container.mux([*cover.encode(frame), *cover.encode(None)])
        fill(container, stream, 12)


def _two_streams(main: int) -> Write:
    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            streams = [Encoding("mpeg4", "mkv", size=size).stream(container) for size in ((64, 48), (96, 64))]
            streams[main].disposition = Disposition.default
            streams[1 - main].disposition = Disposition(0)
            for seed, stream in enumerate(streams):
                fill(container, stream, 8, seed=seed)

    return write


def _two_sizes(path: Path) -> None:
    """Two transport streams joined."""
    parts = []
    for size in ((96, 64), (64, 128)):
        _h264(size=size)(path)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))


def _joined(path: Path) -> None:
    _h264()(path)
    path.write_bytes(2 * path.read_bytes())


def _copied(
    source: Encoding,
    shift: int = 0,
    skip: int = 0,
    container: Mapping[str, str] | None = None,
    decoding_order: bool = False,
) -> Write:
    """Write an encoding and copy its packets to another file, from one of them on, with other times."""

    def write(path: Path) -> None:
        whole = path.with_name(f"whole of {path.stem}.{source.suffix}")
        source(whole)
        with av.open(str(whole)) as given, av.open(str(path), "w", options=dict(container or {})) as copy:
            stream = copy.add_stream_from_template(given.streams.video[0])
            for number, packet in enumerate(given.demux(video=0)):
                if packet.size == 0 or number < skip:
                    continue
                ticks = round(Fraction(shift, RATE) / packet.time_base)
                packet.dts += ticks
                packet.pts = packet.dts if decoding_order else packet.pts + ticks
                packet.stream = stream
                copy.mux(packet)
        whole.unlink()

    return write


def _cut_off(source: Encoding, packets: int) -> Write:
    """Write an encoding and leave out its first packets: a recording that begins in the middle."""

    def write(path: Path) -> None:
        source(path)
        with av.open(str(path)) as container:
            places = [packet.pos for packet in container.demux(video=0) if packet.size]
        content = path.read_bytes()
        path.write_bytes(content[places[packets] :])

    return write


def _packed(path: Path) -> None:
    """Pack B-frames into the packets before them, as DivX and Xvid do in AVI files, and leave placeholders."""
    whole = path.with_name(f"whole of {path.name}")
    Encoding("mpeg4", "avi", b_frames=1, frames=13)(whole)
    with av.open(str(whole)) as given, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(given.streams.video[0])
        packets = [bytes(packet) for packet in given.demux(video=0) if packet.size]
        number = 0
        while number < len(packets):
            data, group = packets[number], [packets[number]]
            if number + 1 < len(packets) and _is_b(packets[number + 1]):
                group = [data + packets[number + 1], b"\0\0\1\xb6\x51\x7f"]
            group[0] = group[0].replace(_PICTURE, b"\0\0\1\xb2DivX503b1393p" + _PICTURE, 1)
            for offset, content in enumerate(group):
                packet = av.Packet(content)
                packet.stream, packet.time_base = stream, Fraction(1, RATE)
                packet.pts = packet.dts = number + offset
                packet.is_keyframe = data[4:].find(_PICTURE) > 0 or number == 0
                copy.mux(packet)
            number += len(group)
    whole.unlink()


_PICTURE = b"\0\0\1\xb6"


def _is_b(packet: bytes) -> bool:
    """Return whether an MPEG-4 packet is a B-frame."""
    return packet[packet.index(_PICTURE) + 4] >> 6 == 2


_MPEG2_FIELDS = {"flags": "+ildct+ilme"}
_BIG = (321, 241)
_ALL: list[tuple[str, str, Write]] = [
    ("h264 in mp4", "", _h264()),
    ("h264, B-frames", "", _h264(b_frames=2)),
    ("h264, B-frames, mkv", "", _h264("mkv", b_frames=2)),
    ("h264, B-frames, ts", "", _h264("ts", b_frames=2)),
    ("h264, m2ts", "", _h264("m2ts", b_frames=2)),
    ("h264, flv", "", _h264("flv", b_frames=2)),
    ("h264, avi", "", _h264("avi")),
    ("h264, B-frames, avi", "", _h264("avi", b_frames=2)),
    ("h264, B-frames with the times of decoding", "mkv", _copied(_h264(b_frames=2), shift=2, decoding_order=True)),
    ("h264, mov", "", _h264("mov", b_frames=3)),
    ("h264, 3gp", "", _h264("3gp")),
    ("h264, raw", "", _h264("h264", b_frames=2)),
    ("h264, open GOP", "", _h264(b_frames=2, options=_x264("open-gop=1:keyint=5"))),
    ("h264, periodic intra refresh", "", _h264(options=_x264("intra-refresh=1"))),
    ("h264, many references", "", _h264(b_frames=3, options=_x264("b-pyramid=normal:ref=8"))),
    ("h264, upper field first", "", _h264(options=_x264("tff=1"))),
    ("h264, lower field first", "", _h264(options=_x264("bff=1"), b_frames=2)),
    ("h264, 10 bit", "", _h264(pixels="yuv420p10le")),
    ("h264, 4:2:2", "", _h264(pixels="yuv422p")),
    ("h264, 4:4:4", "", _h264(pixels="yuv444p")),
    ("h264, 4:2:2 10 bit", "", _h264(pixels="yuv422p10le")),
    ("h264, grey", "", _h264(pixels="gray")),
    ("h264, RGB", "", Encoding("libx264rgb", "mp4", "rgb24")),
    ("h264, full range", "", _h264(pixels="yuvj420p")),
    ("h264, BT.709", "", _coloured("yuv420p", 1, 1)),
    ("h264, BT.709, full range", "", _coloured("yuv420p", 1, 2)),
    ("h264, BT.2020, 10 bit", "", _coloured("yuv420p10le", 9, 1)),
    ("h264, 322x242", "", _h264(size=(322, 242))),
    ("h264, 321x241, 4:4:4", "", _h264(size=_BIG, pixels="yuv444p")),
    ("h264, one frame", "", _h264(frames=1)),
    ("h264, two frames", "", _h264(frames=2, b_frames=2)),
    ("h264, turned by 90", "", _turned(90)),
    ("h264, turned by 180", "", _turned(180)),
    ("h264, turned by 270", "", _turned(-90)),
    ("h264, mirrored", "", _turned(0, hflip=True)),
    ("h264, upside down", "", _turned(0, vflip=True)),
    ("h264, turned and mirrored", "", _turned(90, hflip=True)),
    ("h264, fragments", "", _h264(b_frames=2, container={"movflags": "frag_keyframe+empty_moov"})),
    ("h264, fast start", "", _h264(b_frames=2, container={"movflags": "faststart"})),
    ("h264, edit list", "", _h264(b_frames=2, container={"use_editlist": "1"})),
    ("h264, no edit list", "", _h264(b_frames=2, container={"use_editlist": "0"})),
    ("h264, edit list that begins late", "mp4", _copied(_h264(b_frames=2), shift=25)),
    ("h264, edit list that discards", "mp4",
     _copied(_h264(b_frames=2), shift=-7, container={"avoid_negative_ts": "disabled", "use_editlist": "1"})),
    ("h264, negative times", "mp4",
     _copied(_h264(b_frames=2), shift=-7, container={"avoid_negative_ts": "disabled", "use_editlist": "0"})),
    ("h264, begins without a key picture, mp4", "mp4", _copied(_h264(b_frames=2), skip=3)),
    ("h264, begins without a key picture, mkv", "mkv", _copied(_h264("mkv"), skip=3)),
    ("h264, begins without a key picture, ts", "ts", _cut_off(_h264("ts"), 3)),
    ("h264, begins without a key picture, raw", "h264", _cut_off(_h264("h264"), 3)),
    ("h264, variable rate", "", _h264(times=lambda index: index * index)),
    ("h264, variable rate, mkv", "", _h264("mkv", times=lambda index: index * index, b_frames=2)),
    ("h264, sound", "mp4", _with_sound),
    ("h264, sound, mkv", "mkv", _with_sound),
    ("h264, long still", "mp4", _long_still),
    ("h264, long still, mkv", "mkv", _long_still),
    ("h264, cover", "mp4", _with_cover),
    ("h264, joined", "ts", _joined),
    ("h264, two sizes", "ts", _two_sizes),
    ("h264, pixels of 4:3", "", _aspect("mp4", 4, 3)),
    ("h264, pixels of 4:3, mkv", "", _aspect("mkv", 4, 3)),
    ("h264, pixels of 2:1, ts", "", _aspect("ts", 2, 1)),
    ("h264, pixels of 8:9", "", _aspect("mp4", 8, 9)),
    ("h264, pixels of 1281:1280", "", _aspect("mp4", 1281, 1280)),
    ("mpeg4, pixels of 16:11", "", _aspect("avi", 16, 11, "mpeg4")),
    ("hevc", "", Encoding("libx265", "mp4", b_frames=2)),
    ("hevc, 10 bit, mkv", "", Encoding("libx265", "mkv", "yuv420p10le")),
    ("hevc, 4:4:4, ts", "", Encoding("libx265", "ts", "yuv444p")),
    ("hevc, raw", "", Encoding("libx265", "hevc")),
    ("av1, mp4", "", Encoding("libsvtav1", "mp4", size=(128, 96))),
    ("av1, mkv", "", Encoding("libsvtav1", "mkv", size=(128, 96))),
    ("vp8", "", Encoding("libvpx", "webm")),
    ("vp8, alpha", "", Encoding("libvpx", "webm", "yuva420p", options={"auto-alt-ref": "0"})),
    ("vp9", "", Encoding("libvpx-vp9", "webm", size=_BIG)),
    ("vp9, alpha", "", Encoding("libvpx-vp9", "webm", "yuva420p")),
    ("vp9, hidden pictures", "",
     Encoding("libvpx-vp9", "webm", frames=30, options={"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1",
                                                        "lag-in-frames": "16"})),
    ("mpeg4, avi", "", Encoding("mpeg4", "avi", size=_BIG)),
    ("mpeg4, B-frames, avi", "", Encoding("mpeg4", "avi", b_frames=2)),
    ("mpeg4, packed B-frames", "avi", _packed),
    ("mpeg4, mp4", "", Encoding("mpeg4", "mp4", b_frames=2)),
    ("mpeg4, raw", "", Encoding("mpeg4", "m4v")),
    ("mpeg4, two streams", "mkv", _two_streams(0)),
    ("mpeg4, two streams, second is the main one", "mkv", _two_streams(1)),
    ("msmpeg4v3", "", Encoding("msmpeg4", "avi")),
    ("msmpeg4v2", "", Encoding("msmpeg4v2", "avi")),
    ("mpeg1", "", Encoding("mpeg1video", "mpg", b_frames=2)),
    ("mpeg1, raw", "", Encoding("mpeg1video", "m1v", b_frames=2)),
    ("mpeg2", "", Encoding("mpeg2video", "mpg", b_frames=2)),
    ("mpeg2, ts, interlaced", "", Encoding("mpeg2video", "ts", b_frames=2, options=_MPEG2_FIELDS)),
    ("mpeg2, vob", "", Encoding("mpeg2video", "vob")),
    ("mpeg2, 4:2:2", "", Encoding("mpeg2video", "mkv", "yuv422p")),
    ("mpeg2, mxf", "", Encoding("mpeg2video", "mxf")),
    ("mjpeg, avi", "", Encoding("mjpeg", "avi", "yuvj420p", _BIG)),
    ("mjpeg, 4:2:2", "", Encoding("mjpeg", "mov", "yuvj422p")),
    ("mjpeg, raw", "", Encoding("mjpeg", "mjpeg", "yuvj420p")),
    ("jpeg2000", "", Encoding("jpeg2000", "mov", "yuv420p")),
    ("h261", "", Encoding("h261", "avi", size=(176, 144))),
    ("h263, 3gp", "", Encoding("h263", "3gp", size=(176, 144))),
    ("sorenson, flv", "", Encoding("flv", "flv")),
    ("flash screen video", "", Encoding("flashsv", "flv", "bgr24")),
    ("wmv1, asf", "", Encoding("wmv1", "asf")),
    ("wmv2", "", Encoding("wmv2", "wmv")),
    ("rv10", "", Encoding("rv10", "rm")),
    ("rv20", "", Encoding("rv20", "rm")),
    ("svq1", "", Encoding("svq1", "mov", "yuv410p")),
    ("cinepak", "", Encoding("cinepak", "avi", "rgb24")),
    ("dirac", "", Encoding("vc2", "mkv", "yuv422p10le", (1920, 1080), 2)),
    ("dv", "", Encoding("dvvideo", "dv", size=(720, 576), frames=3)),
    ("dv, avi", "", Encoding("dvvideo", "avi", size=(720, 576), frames=3)),
    ("prores", "", Encoding("prores_ks", "mov", "yuv422p10le")),
    ("prores, alpha", "", Encoding("prores_ks", "mov", "yuva444p10le")),
    ("qtrle", "", Encoding("qtrle", "mov", "rgb24", _BIG)),
    ("qtrle, alpha", "", Encoding("qtrle", "mov", "argb")),
    ("png, alpha", "", Encoding("png", "mov", "rgba", _BIG)),
    ("png, avi", "", Encoding("png", "avi", "rgb24")),
    ("apng", "", Encoding("apng", "apng", "rgb24", bare="apng")),
    ("gif", "", Encoding("gif", "gif", "rgb8")),
    ("ffv1", "", Encoding("ffv1", "mkv", size=_BIG)),
    ("ffv1, 16 bit grey", "", Encoding("ffv1", "mkv", "gray16le")),
    ("ffv1, 4:1:0", "", Encoding("ffv1", "mkv", "yuv410p")),
    ("ffv1, alpha", "", Encoding("ffv1", "mkv", "yuva420p")),
    ("ffv1, RGB", "", Encoding("ffv1", "avi", "bgr0")),
    ("huffyuv", "", Encoding("huffyuv", "avi", "yuv422p")),
    ("ffvhuff", "", Encoding("ffvhuff", "avi")),
    ("utvideo", "", Encoding("utvideo", "avi", "gbrp")),
    ("magicyuv", "", Encoding("magicyuv", "avi", "yuv420p")),
    ("zmbv", "", Encoding("zmbv", "avi", "bgr0")),
    ("msvideo1", "", Encoding("msvideo1", "avi", "rgb555le")),
    ("snow", "", Encoding("snow", "avi", "yuv420p")),
    ("raw, y4m", "", Encoding("wrapped_avframe", "y4m")),
    ("raw, y4m, 4:4:4", "", Encoding("wrapped_avframe", "y4m", "yuv444p", _BIG)),
    ("raw, avi", "", Encoding("rawvideo", "avi", "bgr24", _BIG)),
    ("raw, avi, 4:2:0", "", Encoding("rawvideo", "avi")),
    ("raw, mov, 4:2:2", "", Encoding("rawvideo", "mov", "uyvy422")),
    ("raw, nut, 4:2:0", "", Encoding("rawvideo", "nut")),
    ("v210", "", Encoding("v210", "mov", "yuv422p10le")),
]  # fmt: skip
ENCODINGS: dict[str, tuple[str, Write]] = {
    name: (write.suffix if isinstance(write, Encoding) else suffix, write) for name, suffix, write in _ALL
}

_MIDDLE = "the pictures before the first key picture cannot be decoded, and both leave them out"
# What `check_frames` has to say about encodings of which only one side complains.
EXPLAINED = {
    "h264, begins without a key picture, mp4": _MIDDLE,
    "h264, begins without a key picture, ts": _MIDDLE,
    "h264, begins without a key picture, raw": _MIDDLE,
    "h264, joined": "the counters of two joined transport streams do not fit, which is no damage",
    "h264, two sizes": "the frame size changes: a named failure after the frames before; ffmpeg scales those after it",
    "h261": "H.261 has no key pictures, which ffmpeg remarks on",
}


def write_all(folder: Path, names: list[str] | None = None) -> tuple[dict[str, Path], dict[str, str]]:
    """Write encodings into a folder, by name.

    Returns:
        The files by their encodings' names, and why others could not be written.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only; it would fill stderr
    written, failed = {}, {}
    for name, (suffix, write) in ENCODINGS.items():
        if names is not None and name not in names:
            continue
        path = folder / f"{name.replace(':', '-')}.{suffix}"
        try:
            write(path)
        except (av.FFmpegError, av.codec.codec.UnknownCodecError, ValueError, OverflowError) as error:
            failed[name] = str(error).splitlines()[0]
            path.unlink(missing_ok=True)
        else:
            written[name] = path
    return written, failed
