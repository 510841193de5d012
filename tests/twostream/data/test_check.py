import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache import CacheFileError, cache_path
from twostream.data.check import check_data
from twostream.data.settings import DataConfig, SplitConfig
from twostream.errors import DataError

from .conftest import VIDEOS, write_cache_file

SHARED = Path(__file__).parents[4] / "shared" / "data"


def write_video(path, seed, frames=8):
    """A video of a smooth random picture that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = np.random.default_rng(seed).integers(0, 256, (6, 12, 3)).astype(np.uint8)
    picture = cv2.resize(rough, (192, 48), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for place in range(frames):
        writer.write(picture[:, 12 * place : 12 * place + 64])
    writer.release()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of four sources, one clip each."""
    root = tmp_path_factory.mktemp("check") / "videos"
    for label, name in enumerate(("fly", "run")):
        for source in range(1, 5):
            write_video(root / name / f"v_{name}_g{source:02d}_c01.avi", 10 * label + source)
    return root


@pytest.fixture
def root(videos, tmp_path):
    for file in videos.rglob("*.avi"):
        (tmp_path / "videos" / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file.relative_to(videos)).write_bytes(file.read_bytes())
    return tmp_path / "videos"


def config_of(root, **settings):
    return DataConfig(root=str(root), stack=2, split=SplitConfig(val_fraction=0), **settings)


def test_a_data_set_without_faults(videos):
    report = check_data(config_of(videos))
    assert report.problems == report.unchecked == report.leaks == report.identical == report.alike == []
    assert (report.videos, report.labelled, report.sources) == (8, 8, 8)
    assert report.sides == {"train": 6, "validation": 0, "test": 2}
    assert report.classes[0] == {
        "class": "fly", "videos": 4, "sources": 4, "train": 3, "validation": 0, "test": 1
    }  # fmt: skip
    assert report.cache is None
    assert json.loads(json.dumps(asdict(report)))["group_rule"] == report.group_rule


def test_every_fault_is_named(root):
    (root / "fly" / "text.avi").write_text("no video")
    (root / "run" / "my own clip.avi").write_bytes((root / "run" / "v_run_g01_c01.avi").read_bytes())
    write_video(root / "run" / "v_run_g02_c02.avi", 99, frames=2)
    write_video(root / "run" / "v_run_g09_c01.avi", 1)  # the pictures of fly's first source
    (root / "run" / "v_run_g09_c01.avi").open("ab").write(b"JUNK")  # but not its bytes
    report = check_data(config_of(root))
    assert report.ungrouped == ["fly/text.avi", "run/my own clip.avi"]
    assert [same["videos"] for same in report.identical] == [["run/my own clip.avi", "run/v_run_g01_c01.avi"]]
    # That the same files look alike goes without saying.
    assert [alike["sources"] for alike in report.alike] == [["fly_g01", "run_g09"]]
    assert list(report.unreadable) == ["fly/text.avi"]
    assert report.short == {"run/v_run_g02_c02.avi": 1}
    text = "\n".join(report.problems)
    for words in (
        "fits 2 of 12 videos, such as fly/text.avi",
        "1 video not readable as a whole, such as fly/text.avi: ",
        "1 video with fewer flow fields than data.stack=2, such as run/v_run_g02_c02.avi (1)",
    ):
        assert words in text


def test_a_file_on_two_sides_under_two_names_is_a_problem(root, tmp_path):
    (root / "run" / "mine.avi").write_bytes((root / "run" / "v_run_g01_c01.avi").read_bytes())
    table = tmp_path / "t.csv"
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.avi"))
    rows = [
        f"{name},{name[:3]},{'test' if 'mine' in name or 'fly_g01' in name else 'train'}" for name in names
    ]
    table.write_text("\n".join(["path,label,split", *rows]))
    report = check_data(config_of(root, lists=str(table), groups="auto,video"))
    assert [same["sides"] for same in report.identical] == [["train", "test"]]
    assert any("1 file under several names on several sides" in problem for problem in report.problems)


def test_leaking_sources_are_all_named_though_the_split_is_refused(root, tmp_path):
    for source in (1, 2, 3):
        write_video(root / "fly" / f"v_fly_g{source:02d}_c02.avi", 50 + source)
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.avi"))
    rows = [
        f"{name},{name[:3]},{'test' if 'c02' in name or 'run_g04' in name else 'train'}" for name in names
    ]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,split", *rows, "fly/gone_g01_c01.avi,fly,train"]))
    report = check_data(config_of(root, lists=str(table)), fast=True)
    assert report.leaks == [
        {"source": f"fly_g0{n}", "sides": ["train", "test"], "classes": ["fly"]} for n in (1, 2, 3)
    ]
    assert report.sides == {"train": 7, "validation": 0, "test": 4}
    assert report.missing == ["fly/gone_g01_c01.avi"]
    assert "1 of 12 listed videos (8.3 %) are not on disk" in report.problems[0]
    assert "3 source groups have videos of one class in training and test" in report.problems[1]
    assert report.unchecked == [
        "whether 11 videos that the flow cache lacks can be read",
        "whether 11 videos look like those of another source",
    ]


def test_what_the_cache_holds_and_how_it_was_made(make_cache):
    cache = make_cache()
    config = DataConfig(cache=str(cache), stack=2, split=SplitConfig(val_fraction=0))
    report = check_data(config)
    assert report.cache is not None
    (settings,) = report.cache["settings"]
    assert settings["videos"] == report.cache["held"] == 12
    assert (settings["method"], settings["winsize"], settings["bound"]) == ("farneback", 15, 20.0)
    assert report.root is None
    assert report.problems == []
    # Frames of one colour show nothing, and these files know no hash of their videos.
    assert report.unchecked == [
        "whether 12 videos are the same file as another: the cache has no hash of them",
    ]
    write_cache_file(cache, sorted(VIDEOS)[0], 5, bound=10.0)
    write_cache_file(cache, "fly/v_fly_g05_c01.avi", 5, gap=3)
    report = check_data(replace(config, stack=6))
    assert [entry["videos"] for entry in report.cache["settings"]] == [12, 1]
    assert "made with 2 different settings" in report.problems[-1]
    assert report.unreadable == {"fly/v_fly_g05_c01.avi": "frame 3: damaged"}
    assert report.short == {sorted(VIDEOS)[0]: 5, "fly/v_fly_g05_c01.avi": 2}


def test_the_cache_serves_where_it_can_and_the_videos_where_it_lacks_them(videos, make_cache, tmp_path):
    cache = make_cache({"fly/v_fly_g01_c01.avi": 5, "fly/gone.avi": 5})
    (cache / "failures.csv").write_text("video,reason\nrun/v_run_g01_c01.avi,broken\n")
    report = check_data(config_of(videos, cache=str(cache)))
    assert report.cache is not None
    assert (report.cache["held"], report.cache["others"], len(report.cache["lacking"])) == (1, 1, 7)
    assert report.unreadable == {"run/v_run_g01_c01.avi": "broken"}
    damaged = cache_path(cache, "fly/v_fly_g01_c01.avi")
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with pytest.raises(CacheFileError):
        check_data(config_of(videos, cache=str(cache)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no videos are given"),
        ({"root": "none"}, "data root none is not a folder"),
        ({"root": ".", "lists": "none"}, "data.lists none does not exist"),
    ],
)
def test_what_is_not_there_is_refused(settings, message):
    with pytest.raises(DataError, match=message):
        check_data(DataConfig(**settings))


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "jhmdb").is_dir(), reason="needs the clips of ../shared/data")
def test_jhmdb_is_whole_and_its_shared_films_are_named():
    config = DataConfig(
        root=str(SHARED / "jhmdb"),
        format="jhmdb",
        lists=str(SHARED / "splits" / "hmdb51"),
        split=SplitConfig(leakage="report"),
    )
    report = check_data(config, fast=True)
    assert (report.videos, report.labelled, report.listed, len(report.left_out)) == (928, 906, 928, 22)
    assert len(report.leaks) == 25
    assert all(leak["classes"] == [] for leak in report.leaks)
    assert report.identical == []
    assert report.problems == []
