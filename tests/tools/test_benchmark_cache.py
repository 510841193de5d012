"""The benchmark of the cache, on generated videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks.cache_pipeline import summarise_ours
from benchmarks.process_monitor import MonitoredRun, Sample

from .conftest import read_csv, run_tool


@pytest.fixture
def videos(make_videos):
    return make_videos((13, 14), width=64, height=48)


def test_writes_what_it_measured(videos, tmp_path):
    out = tmp_path / "out"
    few = ("--videos", 2, "--clips", 2, "--repeats", 2, "--method", "farneback", "--scratch", tmp_path)
    end_to_end = ("--pipeline-videos", 2, "--loop-videos", 1, "--pipeline-size", "64x48", "--rounds", 1)
    done = run_tool("benchmark_cache.py", videos, "--out", out, *few, *end_to_end)
    assert done.returncode == 0, done.stderr
    codecs = {row["codec"]: row for row in read_csv(out / "cache_codecs.csv")}
    for error in range(4):
        assert int(codecs[f"jpegls, error {error}"]["max_error"]) <= error
    assert float(codecs["jpegls, error 1"]["encode"]) == float(codecs["jpegls, error 1"]["decode"]) == 1
    assert codecs["png"]["mean_error"] == "0.0"
    for error in range(2):  # the same levels
        names = [f"{codec}, error {error}" for codec in ("jpegls", "zstd", "jpegxl")]
        assert len({(codecs[name]["mean_error"], codecs[name]["max_error"]) for name in names}) == 1
    assert [row["fields"] for row in read_csv(out / "cache_opening.csv")] == ["12", "19", "3000"]
    reads = [row for row in read_csv(out / "cache_reads.csv") if row["videos"] == "clips"]
    stores = {row["store"]: row for row in reads}
    ours_by_codec = {
        f"cache, {codec}" for codec in ("jpegls error 1", "zstd error 1", "jpegxl error 1", "png")
    }
    expected = {"JPEG folders q95", "JPEG folders q95, as TSN reads", *ours_by_codec}
    expected |= {"HDF5, raw", "HDF5, gzip"} if find_spec("h5py") else set()
    expected |= {"LMDB of our bytes"} if find_spec("lmdb") else set()
    assert set(stores) == expected
    assert (float(stores["JPEG folders q95"]["warm"]), float(stores["JPEG folders q95"]["cold"])) == (1, 1)
    for codec in ("jpegls", "zstd", "jpegxl"):
        assert stores[f"cache, {codec} error 1"]["max_error"] == "1"
    assert stores["cache, png"]["max_error"] == "0"
    ours, loop, loops = read_csv(out / "cache_pipeline.csv")
    assert [row["pairs"] for row in (ours, loop, loops)] == ["25", "12", "12"]
    assert (loop["whole"], loop["steady"]) == ("1.0", "1.0")
    assert 0 < float(ours["difference"]) < 1.5
    assert all(0 < float(row["busy"]) < 1.1 for row in (ours, loop, loops))
    report = (out / "cache.md").read_text()
    assert "--repeats 2" in report
    assert f"| clips | cache, png | {float(stores['cache, png']['megabytes']):.1f} |" in report
    assert "End to end" not in report
    assert "| flow-cache precompute | 2 (25) |" in (out / "cache_pipeline.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


def test_the_steady_part_of_a_run():
    # Two workers that start after 10 s and do 10 pairs a second each, videos of 50 pairs; the last one is alone.
    finished = [(10 + 5.0 * (n // 2 + 1), 50) for n in range(20)] + [(65.0, 50)]
    samples = [Sample(0, 0, 0, 0), Sample(10, 5, 0, 0), Sample(60, 105, 0, 0), Sample(66, 110, 0, 0)]
    run = summarise_ours(MonitoredRun(0, 66, 110, samples, "", cores=2), finished, 2)
    assert run.pairs == 21 * 50
    assert run.whole == 1050 / 66
    assert run.steady == 20
    assert run.start == 66 - 1050 / 20
    assert run.busy == 110 / 132
    assert run.busy_steady == pytest.approx(1)


def test_unusable_arguments_are_named(tmp_path):
    done = run_tool("benchmark_cache.py", "no/such/folder", "--out", tmp_path)
    assert done.returncode != 0
    assert "no/such/folder: no such file or folder" in done.stderr
    assert "Traceback" not in done.stderr
