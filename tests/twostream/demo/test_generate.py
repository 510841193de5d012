"""The embedded demo: its files, and that neither stream alone can know its classes."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import RandomForestClassifier

from twostream.demo import generate
from twostream.demo.figure import Outfit, Pose, draw_figure
from twostream.demo.generate import MANIFEST_NAME, DemoSettings, demo_classes, generate_demo, write_video
from twostream.demo.scene import APPEARANCES, MOTIONS, make_group, plan_clip, render_clip
from twostream.errors import ConfigError, DataError

SMALL = DemoSettings(groups=2, clips=1, min_frames=8, max_frames=10, width=64, height=48)
PROBED = DemoSettings(groups=4, clips=2, min_frames=28, max_frames=32, width=84, height=64)
CHANCE = 1 / 3
SAMPLED = 6  # frames of a clip that the RGB stream sees
STACK = 5  # flow fields at each place that the flow stream sees


def read_video(path: Path) -> npt.NDArray[np.uint8]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.stack(frames)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def to_grey(video: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]).astype(np.int64)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_demo(tmp_path_factory.mktemp("small") / "demo", settings=SMALL, progress=False)


# --- the files ---


def test_classes_are_all_pairs_of_an_appearance_and_a_motion() -> None:
    assert len(demo_classes()) == len(APPEARANCES) * len(MOTIONS) == 9
    assert set(demo_classes()) == {f"{look}_{motion}" for look in APPEARANCES for motion in MOTIONS}
    assert list(demo_classes()) == sorted(demo_classes())


def test_every_group_holds_clips_of_every_class(small_demo: Path) -> None:
    found = {path.relative_to(small_demo).as_posix() for path in small_demo.rglob("*.avi")}
    assert found == {f"{name}/{name}_g{group:02d}_c01.avi" for name in demo_classes() for group in (1, 2)}


def test_videos_have_the_size_rate_and_length_of_the_settings(small_demo: Path) -> None:
    lengths = set()
    for path in small_demo.rglob("*.avi"):
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == SMALL.fps
        frames = read_video(path)
        assert frames.shape[1:] == (SMALL.height, SMALL.width, 3)
        lengths.add(len(frames))
    assert lengths == {8, 9, 10}


def test_same_seed_gives_the_same_bytes_and_another_seed_other_pixels(
    small_demo: Path, tmp_path: Path
) -> None:
    again = generate_demo(tmp_path / "again", settings=SMALL, progress=False)
    assert contents(again) == contents(small_demo)
    other_settings = DemoSettings(seed=1, groups=2, clips=1, min_frames=8, max_frames=10, width=64, height=48)
    other = generate_demo(tmp_path / "other", settings=other_settings, progress=False)
    assert all(contents(other)[name] != data for name, data in contents(small_demo).items())


def test_no_two_clips_are_alike(small_demo: Path) -> None:
    videos = [data for name, data in contents(small_demo).items() if name.endswith(".avi")]
    assert len(set(videos)) == len(videos) == 18


def test_jpeg_keeps_the_rendered_pixels(small_demo: Path) -> None:
    clip = next(generate._clips(SMALL))
    group = make_group(np.random.default_rng([SMALL.seed, clip.group]), SMALL.height, SMALL.width)
    rendered = generate._render(clip, group, SMALL)
    stored = read_video(small_demo / clip.path)
    assert np.abs(to_grey(rendered) - to_grey(stored)).mean() < 3


# --- whole, reused, redone or refused ---


def test_complete_demo_is_reused_untouched(tmp_path: Path) -> None:
    root = generate_demo(tmp_path / "demo", settings=SMALL, progress=False)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*")}
    assert generate_demo(root, settings=SMALL, progress=False) == root
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*")} == before


def test_an_empty_folder_is_filled(small_demo: Path, tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    generate_demo(root, settings=SMALL, progress=False)
    assert contents(root) == contents(small_demo)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_demo_is_made_again(small_demo: Path, tmp_path: Path, damage: str) -> None:
    root = generate_demo(tmp_path / "demo", settings=SMALL, progress=False)
    victim = next(root.rglob("*_g02_c01.avi"))
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-100])
    generate_demo(root, settings=SMALL, progress=False)
    assert contents(root) == contents(small_demo)


def test_interrupted_run_leaves_nothing_and_the_next_one_succeeds(small_demo: Path, tmp_path: Path) -> None:
    written = []

    def interrupted(path: Path, frames: npt.NDArray[np.uint8], fps: int) -> None:
        if len(written) >= 3:
            raise KeyboardInterrupt
        written.append(path)
        write_video(path, frames, fps)

    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path / "demo", settings=SMALL, progress=False, write=interrupted)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []
    generate_demo(tmp_path / "demo", settings=SMALL, progress=False)
    assert contents(tmp_path / "demo") == contents(small_demo)


def test_remains_of_a_killed_run_are_swept_but_a_running_one_is_left_alone(tmp_path: Path) -> None:
    killed, running = tmp_path / ".demo.partial-1", tmp_path / ".demo.partial-2"
    for folder in (killed, running):
        folder.mkdir()
        (folder / "half.avi").write_bytes(b"RIFF")
    hours_ago = time.time() - 2 * 3600
    os.utime(killed, (hours_ago, hours_ago))
    generate_demo(tmp_path / "demo", settings=SMALL, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.partial-2", "demo"]


def test_folder_with_other_content_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="other files"):
        generate_demo(tmp_path, settings=SMALL, progress=False)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_damaged_demo_with_a_foreign_file_is_refused_and_kept(tmp_path: Path) -> None:
    root = generate_demo(tmp_path / "demo", settings=SMALL, progress=False)
    next(root.rglob("*.avi")).unlink()
    (root / "red_shirt_jumps" / "notes.txt").write_text("keep me")
    before = contents(root)
    with pytest.raises(DataError, match=r"notes\.txt"):
        generate_demo(root, settings=SMALL, progress=False)
    assert contents(root) == before


def test_demo_of_other_settings_is_refused_by_name(small_demo: Path) -> None:
    before = contents(small_demo)
    with pytest.raises(DataError, match="clips 1 instead of 2"):
        generate_demo(small_demo, settings=DemoSettings(groups=2, clips=2, min_frames=8, max_frames=10))
    assert contents(small_demo) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "settings": [], "videos": {}}'])
def test_a_manifest_that_is_not_ours_is_other_content(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(DataError, match="other files"):
        generate_demo(tmp_path, settings=SMALL, progress=False)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    path.write_text("a file")
    with pytest.raises(DataError, match="is a file"):
        generate_demo(path, settings=SMALL, progress=False)
    with pytest.raises(DataError, match="cannot make the demo"):
        generate_demo(path / "below", settings=SMALL, progress=False)


def test_a_video_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "clip.avi"
    with pytest.raises(DataError, match=r"clip\.avi"):
        write_video(path, np.zeros((8, 48, 64, 3), dtype=np.uint8), 25)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": 1}, "groups must be at least 2, got 1"),
        ({"clips": 0}, "clips"),
        ({"seed": -1}, "seed"),
        ({"min_frames": 30, "max_frames": 20}, "got 20 and 30"),
        ({"width": 113}, "even"),
        ({"height": 20}, "height"),
    ],
)
def test_unusable_settings_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DemoSettings(**wrong)


# --- what each stream can and cannot know ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("motion", MOTIONS)
def test_grey_video_does_not_depend_on_the_appearance(seed: int, motion: str) -> None:
    group = make_group(np.random.default_rng([9, seed]), 84, 112)
    clips = [
        render_clip(np.random.default_rng(seed), group, shirt, MOTIONS[motion], 8)
        for shirt in APPEARANCES.values()
    ]
    greys = [to_grey(clip) for clip in clips]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = np.abs(greys[i] - greys[j])
        assert difference.mean() < 0.1  # grey levels: rounding of the colour conversions
        assert np.quantile(difference, 0.999) <= 2
        assert np.abs(clips[i].astype(int) - clips[j].astype(int)).max() > 60


@pytest.mark.parametrize("seed", range(5))
def test_place_of_the_figure_and_swing_do_not_depend_on_the_motion(seed: int) -> None:
    plans = {
        name: plan_clip(np.random.default_rng(seed), motion, 32, 84, 112) for name, motion in MOTIONS.items()
    }
    reference = plans["jumps"]
    for plan in plans.values():
        np.testing.assert_array_equal(plan.figure, reference.figure)
        np.testing.assert_array_equal(plan.swing, reference.swing)
    # What tells the motions apart: the wallpaper goes against the person, 2 px a frame or more.
    camera = reference.figure - reference.figure[0]
    moved = {motion: plan.wallpaper - plan.wallpaper[0] - camera for motion, plan in plans.items()}
    np.testing.assert_allclose(moved["walks_left"], -moved["walks_right"], atol=1e-9)
    assert np.diff(moved["walks_left"][:, 0]).min() > 1.5
    np.testing.assert_allclose(moved["walks_left"][:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(moved["jumps"][:, 0], 0, atol=1e-9)
    assert 9 < np.ptp(moved["jumps"][:, 1]) < 15


@pytest.mark.parametrize("legs", [0.0, 0.4, -0.3])
def test_figure_is_mirror_symmetric(legs: float) -> None:
    group = make_group(np.random.default_rng(3), 84, 112)
    outfit = Outfit(
        shirt=(115, 190, 110),
        stripe=(125, 190, 110),
        trousers=(60, 128, 128),
        shoes=(30, 128, 128),
        skin=group.skin,
        hair=group.hair,
    )
    middle = Pose(x=(112 - 1) / 2, y=42.0, legs=legs, arms=0.6)
    colour, coverage = draw_figure(84, 112, group.build, outfit, middle)
    assert coverage.max() == 1
    assert 0.1 < coverage.mean() < 0.4
    assert np.abs(coverage - coverage[:, ::-1]).mean() < 0.02 * coverage.mean()
    assert np.abs(colour - colour[:, ::-1]).mean() < 0.03 * colour.mean()


@dataclass(frozen=True)
class Probe:
    """Features of all clips of a demo, one row a clip, with their appearance, motion and group."""

    colours: npt.NDArray[np.float64]  # hue histogram of the colourful pixels
    places: npt.NDArray[np.float64]  # of the colourful pixels' centre in the sampled frames, and its changes
    pictures: npt.NDArray[np.float64]  # sampled frames, 14 x 10 pixels
    flow: npt.NDArray[np.float64]  # quantiles of u and v over the sampled stacks
    appearance: npt.NDArray[np.int64]
    motion: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]

    def held_out_accuracy(self, features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
        """Train on two groups and predict the other two, both ways."""
        hits = []
        for held_out in ((1, 2), (3, 4)):
            test = np.isin(self.group, held_out)
            forest = RandomForestClassifier(100, random_state=0).fit(features[~test], labels[~test])
            hits.append(forest.predict(features[test]) == labels[test])
        return float(np.concatenate(hits).mean())


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    root = generate_demo(tmp_path_factory.mktemp("probe") / "demo", settings=PROBED, progress=False)
    clips = list(generate._clips(PROBED))
    rows = [_features(read_video(root / clip.path)) for clip in clips]
    return Probe(
        *(np.stack(column) for column in zip(*rows, strict=True)),
        appearance=np.array([list(APPEARANCES).index(clip.appearance) for clip in clips]),
        motion=np.array([list(MOTIONS).index(clip.motion) for clip in clips]),
        group=np.array([clip.group for clip in clips]),
    )


def _features(video: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], ...]:
    sampled = ((np.arange(SAMPLED) + 0.5) * len(video) / SAMPLED).astype(int)
    histograms, centres, pictures = [], [], []
    for frame in video[sampled]:
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        colourful = hsv[..., 1] > 110
        histograms.append(np.bincount(hsv[..., 0][colourful] // 15, minlength=12) / colourful.sum())
        centres.append([np.median(axis) for axis in np.nonzero(colourful)])
        pictures.append(cv2.resize(frame, (14, 10), interpolation=cv2.INTER_AREA))
    place = np.array(centres)
    places = np.concatenate([place.ravel(), np.diff(place, axis=0).ravel(), place.std(axis=0)])
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    starts = ((np.arange(3) + 0.5) * (len(video) - STACK) / 3).astype(int)
    fields = np.stack(
        [
            cv2.calcOpticalFlowFarneback(grey[t], grey[t + 1], None, 0.5, 3, 15, 2, 5, 1.1, 0)
            for start in starts
            for t in range(start, start + STACK)
        ]
    )
    flow = np.quantile(fields, (0.1, 0.25, 0.5, 0.75, 0.9), axis=(0, 1, 2)).ravel()
    return np.mean(histograms, axis=0), places, np.stack(pictures).ravel() / 255.0, flow


def test_frames_tell_the_appearance_in_held_out_groups(probe: Probe) -> None:
    assert probe.held_out_accuracy(probe.colours, probe.appearance) > 0.95
    assert probe.held_out_accuracy(probe.pictures, probe.appearance) > 0.9


@pytest.mark.parametrize("features", ["colours", "places", "pictures"])
def test_sampled_frames_do_not_tell_the_motion(probe: Probe, features: str) -> None:
    assert probe.held_out_accuracy(getattr(probe, features), probe.motion) < CHANCE + 0.17


def test_flow_tells_the_motion_in_held_out_groups(probe: Probe) -> None:
    assert probe.held_out_accuracy(probe.flow, probe.motion) > 0.95


def test_flow_does_not_tell_the_appearance(probe: Probe) -> None:
    assert probe.held_out_accuracy(probe.flow, probe.appearance) < CHANCE + 0.17
