import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_cache.cache.index import read_index
from flow_cache.cache.naming import cache_path
from flow_cache.commands.verify import Videos, verify_cache
from flow_cache.errors import ArgumentError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.inputs import Inputs, choose_videos, expand_videos, parse_shard, read_list
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig

EVIL = [
    "../a.avi", "/etc/passwd", "x/../../a.avi", "..", "x/..", "C:\\a.avi", "C:a.avi", "x/D:/a.avi", "\\\\host\\a.avi",
    "..\\a.avi", "x/..\\..\\a.avi", "a\0.avi", "/", ".", "", "//a.avi", ".hidden.avi", "x/.avi",
]  # fmt: skip


@pytest.fixture
def videos(tmp_path: Path, make_video) -> Path:
    root = tmp_path / "videos"
    for n, name in enumerate(("walk/a.avi", "walk/b c.avi", "run/d.mp4")):
        make_video(root / name, frames=3, seed=n)
    images = root / "pictures" / "clip.1"
    images.mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(images / f"{number}.png"), np.full((16, 20), number, np.uint8))
    return root


def manifest(path: Path, column: str, names: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["label", column])
        writer.writerows(["x", name] for name in names)
    return path


NAMES = ["walk/b c.avi", "pictures/clip.1", "run/d.mp4"]


def lists(folder: Path) -> dict[str, Path]:
    plain = folder / "plain.txt"
    plain.write_text("\n".join(NAMES) + "\n")
    windows = folder / "windows.lst"
    windows.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join([*NAMES, "./run//d.mp4"]).encode())
    return {
        "plain": plain,
        "windows": windows,
        "path": manifest(folder / "path.csv", "path", NAMES),
        "video": manifest(folder / "video.CSV", "video", NAMES),
    }


@pytest.mark.parametrize("kind", ["plain", "windows", "path", "video"])
def test_lists_and_manifests_name_videos_from_where_they_lie_or_from_a_root(
    kind: str, videos: Path, tmp_path: Path
) -> None:
    inside = lists(videos)[kind]
    assert choose_videos(inside) == Inputs(videos, NAMES)
    outside = lists(tmp_path)[kind]
    assert choose_videos(outside, root=videos) == Inputs(videos, NAMES)
    cache = tmp_path / "cache"
    config = PrecomputeConfig(outside, cache, flow=FlowSettings(method="farneback"), workers=1, root=videos)
    summary = precompute(config, progress=False)
    assert (summary.done, summary.failures) == (3, [])
    assert sorted(entry.video for entry in read_index(cache)) == sorted(NAMES)
    # The same videos had from the folder are the same files.
    whole = precompute(replace(config, input=videos, root=None), progress=False)
    assert (whole.done, whole.skipped) == (1, 3)


def test_a_manifest_may_quote_what_it_likes(videos: Path) -> None:
    names = ['odd "name",\nof two lines.avi', "b.avi"]
    assert read_list(manifest(videos / "m.csv", "path", names)) == names
    both = videos / "both.csv"
    both.write_text("video,path\nwrong.avi,right.avi\n")
    assert read_list(both) == ["right.avi"]


@pytest.mark.parametrize("name", EVIL)
def test_paths_that_lead_out_are_refused_wherever_they_come_from(
    name: str, videos: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "deep" / "cache"
    config = PrecomputeConfig(videos, cache, flow=FlowSettings(method="farneback"), workers=1)
    with pytest.raises(ArgumentError, match=r"inside the input folder|hidden files"):
        precompute(config, [name], progress=False)
    if name and name != ".":  # an empty line of a list is none
        plain = videos / "list.txt"
        plain.write_bytes(b"walk/a.avi\n\n" + name.encode() + b"\n")
        with pytest.raises(ArgumentError, match=r"list\.txt, line 3: "):
            precompute(replace(config, input=plain), progress=False)
    table = manifest(videos / "list.csv", "path", ["walk/a.avi", name])
    with pytest.raises(ArgumentError, match=r"list\.csv, line 3: "):
        precompute(replace(config, input=table), progress=False)
    assert not (tmp_path / "deep").exists()


@given(
    st.lists(
        st.sampled_from(["a", "..", ".", "", "/", "\\", "\0", "C:", "x.avi", "é", "~", "$HOME"]), max_size=6
    )
)
def test_no_path_ever_leads_out(parts: list[str]) -> None:
    root = Path("/some/root")
    for name in ("/".join(parts), "".join(parts)):
        try:
            target = cache_path(root, name)
        except ArgumentError:
            continue
        assert os.path.normpath(target) == str(target)
        assert target.is_relative_to(root)
        assert "\0" not in str(target)


@pytest.mark.parametrize(
    "names",
    [
        ["a.avi", "a.mp4"], ["a.avi", "A.avi"], ["x/a.avi", "X/a.avi"], ["caf\u00e9.avi", "cafe\u0301.avi"],
        ["a", "a.avi"], ["stra\u00dfe.avi", "STRASSE.avi"],
    ],
)  # fmt: skip
def test_of_names_that_would_meet_in_one_file_the_first_is_taken(names: list[str], tmp_path: Path) -> None:
    chosen = choose_videos(tmp_path, videos=names)
    assert chosen.names == names[:1]
    assert list(chosen.refused) == names[1:]
    assert f"with {names[0]}; rename one" in chosen.refused[names[1]]
    assert choose_videos(tmp_path, videos=[names[0]]) == Inputs(tmp_path, names[:1])


def test_a_folder_in_the_place_of_a_cache_file_is_refused(tmp_path: Path) -> None:
    chosen = choose_videos(tmp_path, videos=["a.avi", "a.flow.zip/b.avi"])
    assert chosen.names == ["a.avi"]
    assert chosen.refused == {
        "a.flow.zip/b.avi": "lies in a folder named like the cache file of a.avi; rename one"
    }


def test_a_link_in_the_cache_folder_does_not_lead_out(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache" / "run").symlink_to(tmp_path / "elsewhere")
    config = PrecomputeConfig(
        lists(videos)["plain"], tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1
    )
    with pytest.raises(ArgumentError, match="leads out of the cache folder"):
        precompute(config, progress=False)
    # A link in the place of a cache file is replaced, not followed.
    (tmp_path / "cache" / "run").unlink()
    (tmp_path / "cache" / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "cache" / "run" / "d.flow.zip").symlink_to(tmp_path / "precious")
    assert precompute(config, progress=False).failures == []
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "\n \n", "names no videos"),
        ("m.csv", "path\n", "names no videos"),
        ("m.csv", "", "needs a column `path` or `video`, has: none"),
        ("m.csv", "file,label\na.avi,1\n", "has: file, label"),
        ("m.csv", "path,label\n,1\n", "line 2: has no path"),
        ("m.csv", 'path\n"a.avi\n', "line"),
    ],
)
def test_unusable_lists_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ArgumentError) as caught:
        choose_videos(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_root_belongs_to_lists(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="lists and manifests only"):
        choose_videos(videos, root=tmp_path)
    with pytest.raises(ArgumentError, match="no such folder"):
        choose_videos(lists(tmp_path)["plain"], root=tmp_path / "none")


@given(st.sets(st.text("abcdef", min_size=1, max_size=8), min_size=1, max_size=40), st.integers(1, 7))
def test_shards_are_disjoint_complete_and_do_not_hang_on_the_others(names: set[str], count: int) -> None:
    ordered = sorted(f"{name}.avi" for name in names)
    parts = [choose_videos(".", videos=ordered, shard=f"{n}/{count}").names for n in range(1, count + 1)]
    assert Counter(name for part in parts for name in part) == Counter(ordered)
    fewer = ordered[::2]
    for n, part in enumerate(parts, 1):
        assert choose_videos(".", videos=fewer, shard=f"{n}/{count}").names == [
            name for name in part if name in fewer
        ]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", "", "1.5/3"])
def test_unusable_shards_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="shard must be i/n"):
        parse_shard(text)


def test_shards_fill_one_cache_and_keep_their_own_failures(videos: Path, tmp_path: Path) -> None:
    (videos / "broken.avi").write_text("no video")
    cache = tmp_path / "cache"
    config = PrecomputeConfig(videos, cache, flow=FlowSettings(method="farneback"), workers=1)
    summaries = [precompute(replace(config, shard=f"{n}/3"), progress=False) for n in (1, 2, 3)]
    assert sum(summary.done for summary in summaries) == 4
    (failed,) = [n for n, summary in enumerate(summaries, 1) if summary.failures]
    assert [path.name for path in cache.glob("failures*")] == [f"failures.{failed}-of-3.csv"]
    assert len(read_index(cache)) == 4
    again = precompute(config, progress=False)
    assert (again.done, again.skipped, len(again.failures)) == (0, 4, 1)
    assert [path.name for path in cache.glob("failures*")] == ["failures.csv"]


def test_what_is_only_read_may_have_any_name_and_lie_anywhere(videos: Path, tmp_path: Path) -> None:
    for name in ("a\\b.mp4", ".h.mp4", "C:x.mp4", "none.mp4"):
        assert expand_videos(tmp_path / name) == [tmp_path / name]
    (videos / "walk" / "a.mp4").touch()  # beside a.avi: they would share a cache file
    assert expand_videos(videos) == sorted(
        videos / name for name in ("walk/a.avi", "walk/a.mp4", "walk/b c.avi", "run/d.mp4", "pictures/clip.1")
    )
    assert expand_videos(videos / "pictures" / "clip.1") == [videos / "pictures" / "clip.1"]
    entries = ["C:x.mp4", "../up.avi", "/anywhere/a.avi", "walk/a.avi", "C:x.mp4"]
    for listed in (tmp_path / "list.txt", manifest(tmp_path / "list.csv", "video", entries)):
        listed.write_text("\n".join(entries)) if listed.suffix == ".txt" else None
        for root in (None, videos):
            start = root or tmp_path
            expected = [start / "C:x.mp4", start / "../up.avi", Path("/anywhere/a.avi"), start / "walk/a.avi"]
            assert expand_videos(listed, root=root) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "No such file"),
        ("empty.txt", "\n", "names no videos"),
        ("empty.csv", "path\n", "names no videos"),
        ("other.csv", "label\nx\n", "needs a column"),
    ],
)
def test_a_list_that_names_nothing_is_refused(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ArgumentError, match=message):
        expand_videos(tmp_path / name)


def test_a_folder_without_videos_and_a_root_without_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no videos found"):
        expand_videos(tmp_path)
    with pytest.raises(ArgumentError, match="root is for lists and manifests only"):
        expand_videos(tmp_path / "a.avi", root=tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_names_with_bytes_that_are_no_utf8_work(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9/clip\xff", b"b\xfe.01")]
    for name in names:
        folder = tmp_path / "in" / name
        try:
            folder.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        for number in range(3):
            encoded = cv2.imencode(".png", np.full((16, 20), number, np.uint8))[1]
            (folder / f"{number}.png").write_bytes(encoded.tobytes())
    (tmp_path / "in" / os.fsdecode(b"empty\xff.avi")).touch()
    cache = tmp_path / "cache"
    config = PrecomputeConfig(tmp_path / "in", cache, flow=FlowSettings("farneback"), workers=1)
    assert estimate(config).plan.new == sorted([*names, os.fsdecode(b"empty\xff.avi")])
    for done in (2, 0):
        summary = precompute(config, progress=False)
        assert (summary.done, summary.skipped) == (done, 2 - done)
        assert [os.fsencode(failure.video) for failure in summary.failures] == [b"empty\xff.avi"]
    assert sorted(entry.video for entry in read_index(cache)) == sorted(names)
    assert b"empty\xff.avi," in (cache / "failures.csv").read_bytes()
    listed = tmp_path / "in" / "list.txt"
    listed.write_bytes(b"caf\xe9/clip\xff\nb\xfe.01\n")
    assert precompute(replace(config, input=listed), progress=False).skipped == 2
    faults = verify_cache(cache, Videos(tmp_path / "in"), progress=False).faults
    assert [os.fsencode(fault.cache_file) for fault in faults] == [b"empty\xff.flow.zip"]
