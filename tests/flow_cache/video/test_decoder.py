"""Video files as they are out there: damaged, cut, joined, turned, with covers and sound. All are made here."""

import gc
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from flow_cache import CacheReader, FlowSettings, PrecomputeConfig, precompute, read_frames
from flow_cache.errors import VideoError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.video.container import read_header
from flow_cache.video.decoder import decode_file

FRAMES, GOP = 40, 10
CODECS = [  # codec, container, B-frames
    ("libx264", "mp4", 0),
    ("libx264", "mkv", 2),
    ("mpeg4", "avi", 0),
    ("mpeg4", "mp4", 2),
    ("mjpeg", "avi", 0),
]


def pictures(count: int, width: int, height: int, seed: int = 0) -> Iterator[np.ndarray]:
    """A coloured texture that moves: (H, W, 3) uint8 RGB."""
    noise = np.random.default_rng(seed).normal(size=(height + 2 * count, width + 2 * count, 3))
    smooth = cv2.normalize(
        cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX
    )
    texture = smooth.astype(np.uint8)
    for t in range(count):
        yield np.ascontiguousarray(texture[t : t + height, 2 * t : 2 * t + width])


def add_video(
    container: av.container.OutputContainer, codec: str, width: int, height: int, b_frames: int = 0
) -> av.VideoStream:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.gop_size = GOP
    stream.codec_context.max_b_frames = b_frames
    stream.codec_context.thread_count = 1
    if codec == "libx264":
        stream.options = {"preset": "veryfast", "x264-params": "scenecut=0"}
    return stream


def fill(
    container: av.container.OutputContainer,
    stream: av.VideoStream,
    count: int,
    times: Callable[[int], int] = int,
    seed: int = 0,
) -> None:
    """Encode `count` pictures; `times` gives the time of each, in 1/25 s."""
    for index, picture in enumerate(pictures(count, stream.width, stream.height, seed)):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = times(index), Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def encode(
    path: Path,
    codec: str = "libx264",
    count: int = FRAMES,
    size: tuple[int, int] = (96, 64),
    b_frames: int = 0,
    seed: int = 0,
    **options: str,
) -> Path:
    with av.open(str(path), "w", options=options) as container:
        fill(container, add_video(container, codec, *size, b_frames), count, seed=seed)
    return path


def packets(path: Path) -> list[tuple[int, int, int | None]]:
    """Position, size and time of each packet, in the order of the file."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size, packet.pts) for packet in container.demux(video=0) if packet.size]


def damage(path: Path, *numbers: int) -> Path:
    """Change most bytes of some packets, behind their headers."""
    content, generator = bytearray(path.read_bytes()), random.Random(1)
    for position, size, _ in (packets(path)[number] for number in numbers):
        for byte in range(position + min(24, size // 4), position + size):
            content[byte] ^= generator.randrange(1, 256)
    damaged = path.with_name(f"damaged{path.suffix}")
    damaged.write_bytes(content)
    return damaged


def read(path: Path, threads: int | None = 1) -> tuple[list[np.ndarray], VideoError | None]:
    frames = []
    try:
        for image in decode_file(path, threads):
            frames.append(image.copy())
    except VideoError as error:
        return frames, error
    return frames, None


def opencv_frames(path: Path) -> list[np.ndarray]:
    """All frames as OpenCV's own FFmpeg decodes them."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (taken := capture.read())[0]:
        frames.append(taken[1])
    capture.release()
    return frames


@pytest.mark.parametrize(("codec", "suffix", "b_frames"), CODECS)
def test_whole_videos_equal_another_decoder(tmp_path: Path, codec: str, suffix: str, b_frames: int) -> None:
    video = encode(tmp_path / f"a.{suffix}", codec, b_frames=b_frames)
    for threads in (1, 2, None):
        frames, error = read(video, threads)
        assert error is None
        assert len(frames) == FRAMES
        for frame, expected in zip(frames, opencv_frames(video), strict=True):
            # Other versions of FFmpeg may round in another way.
            assert np.abs(frame.astype(int) - expected).mean() <= 1


@pytest.mark.parametrize("number", [0, 17, 20, FRAMES - 1])
@pytest.mark.parametrize(("codec", "suffix", "b_frames"), CODECS)
def test_one_damaged_packet_is_named_and_the_frames_before_it_are_right(
    tmp_path: Path, codec: str, suffix: str, b_frames: int, number: int
) -> None:
    whole = encode(tmp_path / f"a.{suffix}", codec, b_frames=b_frames)
    expected, _ = read(whole)
    frames, error = read(damage(whole, number))
    assert error is not None
    # Frames that are shown before the damaged packet, and before all that follow it in the file.
    times = [time for _, _, time in packets(whole)]
    before = number
    if b_frames and None not in times:
        before = sum(time < min(times[number:]) for time in times)
    assert error.frame == len(frames)
    # FFmpeg's decoders also drop pictures that they were about to put in order when the damaged packet came.
    assert before - b_frames <= len(frames) <= before
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=False))
    if number:
        # At most the frames up to the next key picture are lost with it.
        readable = int(error.reason.split(" frames are readable")[0].split()[-1])
        assert FRAMES - GOP <= readable <= FRAMES - 1
        assert f"{len(frames)} of them before the damage" in error.reason
    if codec == "mjpeg":
        assert f"{FRAMES - 1} frames are readable" in error.reason
    for threads in (2, None):
        again, same = read(damage(whole, number), threads)
        assert str(same) == str(error)
        assert len(again) == len(frames)


def test_made_up_times_are_no_damage(tmp_path: Path) -> None:
    """AVI has no times of presentation; those that FFmpeg makes up for H.264 with B-frames are out of order."""
    whole = encode(tmp_path / "a.avi", b_frames=2)
    expected, error = read(whole)
    assert (len(expected), error) == (FRAMES, None)
    frames, error = read(damage(whole, 20))
    assert error is not None
    assert 14 <= error.frame == len(frames) <= 20
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=False))


def test_a_damaged_first_group_leaves_the_others_readable(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4")
    frames, error = read(damage(whole, *range(GOP)))
    assert frames == []
    assert error is not None
    assert error.frame == 0
    assert f"{FRAMES - GOP} frames are readable" in error.reason


def test_keep_partial_keeps_what_is_before_the_damage(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    damaged = damage(encode(tmp_path / "a.mp4"), 12)
    damaged.rename(tmp_path / "videos" / "a.mp4")

    def config(name: str, keep_partial: bool) -> PrecomputeConfig:
        flow = FlowSettings(method="farneback")
        return PrecomputeConfig(
            tmp_path / "videos", tmp_path / name, flow=flow, workers=1, keep_partial=keep_partial
        )

    strict = precompute(config("strict", False), progress=False)
    assert (strict.done, len(strict.failures)) == (0, 1)
    assert strict.failures[0].reason.startswith("frame 12: damaged at 0.48 s: ")
    assert strict.failures[0].reason.endswith(
        "; 39 frames are readable, 12 of them before the damage; flow-cache precompute --keep-partial keeps "
        "those before it, --damaged skip-frames all good ones; or re-encode the video"
    )
    assert not list((tmp_path / "strict").rglob("*.flow.zip"))
    kept = precompute(config("kept", True), progress=False)
    assert (kept.done, kept.partial, kept.fields, kept.failures) == (1, 1, 11, [])
    with CacheReader(tmp_path / "kept" / "a.flow.zip") as reader:
        assert (reader.num_frames, reader.num_fields) == (12, 11)
        assert reader.meta.partial is not None
        assert reader.meta.partial.startswith("frame 12: damaged at 0.48 s: ")
        assert reader.meta.partial.endswith("39 frames are readable, 12 of them before the damage")
    assert estimate(config("new", True)).sampled_fields > 0


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4", b_frames=2, movflags="faststart")
    expected, _ = read(whole)
    table = packets(whole)
    for number, rest in ((25, 0), (25, 5), (FRAMES - 1, 3)):  # at a border of packets, or inside one
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[: table[number][0] + rest])
        frames, error = read(cut)
        assert error is not None
        assert number - 4 <= len(frames) <= number
        assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=False))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_long_still_with_sound_gives_all_frames(tmp_path: Path, suffix: str) -> None:
    """Two minutes without a new picture, with more than 4,096 packets of sound between two of them."""
    video = tmp_path / f"a.{suffix}"
    with av.open(str(video), "w") as container:
        pictures_stream = add_video(container, "libx264", 96, 64)
        sound = container.add_stream("aac", rate=44100)
        for _ in range(120 * 44100 // 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        fill(container, pictures_stream, 30, lambda index: index if index < 15 else 120 * 25 + index)
    for threads in (1, None):
        frames, error = read(video, threads)
        assert (len(frames), error) == (30, None)


def test_joined_transport_streams(tmp_path: Path) -> None:
    first = encode(tmp_path / "first.ts", size=(160, 120), count=20)
    second = encode(tmp_path / "second.ts", size=(160, 120), count=20, seed=1)
    other = encode(tmp_path / "other.ts", size=(120, 240), count=20)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    frames, error = read(joined)
    assert (len(frames), error) == (40, None)
    joined.write_bytes(first.read_bytes() + other.read_bytes())
    frames = read_frames(joined, rgb=True)
    for index in range(20):
        assert next(frames).index == index
    with pytest.raises(VideoError, match=r"frame 20: frame size changes from 160x120 to 120x240"):
        next(frames)


@pytest.mark.parametrize(
    ("degrees", "mirrored", "turned"),
    [
        (0.0, False, lambda image: image),
        (90.0, False, lambda image: np.rot90(image, 1)),
        (180.0, False, lambda image: np.rot90(image, 2)),
        (-90.0, False, lambda image: np.rot90(image, -1)),
        (0.0, True, lambda image: image[:, ::-1]),
    ],
)
def test_frames_are_upright(tmp_path: Path, degrees: float, mirrored: bool, turned: Callable) -> None:
    plain = encode(tmp_path / "plain.mp4", count=2)
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = add_video(container, "libx264", 96, 64)
        stream.set_display_rotation(degrees, hflip=mirrored)
        fill(container, stream, 2)
    frames, error = read(tmp_path / "turned.mp4")
    assert error is None
    expected = turned(read(plain)[0][0])
    assert frames[0].shape == expected.shape
    assert np.array_equal(frames[0], expected)


def test_no_frame_stays_in_memory_once_it_was_used(tmp_path: Path) -> None:
    def frames() -> list[av.VideoFrame]:
        # by type(): isinstance() would ask proxies of other packages, whose object may be gone
        return [
            item for item in gc.get_objects() if issubclass(type(item), av.VideoFrame) and item.width == 96
        ]

    path = encode(tmp_path / "a.mp4", count=3)
    gc.collect()
    before = frames()  # of other tests
    gc.disable()  # so that what only a search for circles frees is still there
    try:
        for _ in range(3):
            read(path)
        known = set(map(id, before))
        left = [frame for frame in frames() if id(frame) not in known]
    finally:
        gc.enable()
    assert not left


def cover(container: av.container.OutputContainer, size: tuple[int, int]) -> tuple:
    """Add a cover picture to a file that is being written."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    picture = next(pictures(1, *size))
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    return stream, [*stream.encode(frame), *stream.encode(None)]


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        _, encoded = cover(container, (640, 480))
        stream = add_video(container, "libx264", 96, 64)
        container.mux(encoded)
        fill(container, stream, 5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(container.streams.video) == 2
    frames, error = read(tmp_path / "a.mp4")
    assert error is None
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 5
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        _, encoded = cover(container, (640, 480))
        container.mux(encoded)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with pytest.raises(VideoError, match="no video stream"):
        list(read_frames(tmp_path / "song.mp4"))


@pytest.mark.parametrize("main", [0, 1])
def test_of_two_video_streams_the_main_one_is_taken(tmp_path: Path, main: int) -> None:
    sizes = [(64, 48), (96, 64)]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [add_video(container, "mpeg4", *size) for size in sizes]
        streams[main].disposition = Disposition.default
        streams[1 - main].disposition = Disposition(0)
        for stream in streams:
            fill(container, stream, 6)
    frames, error = read(tmp_path / "a.mkv")
    assert error is None
    assert [frame.shape[1::-1] for frame in frames] == [sizes[main]] * 6


@pytest.mark.parametrize("count", [1, 7])
def test_odd_sizes_and_one_frame(tmp_path: Path, count: int) -> None:
    for suffix, codec in (("avi", "mjpeg"), ("mp4", "mpeg4")):
        frames, error = read(encode(tmp_path / f"a.{suffix}", codec, count, (321, 241)))
        assert error is None
        assert [frame.shape for frame in frames] == [(241, 321, 3)] * count


@pytest.mark.parametrize(
    ("colorspace", "levels"),
    [
        (None, (81, 90, 240)),  # nothing stated: BT.601
        (5, (81, 90, 240)),  # BT.601
        (1, (63, 102, 240)),  # BT.709
    ],
)
def test_colours_follow_the_stated_matrix(tmp_path: Path, colorspace: int | None, levels: tuple) -> None:
    """Pure red, of 16 to 235, written without loss."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_video(container, "ffv1", 64, 48)
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        if colorspace is not None:
            frame.colorspace = colorspace
        container.mux([*stream.encode(frame), *stream.encode(None)])
    (image,), error = read(tmp_path / "a.mkv")
    assert error is None
    assert np.abs(image.astype(int) - (0, 0, 255)).max() <= 2
    (frame,) = read_frames(tmp_path / "a.mkv", rgb=True)
    assert np.array_equal(frame.rgb, image[..., ::-1])
    assert np.array_equal(frame.grey, cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY))


def test_the_header_is_read_without_decoding(tmp_path: Path) -> None:
    header = read_header(encode(tmp_path / "a.avi", "mjpeg", 7))
    assert (header.fps, header.frames, header.codec) == (25.0, 7, "MJPG")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    plain = encode(tmp_path / "a.avi", "mjpeg", 3)
    odd = Path(str(tmp_path / "b") + "\udcff.avi")
    try:
        plain.rename(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    frames, error = read(odd)
    assert (len(frames), error) == (3, None)


@pytest.mark.parametrize(("codec", "suffix", "b_frames"), [*CODECS, ("libx264", "ts", 2)])
def test_bytes_changed_at_random_are_frames_or_a_named_error(
    tmp_path: Path, codec: str, suffix: str, b_frames: int
) -> None:
    whole = encode(tmp_path / f"a.{suffix}", codec, 12, b_frames=b_frames).read_bytes()
    for seed in range(25):
        generator, content = random.Random(seed), bytearray(whole)
        for _ in range(generator.choice((1, 5, 50))):
            content[generator.randrange(len(content))] ^= generator.randrange(1, 256)
        (tmp_path / f"b.{suffix}").write_bytes(content)
        frames, error = read(tmp_path / f"b.{suffix}")  # anything but a VideoError fails the test
        assert error is not None or frames
        if error is not None and error.frame is not None:
            assert error.frame == len(frames)


def with_pixels(path: Path, aspect: Fraction, size: tuple[int, int] = (96, 64), degrees: float = 0.0) -> Path:
    with av.open(str(path), "w") as container:
        stream = add_video(container, "libx264", *size)
        stream.codec_context.sample_aspect_ratio = aspect
        if degrees:
            stream.set_display_rotation(degrees)
        fill(container, stream, 3)
    return path


@pytest.mark.parametrize(
    ("suffix", "aspect", "width"),
    [
        ("mp4", Fraction(4, 3), 128),
        ("mkv", Fraction(4, 3), 128),
        ("ts", Fraction(2), 192),
        ("mp4", Fraction(8, 9), 85),
        ("ts", Fraction(1, 2), 48),
    ],
)
def test_pixels_become_square(tmp_path: Path, suffix: str, aspect: Fraction, width: int) -> None:
    plain, _ = read(encode(tmp_path / f"plain.{suffix}", count=3))
    video = with_pixels(tmp_path / f"a.{suffix}", aspect)
    assert read_header(video).pixel_aspect == aspect
    frames, error = read(video)
    assert error is None
    how = cv2.INTER_AREA if width < 96 else cv2.INTER_LINEAR
    expected = [cv2.resize(frame, (width, 64), interpolation=how) for frame in plain]
    assert np.array_equal(frames, expected)
    (first, *_) = read_frames(video, short_side=32)
    assert (
        first.grey.shape == (32, round(32 * width / 64 / 2) * 2) if width >= 64 else (round(64 / 3) * 2, 32)
    )


@pytest.mark.parametrize("aspect", [Fraction(0, 1), Fraction(1), Fraction(1281, 1280), Fraction(404, 405)])
def test_pixels_that_are_nearly_square_stay(tmp_path: Path, aspect: Fraction) -> None:
    plain, _ = read(encode(tmp_path / "plain.mp4", count=3))
    video = with_pixels(tmp_path / "a.mp4", aspect)
    assert np.array_equal(read(video)[0], plain)
    assert read_header(video).pixel_aspect == 1


def test_a_turned_video_has_its_pixels_turned_too(tmp_path: Path) -> None:
    upright, _ = read(with_pixels(tmp_path / "upright.mp4", Fraction(4, 3)))
    turned, _ = read(with_pixels(tmp_path / "turned.mp4", Fraction(4, 3), degrees=90))
    assert turned[0].shape == (128, 64, 3)
    assert np.array_equal(turned[0], np.rot90(upright[0]))


@pytest.mark.parametrize("aspect", [Fraction(1, 20), Fraction(9), Fraction(20)])
def test_absurd_pixels_are_named(tmp_path: Path, aspect: Fraction) -> None:
    video = with_pixels(tmp_path / "a.mp4", aspect)
    frames, error = read(video)
    assert frames == []
    assert error is not None
    assert f"states pixels of {aspect.numerator}:{aspect.denominator} (width to height)" in error.reason
    with pytest.raises(VideoError, match="expected 1:8 to 8:1"):
        read_header(video)


def test_the_shape_of_pixels_is_kept_where_they_are_not_square(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with_pixels(tmp_path / "videos" / "wide.mp4", Fraction(4, 3))
    encode(tmp_path / "videos" / "square.mp4", count=3)
    config = PrecomputeConfig(
        tmp_path / "videos", tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1
    )
    assert precompute(config, progress=False).done == 2
    with CacheReader(tmp_path / "cache" / "wide.flow.zip") as reader:
        assert (reader.meta.width, reader.meta.height, reader.meta.pixel_aspect) == (128, 64, "4:3")
        assert b'"pixel_aspect": "4:3"' in reader.meta.to_json()
    with CacheReader(tmp_path / "cache" / "square.flow.zip") as reader:
        assert (reader.meta.width, reader.meta.height, reader.meta.pixel_aspect) == (96, 64, "1:1")
        assert b"pixel_aspect" not in reader.meta.to_json()
