"""Live pictures: the decisions of a file, and a count of what is left out."""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from twostream.checkpoints import Checkpoint
from twostream.cli.predict import main as predict
from twostream.errors import ConfigError, DataError
from twostream.inference.live import LiveStatus, Thinning, open_source, run_live
from twostream.inference.predictor import Predictor
from twostream.inference.settings import WindowSettings
from twostream.inference.windows import Decision

Make = Callable[..., Checkpoint]
Video = Callable[..., Path]
WINDOWS = WindowSettings(window=12, every=4)


def pictures(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def live(predictor: Predictor, images: Iterator[np.ndarray], thinning: Thinning | None = None):
    found: list[tuple[Decision, LiveStatus]] = []
    summary = run_live(
        images,
        predictor.classifier(),
        predictor.framing,
        lambda decision, status: found.append((decision, status)),
        thinning=thinning,
    )
    return found, summary


def test_a_source_that_can_be_kept_up_with_gets_the_answers_of_a_file(
    make_checkpoint: Make, make_video: Video
) -> None:
    video = make_video("a.avi", 34)
    predictor = Predictor(make_checkpoint(), "cpu", windows=WINDOWS)
    expected: list[Decision] = []
    prediction = predictor(video, expected.append)
    found, summary = live(predictor, iter(pictures(video)), Thinning(most_waiting=1000))
    assert len(found) == len(expected) == summary.count == 6
    for (decision, status), other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            decision.smoothed, other.smoothed, atol=0.02
        )  # another conversion of colours
        assert status.dropped == 0
        assert status.latency >= 0
        assert "dropped" not in str(status)
    np.testing.assert_allclose(summary.probabilities()["fused"], prediction.decision, atol=0.02)


def test_what_a_fast_source_gives_in_excess_is_counted(make_checkpoint: Make, make_video: Video) -> None:
    images = pictures(make_video("a.avi", 40)) * 20
    thinning = Thinning(most_waiting=4)
    found, _ = live(
        Predictor(make_checkpoint(streams=["flow"]), "cpu", windows=WINDOWS), iter(images), thinning
    )
    assert thinning.arrived == 800
    assert 0 < thinning.dropped < 800
    frames = found[-1][0].last + 1 if found else 0
    assert frames <= thinning.arrived - thinning.dropped < frames + 12 + 4


def test_pictures_are_thinned_evenly_and_only_as_long_as_needed() -> None:
    thinning = Thinning(most_waiting=3)
    assert [thinning.takes(n) for n in (0, 1, 2, 3)] == [True, True, True, False]
    thinning.decided()
    assert thinning.nth == 2
    assert [thinning.takes(0) for _ in range(4)] == [True, False, True, False]
    for _ in range(8):
        assert thinning.nth == 2
        thinning.decided()
    assert thinning.nth == 1
    assert (thinning.arrived, thinning.dropped) == (8, 3)
    assert (
        str(LiveStatus(12.3, 24.6, 0.25, 3, 2))
        == "12.3 frames/s of 24.6, latency 0.25 s, 3 dropped, one of 2 taken"
    )


def test_a_source_that_fails_says_so_after_its_decisions(make_checkpoint: Make, make_video: Video) -> None:
    images = pictures(make_video("a.avi", 20))

    def breaks() -> Iterator[np.ndarray]:
        yield from images
        raise DataError("the cable is out")

    predictor = Predictor(make_checkpoint(streams=["flow"]), "cpu", windows=WINDOWS)
    with pytest.raises(DataError, match="the cable is out"):
        live(predictor, breaks(), Thinning(1000))
    with pytest.raises(DataError, match="size of the pictures changes"):
        live(predictor, iter([*images[:2], images[0][:, :40]]), Thinning(1000))


def test_files_keep_their_pace_and_streams_are_opened(make_video: Video, tmp_path: Path) -> None:
    video = make_video("a.avi", 10, fps=20)
    waits: list[float] = []
    assert len(list(open_source(str(video), waits.append, lambda: 5.0))) == 10
    assert waits == pytest.approx(
        [n / 20 for n in range(10)]
    )  # the clock stands, so each has to wait for longer

    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.avi"
        waits.clear()
        images = list(open_source(url, waits.append))
        server.shutdown()
    assert waits == []  # a stream has its own pace
    np.testing.assert_array_equal(images, pictures(video))


@pytest.mark.parametrize("name", ["rtsp://127.0.0.1:9/x", "none.mp4", "99"])
def test_sources_that_cannot_be_opened_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--camera {name} cannot be opened"):
        open_source(name)


def test_the_command_decides_on_a_source(
    saved_checkpoint: str, make_video: Video, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved_checkpoint
    video = str(make_video("a.avi", 30, fps=200))
    windows = tmp_path / "w.jsonl"
    command = [checkpoint, f"--camera={video}", "--window=10", "--every=5"]
    assert predict([*command, f"--windows-out={windows}"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines
    assert all(
        re.fullmatch(r".+ % \([\d.]+ frames/s of [\d.]+, latency [\d.]+ s.*\)", line) for line in lines
    )
    assert f"mean of {len(lines)} decisions" in output.err
    assert len(windows.read_text().splitlines()) == len(lines)
    assert predict([*command, "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert {"class", "confidence", "latency", "dropped"} <= set(json.loads(line))
    assert predict([checkpoint]) == 2
    assert predict([checkpoint, video, *command[1:]]) == 2
    assert predict([*command, "--out=p.csv"]) == 2
    assert capsys.readouterr().err.count("name videos or a --camera, not both") == 1
