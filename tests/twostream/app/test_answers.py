"""What the page says of a file that somebody gives: an answer within the limits, or a clear refusal."""

from pathlib import Path

import numpy as np
import pytest

from twostream import DataError, Predictor, load_checkpoint
from twostream.app.answers import answer_video, check_video
from twostream.app.limits import Limits
from twostream.inference.video_file import write_video


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of one second."""
    path = tmp_path_factory.mktemp("second") / "second.mp4"
    write_video(iter([np.full((48, 64, 3), level, np.uint8) for level in range(25)]), 25, path)
    return path


def test_an_answer_is_that_of_the_predictor(tiny_run: Path, tiny_videos: Path) -> None:
    predictor = Predictor(load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), device="cpu")
    video = sorted(tiny_videos.rglob("*.avi"))[0]
    answer = answer_video(predictor, video, Limits())
    prediction = predictor(video)
    assert tuple(answer.best) == predictor.outputs
    for name, best in answer.best.items():
        assert list(best.values()) == pytest.approx(
            sorted(prediction.probabilities[name])[::-1][:5], abs=1e-6
        )
    assert answer.picture.startswith(b"\x89PNG")
    assert answer.video[4:8] == b"ftyp"


@pytest.mark.parametrize(("seconds", "allowed"), [(2.0, True), (0.97, True), (0.9, False)])
def test_long_videos_are_refused(second: Path, seconds: float, allowed: bool) -> None:
    limits = Limits(seconds=seconds)
    if allowed:
        check_video(second, limits)
    else:
        with pytest.raises(DataError, match=r"second.mp4 is longer than 0.9 s, .*--max-seconds"):
            check_video(second, limits)


def test_large_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(1_100_000))
    with pytest.raises(DataError, match=r"a.mp4 has 1.1 MB, at most 1 MB .*--max-megabytes"):
        check_video(path, Limits(megabytes=1))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{second}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {second}\n",
        "no video at all\n",
        "",
    ],
    ids=["hls", "concat", "text", "empty"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ffconcat"])
def test_files_that_name_other_files_are_refused(second: Path, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text.format(second=second))
    with pytest.raises(DataError, match=f"{name} cannot be read as a video"):
        check_video(path, Limits())
