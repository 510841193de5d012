"""Strips of pictures for the report's page: of which videos, what they show, and what happens to a damaged file."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache import CacheReader, FlowSettings, PrecomputeConfig, precompute
from twostream import DataConfig, Evaluation, Protocol, load_data, read_evaluation
from twostream.data.loading import VideoData
from twostream.evaluation.strips import draw_strip, find_strips


@pytest.fixture(scope="module")
def videos(tiny_videos: Path, tiny_cache: Path) -> VideoData:
    return load_data(DataConfig(root=str(tiny_videos), cache=str(tiny_cache), stack=3, steps=2))


def evaluation_of(videos: VideoData) -> Evaluation:
    """Each second answer on the test side is wrong, the later the more confident."""
    records = videos.split.test
    labels = np.array([record.label for record in records])
    said = (labels + np.arange(len(labels)) % 2) % 9
    confidence = np.linspace(0.4, 0.9, len(labels))
    probabilities = np.repeat((1 - confidence[:, None]) / 8, 9, axis=1)
    probabilities[np.arange(len(labels)), said] = confidence
    protocol = Protocol(
        dataset="tiny", split="", side="test", num_train=9, num_videos=len(labels), clips_per_video=1,
        streams=("rgb",), checkpoint="best.ckpt", epoch=1, flow="", groups="", seed=0, command="",
    )  # fmt: skip
    return Evaluation(
        protocol=protocol,
        classes=videos.classes,
        videos=tuple(record.path for record in records),
        groups=tuple(record.group for record in records),
        labels=labels,
        probabilities={"rgb": probabilities},
    )


def opened(picture: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_a_strip_shows_frames_from_start_to_end_above_their_flow(videos: VideoData) -> None:
    record = videos.split.test[0]
    picture = opened(draw_strip(videos, record))
    assert picture.shape == (2 * 54 + 2, 4 * 72 + 3 * 2, 3)  # videos of 64x48
    entry = videos.entries[record.path]
    with CacheReader(videos.cache / entry.cache_file) as reader:
        frames = reader.rgb([(2 * place + 1) * reader.num_fields // 8 for place in range(4)])
    for place, frame in enumerate(frames):
        shown = picture[:54, place * 74 : place * 74 + 72].astype(int)
        assert np.abs(shown - cv2.resize(frame, (72, 54))).mean() < 8
    assert picture[56:].min(axis=2).max() > 230  # where nothing moves, flow is white


def test_every_video_has_a_strip_where_there_is_room(videos: VideoData) -> None:
    evaluation = evaluation_of(videos)
    strips = find_strips(videos, evaluation)
    assert sorted(strips.pictures) == list(range(len(evaluation.videos)))
    assert strips.unreadable == {}


def test_confident_errors_come_first_until_the_bytes_are_spent(videos: VideoData) -> None:
    evaluation = evaluation_of(videos)
    order = list(find_strips(videos, evaluation).pictures)
    last = len(order) - 1 - len(order) % 2
    assert order[:2] == [last, last - 2]
    assert order[-1] == max(range(0, len(order), 2))
    sizes = [len(draw_strip(videos, videos.split.test[index])) for index in order]
    most = sum(sizes[:3]) + sizes[3] // 2
    some = find_strips(videos, evaluation, most)
    assert list(some.pictures) == order[:3]
    assert sum(map(len, some.pictures.values())) <= most
    assert find_strips(videos, evaluation, 0).pictures == {}


def test_a_damaged_file_costs_its_own_strip_alone(videos: VideoData, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(videos.cache, cache)
    evaluation = evaluation_of(videos)
    damaged, gone = (cache / videos.entries[evaluation.videos[index]].cache_file for index in (0, 1))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    gone.unlink()
    strips = find_strips(dataclasses.replace(videos, cache=cache), evaluation)
    assert sorted(strips.unreadable) == [0, 1]
    assert gone.name in strips.unreadable[1]
    assert sorted(strips.pictures) == list(range(2, len(evaluation.videos)))


def test_without_frames_a_strip_is_flow_alone(videos: VideoData, tmp_path: Path, tiny_videos: Path) -> None:
    record = videos.split.test[0]
    (tmp_path / "list.txt").write_text(f"{record.path}\n")
    flow = FlowSettings(method="farneback")
    settings = PrecomputeConfig(tmp_path / "list.txt", tmp_path, flow=flow, workers=1, root=str(tiny_videos))
    assert precompute(settings, progress=False).failures == []
    picture = opened(draw_strip(dataclasses.replace(videos, cache=tmp_path), record))
    assert picture.shape == (54, 4 * 72 + 3 * 2, 3)


def test_the_page_of_a_run_shows_every_test_video(tiny_run: Path) -> None:
    page = (tiny_run / "evaluation" / "report.html").read_text()
    videos = len(read_evaluation(tiny_run / "evaluation").videos)
    assert f"{videos} of {videos} videos can be opened" in page
    assert page.count("data:image/webp;base64,") == videos
