"""Long videos in windows: each is looked at as a video of its length, in the memory of one window."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flow_cache import Frame, VideoError
from twostream.checkpoints import Checkpoint
from twostream.data.settings import StreamClips
from twostream.errors import ConfigError, DataError
from twostream.inference.predictor import Predictor
from twostream.inference.settings import WindowSettings
from twostream.inference.windows import Decision, Smoother

Make = Callable[..., Checkpoint]
Video = Callable[..., Path]


def decisions_of(predictor: Predictor, video: Path) -> tuple[list[Decision], object]:
    decisions: list[Decision] = []
    prediction = predictor(video, decisions.append)
    return decisions, prediction


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ({}, {}),
        ({"streams": ["rgb"], "spatial": "motion"}, {}),
        ({"streams": ["flow"], "levels": "semantic"}, {}),
        (
            {"fusion": "calibrated"},
            {"rgb": {"steps": 4, "eval_clips": 1}, "flow": {"size": (40, 32), "eval_clips": 3}},
        ),
    ],
)
def test_a_window_gets_the_answer_of_a_video_of_its_frames(
    make_checkpoint: Make, make_video: Video, model: dict, data: dict
) -> None:
    checkpoint = make_checkpoint({name: StreamClips(**values) for name, values in data.items()}, **model)
    predictor = Predictor(checkpoint, "cpu", windows=WindowSettings(window=16, every=5))
    decisions, _ = decisions_of(predictor, make_video("long.avi", 40))
    assert [(decision.first, decision.last) for decision in decisions] == [
        (first, first + 15) for first in range(0, 25, 5)
    ]
    for decision in decisions[::2]:
        cut = make_video("cut.avi", 16, decision.first)
        alone = predictor(cut)
        assert alone.windows == 0
        for name, values in alone.probabilities.items():
            np.testing.assert_allclose(decision.probabilities[name], values, atol=2e-6)
        if alone.stream_weights is not None:
            np.testing.assert_allclose(decision.stream_weights, alone.stream_weights, atol=2e-6)
    spread = np.ptp([decision.decision for decision in decisions], axis=0).max()
    assert spread > 1e-5  # or it would not show that each window has frames of its own


def test_a_video_is_the_mean_of_its_windows(make_checkpoint: Make, make_video: Video) -> None:
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(window=12, every=4))
    decisions, prediction = decisions_of(predictor, make_video("long.avi", 30))
    assert prediction.windows == len(decisions) == 5
    for name in predictor.outputs:
        mean = np.mean([decision.probabilities[name] for decision in decisions], axis=0)
        np.testing.assert_allclose(prediction.probabilities[name], mean, atol=1e-6)
    np.testing.assert_allclose(prediction.stream_weights.sum(), 1, atol=1e-6)


def test_attention_of_a_window_sums_to_one_over_its_frames(make_checkpoint: Make, make_video: Video) -> None:
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(window=12, every=6))
    decisions, _ = decisions_of(predictor, make_video("long.avi", 30))
    for decision in decisions:
        for attention in decision.attention.values():
            assert attention.weights.sum() == pytest.approx(1, abs=1e-5)
            assert (np.diff(attention.frames) > 0).all()
            assert decision.first <= attention.frames[0] <= attention.frames[-1] <= decision.last


def test_each_place_goes_through_the_network_once(make_checkpoint: Make) -> None:
    """With the default length, a later window costs one new place a clip and stream, whatever T is."""
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(every=8))
    assert predictor.length == 3 * 8 + 1 + 1
    classifier = predictor.classifier()
    seen: list[int] = []
    for name in predictor.model.names:
        stream = predictor.model.stream(name)
        stream.backbone.register_forward_hook(lambda module, images, maps: seen.append(len(images[0])))
    rng = np.random.default_rng(0)
    counts = []
    for n in range(60):
        levels = rng.integers(0, 256, (32, 40), np.uint8)
        if classifier.add(Frame(n, levels, np.stack([levels] * 3, axis=-1))) is not None:
            counts.append(sum(seen))
            seen.clear()
    views, streams, clips = 2, 2, 2
    assert counts[0] == 3 * clips * views * streams
    assert counts[1:] == [clips * views * streams] * 4


def test_memory_does_not_grow_with_the_video(make_checkpoint: Make) -> None:
    predictor = Predictor(
        make_checkpoint(streams=["flow"]), "cpu", windows=WindowSettings(window=12, every=60)
    )
    classifier = predictor.classifier()
    frames = [np.full((32, 40), n, np.uint8) for n in range(256)]

    def run(begin: int, count: int) -> int:
        kept = 0
        for n in range(begin, begin + count):
            classifier.add(Frame(n, frames[n % 256]))
            kept = max(kept, len(classifier.store))
        return kept

    run(0, 140)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert run(140, 2000) <= 12 + 2 * 60
        assert tracemalloc.get_traced_memory()[0] - before < 1 << 20
    finally:
        tracemalloc.stop()


def test_no_window_reaches_across_a_gap(make_checkpoint: Make) -> None:
    predictor = Predictor(
        make_checkpoint(streams=["flow"]), "cpu", windows=WindowSettings(window=10, every=2)
    )
    classifier = predictor.classifier()
    rng = np.random.default_rng(0)
    found = []
    for n in range(40):
        frame = Frame(n, rng.integers(0, 256, (32, 40), np.uint8))
        decision = classifier.add(frame, after_gap=n == 15)
        if decision is not None:
            found.append((decision.first, decision.last))
    assert found == [(f, f + 9) for f in (0, 2, 4)] + [(f, f + 9) for f in range(15, 31, 2)]


@pytest.mark.parametrize("most_held", [0, 1 << 28])
def test_a_short_video_is_looked_at_whole_whatever_memory_there_is(
    make_checkpoint: Make, make_video: Video, most_held: int
) -> None:
    video = make_video("short.avi", 30)
    checkpoint = make_checkpoint(flow={"step": 2})
    expected = Predictor(checkpoint, "cpu")(video)
    found = Predictor(checkpoint, "cpu", most_held=most_held)(video)
    assert found.windows == 0
    np.testing.assert_array_equal(found.decision, expected.decision)


def test_odd_videos_are_predicted_or_refused_with_a_reason(
    make_checkpoint: Make, make_video: Video, tmp_path: Path
) -> None:
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(window=20, every=6))
    for video in (
        make_video("still.avi", 15, still=True),
        make_video("still-long.avi", 40, still=True),
        make_video("large.avi", 8, size=(320, 60)),
        make_video("quick.avi", 40, fps=240),
    ):
        assert predictor(video).decision.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match=r"has 2 frames, too few: .* need at least 3 frames"):
        predictor(make_video("two.avi", 2))
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        predictor(tmp_path / "text.avi")
    long = make_video("cut.avi", 60)
    long.write_bytes(long.read_bytes()[: long.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match="--damaged keep-prefix looks at those before it"):
        predictor(long)
    prefix = Predictor(make_checkpoint(), "cpu", "cpu", "keep-prefix", WindowSettings(window=20, every=6))(
        long
    )
    assert prefix.windows > 0
    assert prefix.partial is not None


def test_nothing_is_written(make_checkpoint: Make, make_video: Video, tmp_path: Path, monkeypatch) -> None:
    video = make_video("a.avi", 40)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    for windows in (WindowSettings(), WindowSettings(window=20)):
        Predictor(make_checkpoint(), "cpu", windows=windows)(video)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


def test_smoothing_is_as_described() -> None:
    steps = [np.array([p, 1 - p], np.float32) for p in (0.0, 1.0, 1.0, 0.0)]
    exponential = Smoother("exponential", over=3)
    assert [float(exponential(p)[0]) for p in steps] == [0.0, 0.5, 0.75, 0.375]
    mean = Smoother("mean", over=2)
    assert [float(mean(p)[0]) for p in steps] == [0.0, 0.5, 1.0, 0.5]
    for kind in ("exponential", "mean"):
        none = Smoother(kind, over=1)
        assert [float(none(p)[0]) for p in steps] == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 0}, "--window must be at least 1, got 0"),
        ({"every": 0}, "--every must be at least 1, got 0"),
        ({"smoothing": "median"}, "--smoothing must be exponential or mean, got 'median'"),
    ],
)
def test_unusable_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowSettings(**values)


def test_a_window_must_hold_a_clip(make_checkpoint: Make) -> None:
    with pytest.raises(ConfigError, match=r"a window of 4 frames is too short for 3 steps.*at least 5"):
        Predictor(make_checkpoint(), "cpu", windows=WindowSettings(window=4))
