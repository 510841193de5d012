"""A cache in another codec: the file that computing it would have given, whatever happens on the way."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import known_sources, list_cache_files, read_index
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.cli.main import main
from flow_cache.commands.recode import RecodeConfig, recode_cache
from flow_cache.commands.verify import Videos, verify_cache
from flow_cache.errors import ArgumentError, CacheMismatchError
from flow_cache.pipeline.outcome import Failure, PrecomputeInterrupted, read_failures
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.video.damage import Gap

NAMES = ("walk/a.avi", "walk/b.avi", "c.mp4")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    root = tmp_path_factory.mktemp("recode") / "videos"
    for seed, name in enumerate(NAMES):
        make_video(root / name, frames=4, seed=seed)
    return root


@pytest.fixture(scope="session")
def computed(videos: Path) -> dict[str, Path]:
    """A cache of the videos for each codec, computed."""
    caches = {}
    for codec in ("jpegls", "zstd", "jpegxl"):
        caches[codec] = videos.parent / codec
        storage = StorageSettings(codec, rgb=True, rgb_short_side=30)
        flow = FlowSettings("farneback", "opencv", short_side=24)
        precompute(PrecomputeConfig(videos, caches[codec], flow, storage, workers=1), progress=False)
    return caches


@pytest.fixture
def cache(computed: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(computed["jpegls"], tmp_path / "cache")
    return tmp_path / "cache"


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.flow.zip")}


def recode(cache: Path, codec: str, output: Path | None = None, **options) -> tuple[int, int, list[Failure]]:
    summary = recode_cache(RecodeConfig(cache, codec, output, **options), progress=False)
    return summary.done, summary.skipped, summary.failures


@pytest.mark.parametrize("codec", ["zstd", "jpegxl"])
def test_a_recoded_cache_is_the_one_that_computing_gives(
    computed: dict[str, Path], cache: Path, tmp_path: Path, codec: str, videos: Path
) -> None:
    before = files_of(cache)
    assert recode(cache, codec, tmp_path / "other") == (3, 0, [])
    assert files_of(tmp_path / "other") == files_of(computed[codec])
    assert files_of(cache) == before
    assert recode(cache, codec) == (3, 0, [])
    assert files_of(cache) == files_of(computed[codec])
    assert verify_cache(cache, Videos(videos), decode=True, progress=False).faults == []
    for root in (cache, tmp_path / "other"):
        assert read_index(root) == read_index(computed[codec])
        # what is known of the videos is still known, so that no run reads them again
        assert len(known_sources(root, list_cache_files(root))) == 3
    assert recode(cache, "jpegls", workers=1) == (3, 0, [])
    assert files_of(cache) == before


def test_every_field_number_frame_and_reason_stays(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 2, 12, 16), dtype=np.uint8)
    frames = np.random.default_rng(1).integers(0, 256, (7, 12, 16, 3), dtype=np.uint8)
    for error in (0, 1, 2, 127):
        meta = CacheMeta(Source("a.avi"), "tvl1", storage=StorageSettings(max_error=error, rgb=True))
        with CacheWriter(tmp_path / "a.flow.zip", meta) as writer:
            writer.add_rgb(frames)
            writer.add_flow(levels[:2])
            writer.add_flow(levels[2:], first=3)
            writer.close(clip_fraction=0.5, partial="frame 3: lost", gaps=[Gap(3, 2)], frames=7)
        with CacheReader(tmp_path / "a.flow.zip") as reader:
            before, numbers, flow = reader.meta, reader.field_numbers, reader.flow(reader.field_numbers)
            pictures = [reader.encoded_rgb(n) for n in range(7)]
        for codec in ("zstd", "jpegxl", "jpegls"):
            recode(tmp_path, codec)
            with CacheReader(tmp_path / "a.flow.zip") as reader:
                assert reader.meta == before.recoded(codec)
                assert reader.field_numbers == numbers
                assert np.array_equal(reader.flow(numbers), flow)
                assert [reader.encoded_rgb(n) for n in range(7)] == pictures


@pytest.mark.parametrize("in_place", [True, False])
def test_an_interrupted_run_goes_on(
    computed: dict[str, Path], cache: Path, tmp_path: Path, in_place: bool
) -> None:
    output = cache if in_place else tmp_path / "other"

    opened: list[Path] = []

    class InterruptedReader(CacheReader):
        def encoded(self) -> Iterator[tuple[str, bytes]]:
            opened.append(self.path)
            if len(opened) == 2:
                yield next(super().encoded())
                raise KeyboardInterrupt
            yield from super().encoded()

    config = RecodeConfig(cache, "zstd", None if in_place else output)
    with pytest.raises(PrecomputeInterrupted) as stopped:
        recode_cache(config, progress=False, open_reader=InterruptedReader)
    assert (stopped.value.summary.done, stopped.value.summary.remaining) == (1, 2)
    assert not [path for path in output.rglob("*") if "tmp" in path.name]
    codecs = [CacheReader(path).meta.storage.codec for path in output.rglob("*.flow.zip")]
    assert sorted(codecs) == (["jpegls", "jpegls", "zstd"] if in_place else ["zstd"])
    assert len(read_index(output)) == len(codecs)
    assert recode(cache, "zstd", config.output) == (2, 1, [])
    assert files_of(output) == files_of(computed["zstd"])
    assert recode(cache, "zstd", config.output) == (0, 3, [])


def test_damaged_files_stay_and_are_named(cache: Path, tmp_path: Path) -> None:
    damaged, cut = cache_path(cache, NAMES[0]), cache_path(cache, NAMES[1])
    data = bytearray(damaged.read_bytes())
    data[data.index(b"flow/00001.jls") + 40] ^= 1
    damaged.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-50])
    before = files_of(cache)
    (cache / "failures.csv").write_text("video,reason\nlost.avi,no such file\nc.mp4,was mended\n")
    for output, names in ((tmp_path / "other", {"c.flow.zip"}), (cache, before.keys())):
        done, kept, failures = recode(cache, "zstd", output)
        assert (done, kept) == (1, 0)
        assert [(failure.video, failure.reason.split(":")[0]) for failure in failures] == [
            ("walk/b.flow.zip", "is not a whole zip file (its end record is missing)"),
            ("walk/a.flow.zip", "member flow/00001.jls"),
        ]
        # what an earlier run could not do is still not there
        assert [failure.video for failure in read_failures(output)] == [
            "lost.avi",
            "walk/a.flow.zip",
            "walk/b.flow.zip",
        ]
        assert files_of(output).keys() == names
    assert {name: files_of(cache)[name] for name in ("walk/a.flow.zip", "walk/b.flow.zip")} == {
        name: before[name] for name in ("walk/a.flow.zip", "walk/b.flow.zip")
    }
    assert main(["recode", str(cache), "--codec", "zstd"]) == 1


@pytest.mark.parametrize(
    ("storage", "codec", "reason"),
    [
        (StorageSettings("jpeg"), "zstd", "jpeg cannot become zstd exactly"),
        (StorageSettings("jpegls"), "png", "choose one of jpegls, zstd, jpegxl"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    tmp_path: Path, storage: StorageSettings, codec: str, reason: str
) -> None:
    with CacheWriter(tmp_path / "a.flow.zip", CacheMeta(Source("a.avi"), "tvl1", storage=storage)) as writer:
        writer.add_flow(np.full((1, 2, 8, 8), 128, np.uint8))
    before = files_of(tmp_path)
    with pytest.raises(ArgumentError, match=reason):
        recode(tmp_path, codec)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flow.zip"]
    assert files_of(tmp_path) == before


def test_png_and_lossless_grids_become_each_other(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 2, 8, 16)
    with CacheWriter(
        tmp_path / "a.flow.zip", CacheMeta(Source("a.avi"), "tvl1", storage=StorageSettings("png"))
    ) as writer:
        writer.add_flow(levels)
    before = files_of(tmp_path)
    for codec in ("zstd", "jpegxl", "jpegls", "png"):
        assert recode(tmp_path, codec) == (1, 0, [])
        with CacheReader(tmp_path / "a.flow.zip") as reader:
            assert reader.meta.storage.as_dict()["max_error"] == (None if codec == "png" else 0)
            assert np.array_equal(reader.flow([0]), levels)
    assert files_of(tmp_path) == before


def test_other_files_are_not_replaced(cache: Path, tmp_path: Path) -> None:
    path = cache_path(tmp_path / "other", NAMES[2])
    with CacheReader(cache_path(cache, NAMES[2])) as reader:
        CacheWriter.rewrite(path, replace(reader.meta, bound=7.0), reader.encoded())
    before = path.read_bytes()
    with pytest.raises(CacheMismatchError, match=r"bound 7.0 \(asked for: 20.0\)"):
        recode(cache, "zstd", tmp_path / "other")
    assert path.read_bytes() == before
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "walk").symlink_to(outside)
    with pytest.raises(ArgumentError, match="leads out"):
        recode(cache, "zstd", tmp_path / "linked")
    assert list(outside.iterdir()) == []


def test_unusable_folders_are_refused(cache: Path, tmp_path: Path) -> None:
    for path, output, reason in (
        (tmp_path / "none", None, "expected a cache folder"),
        (cache_path(cache, NAMES[0]), None, "expected a cache folder"),
        (cache, cache / "inside", "lies inside"),
        (cache / "walk", cache, "lies inside"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            recode(path, "zstd", output)
    (tmp_path / "link").symlink_to(cache)
    assert recode(cache, "zstd", tmp_path / "link") == (3, 0, [])  # the same folder


def test_computing_with_another_codec_says_that_recoding_is_enough(cache: Path, videos: Path) -> None:
    flow = FlowSettings("farneback", "opencv", short_side=24)
    storage = StorageSettings("zstd", rgb=True, rgb_short_side=30)
    config = PrecomputeConfig(videos, cache, flow, storage, workers=1)
    with pytest.raises(CacheMismatchError, match="flow-cache recode --codec zstd would change"):
        precompute(config, progress=False)
    recode(cache, "zstd")
    assert precompute(config, progress=False).skipped == 3
    with pytest.raises(CacheMismatchError) as error:
        precompute(replace(config, storage=replace(storage, codec="jpegls", max_error=2)), progress=False)
    assert "flow-cache recode" not in str(error.value)


def test_the_command(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recode", str(cache), "--codec", "zstd", "--out", str(tmp_path / "other")]) == 0
    shown = capsys.readouterr().out
    assert "videos done       3" in shown
    assert "MB as zstd" in shown
    assert main(["recode", str(cache)]) == 2
    assert main(["recode", str(cache), "--codec", "jpeg"]) == 2
    assert all("codec" in line for line in capsys.readouterr().err.splitlines())
    assert main(["info", str(tmp_path / "other")]) == 0
    assert "codec zstd, max_error 1" in capsys.readouterr().out


def test_caches_at_urls(cache: Path, computed: dict[str, Path], tmp_path: Path) -> None:
    url = f"memory://recode/{tmp_path.name}"
    assert recode(cache, "zstd", url) == (3, 0, [])
    assert recode(url, "jpegxl") == (3, 0, [])
    assert recode(url, "jpegxl", tmp_path / "other") == (3, 0, [])
    assert files_of(tmp_path / "other") == files_of(computed["jpegxl"])
