from dataclasses import replace
from pathlib import Path

import pytest

from flow_cache.cli.printing import print_estimate
from flow_cache.errors import ArgumentError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig


@pytest.fixture
def config(tmp_path: Path, make_video) -> PrecomputeConfig:
    for n, frames in enumerate((5, 9, 21)):
        make_video(tmp_path / "videos" / f"{n}.avi", frames=frames, seed=n)
    return PrecomputeConfig(
        tmp_path / "videos", tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1
    )


def with_bound(config: PrecomputeConfig, bound: float) -> PrecomputeConfig:
    return replace(config, flow=replace(config.flow, bound=bound))


def test_says_what_the_run_then_does(config: PrecomputeConfig, tmp_path: Path, make_video) -> None:
    found = estimate(config)
    assert not Path(config.output).exists()
    assert found.plan.new == ["0.avi", "1.avi", "2.avi"]
    assert (found.fields, found.sampled_fields, found.unreadable) == (32, 4 + 8 + 12, [])
    assert found.seconds > 0
    summary = precompute(config, progress=False)
    assert summary.fields == found.fields
    size = sum(path.stat().st_size for path in tmp_path.glob("cache/*.zip"))
    assert found.bytes == pytest.approx(size, rel=0.15)

    (tmp_path / "cache" / "0.flow.zip").write_bytes(b"junk")
    make_video(tmp_path / "videos" / "1.avi", frames=12)
    (tmp_path / "videos" / "broken.avi").write_text("no video")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = estimate(config)
    assert found.plan.redone == {"0.avi": "damaged", "1.avi": "the video has changed"}
    assert (found.plan.new, found.plan.kept) == (["broken.avi"], ["2.avi"])
    assert [failure.video for failure in found.unreadable] == ["broken.avi"]
    assert found.fields == 4 + 11
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_mismatches_are_listed(config: PrecomputeConfig) -> None:
    precompute(config, progress=False)
    plan = estimate(with_bound(config, 9.0)).plan
    assert plan.mismatches["0.flow.zip"] == "bound 20.0 (asked for: 9.0)"
    assert len(plan.mismatches) == 3
    assert len(estimate(replace(with_bound(config, 9.0), overwrite=True)).plan.redone) == 3
    assert len(estimate(with_bound(config, 9.0), ["0.avi"]).plan.others) == 2


def test_only_some_videos_are_opened_where_there_are_many(config: PrecomputeConfig) -> None:
    found = estimate(config, max_opened=2)
    assert found.opened == 2
    assert 20 < found.fields < 45  # by the sizes of the files


def test_nothing_to_do(config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    precompute(config, progress=False)
    found = estimate(config)
    assert (found.plan.jobs, found.fields, found.bytes, found.seconds) == ([], 0, 0, 0.0)
    print_estimate(found)
    assert "nothing was written" in capsys.readouterr().out


def test_unusable_arguments_are_refused(config: PrecomputeConfig) -> None:
    with pytest.raises(ArgumentError, match="bound"):
        estimate(with_bound(config, -1.0))
