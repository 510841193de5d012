"""Pictures and videos of explanations: what is dark, where the line stands, and that the command writes them."""

import dataclasses
import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from twostream import Predictor, load_checkpoint
from twostream.cli.predict import main
from twostream.inference.cached_video import CachedVideo, cached_video
from twostream.inference.explanation import Explanation, explain
from twostream.inference.video_file import write_video
from twostream.reports.explanation_plots import plot_explanation
from twostream.reports.explanation_video import draw_frames, heat_at
from twostream.reports.explanations import distinct_names
from twostream.reports.shading import shade


def test_places_without_weight_are_dark() -> None:
    picture = np.full((40, 80, 3), 200, np.uint8)
    shaded = shade(picture, np.array([[0, 1]], np.float32))
    assert (shaded[:, 0] == 40).all()
    assert (shaded[:, -1] == 200).all()
    assert (np.diff(shaded[0, :, 0].astype(int)) >= 0).all()
    assert (shade(picture, np.zeros((2, 2), np.float32)) == 40).all()
    half = shade(picture, np.full((2, 2), 0.25, np.float32), largest=1.0)
    assert (half == 120).all()  # the square root of a quarter


def test_heat_between_steps_lies_between_theirs() -> None:
    heat = np.array([0, 4, 2, 9], np.float32).reshape(4, 1, 1)  # the last step pads
    frames = np.array([2, 6, 8])
    expected = [0, 0, 0, 1, 2, 3, 4, 3, 2, 2]
    assert [float(heat_at(heat, frames, index)[0, 0]) for index in range(10)] == expected
    assert float(heat_at(heat[:1], frames[:1], 7)[0, 0]) == 0


def test_names_tell_videos_apart() -> None:
    assert distinct_names([Path("x/a.avi"), Path("x/b.avi")]) == ["a.avi", "b.avi"]
    names = distinct_names([Path("/x/y/a.avi"), Path("/x/z/a.avi"), Path("/w/y/a.avi")])
    assert names == ["x_y_a.avi", "x_z_a.avi", "w_y_a.avi"]
    assert len(set(distinct_names([Path("a_b.avi"), Path("a/b.avi"), Path("b.avi")]))) == 3
    assert distinct_names([]) == []


def test_a_written_video_has_the_frames_colours_and_rate(tmp_path: Path) -> None:
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    pictures = [np.tile(colour, (48, 64, 1)) for colour in colours]
    write_video(iter(pictures), 30000 / 1001, tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate.limit_denominator(1001) * 1001 == 30000
        assert stream.codec_context.name == "h264"
    assert len(decoded) == 3
    for frame, picture in zip(decoded, pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).max() < 12


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), device="cpu")


@pytest.fixture(scope="module")
def explained(predictor: Predictor, tiny_videos: Path):
    video = sorted(tiny_videos.rglob("*.avi"))[5]
    with cached_video(predictor, video) as cached:
        yield explain(predictor, cached, predictor(video)), cached


def test_the_line_follows_the_video(explained: tuple[Explanation, CachedVideo]) -> None:
    explanation, cached = explained
    frames = list(draw_frames(explanation, cached))
    assert len(frames) == explanation.num_frames
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    # Columns that change in the lower part are those of the line, before and now.
    lower = slice(-80, None)
    places = []
    for earlier, later in itertools.pairwise(frames):
        changed = np.flatnonzero((earlier[lower] != later[lower]).any(axis=(0, 2)))
        assert 1 <= len(changed) <= 4
        places.append(changed.max())
    assert (np.diff(places) > 0).all()


def test_where_nothing_speaks_for_the_answer_pictures_are_dark(
    explained: tuple[Explanation, CachedVideo],
) -> None:
    explanation, cached = explained
    rgb = explanation.looks["rgb"]
    heats = {"cold": np.zeros_like(rgb.heat), "hot": np.ones_like(rgb.heat)}
    means = {}
    for name, heat in heats.items():
        looks = {**explanation.looks, "rgb": dataclasses.replace(rgb, heat=heat)}
        frame = next(draw_frames(dataclasses.replace(explanation, looks=looks), cached))
        means[name] = frame[100:200, 40:200].mean()
    assert means["cold"] < 0.6 * means["hot"]


@pytest.mark.parametrize("streams", [("rgb", "flow"), ("rgb",), ("flow",)], ids="+".join)
def test_pictures_of_models_with_other_parts(
    explained: tuple[Explanation, CachedVideo], tmp_path: Path, streams: tuple[str, ...]
) -> None:
    explanation, cached = explained
    prediction = explanation.prediction
    if len(streams) == 1:
        alone = {name: prediction.probabilities[name] for name in streams}
        prediction = dataclasses.replace(prediction, probabilities=alone, stream_weights=None)
    looks = {name: dataclasses.replace(explanation.looks[name], places=None) for name in streams}
    part = dataclasses.replace(explanation, prediction=prediction, looks=looks)
    plot_explanation(part, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert next(draw_frames(part, cached)).ndim == 3


def test_the_command_explains_what_it_predicts(
    tiny_run: Path, tiny_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted(tiny_videos.rglob("*.avi"))[:2]
    checkpoint = str(tiny_run / "checkpoints" / "best.ckpt")
    folder = tmp_path / "deep" / "folder"
    arguments = [checkpoint, *map(str, videos), str(tmp_path / "none.avi"), "--device=cpu"]
    assert main([*arguments, f"--explain={folder}"]) == 1
    explained = capsys.readouterr()
    names = [f"{video.name}.{suffix}" for video in videos for suffix in ("mp4", "png")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert main(arguments) == 1
    assert capsys.readouterr().out == explained.out
    (tmp_path / "file").touch()
    assert main([*arguments, f"--explain={tmp_path / 'file'}"]) == 2
    assert "cannot be made" in capsys.readouterr().err
