"""What a run, and every command on its cache, makes of a damaged video: a folder with images that cannot be read."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache import (
    CacheReader,
    ExportConfig,
    FlowSettings,
    ImportConfig,
    PrecomputeConfig,
    StorageSettings,
    Videos,
    describe_cache,
    export_cache,
    import_folders,
    precompute,
    read_index,
    rebuild_index,
    repair_cache,
    verify_cache,
    view,
)
from flow_cache.cli.main import main
from flow_cache.errors import ArgumentError
from flow_cache.pipeline.settings import Damaged

REASON = "frame 4: image 04.png cannot be decoded"


def run(config: PrecomputeConfig, damaged: Damaged):
    return precompute(replace(config, damaged=damaged), progress=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PrecomputeConfig:
    """A whole video, and one of 10 frames of which frame 4 and the last cannot be read; the cache with its gaps."""
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("bad", "whole"):
        (folder / "videos" / name).mkdir(parents=True)
        for number in range(10):
            picture = np.full((24, 32, 3), 20 * number, np.uint8)
            cv2.circle(picture, (number + 8, 12), 5, (255, 200, 100), -1)
            cv2.imwrite(str(folder / "videos" / name / f"{number:02d}.png"), picture)
    for number in (4, 9):
        (folder / "videos" / "bad" / f"{number:02d}.png").write_bytes(b"damaged")
    config = PrecomputeConfig(
        folder / "videos",
        folder / "cache",
        FlowSettings("farneback"),
        StorageSettings(rgb=True),
        workers=1,
    )
    summary = run(config, "skip-frames")
    assert (summary.done, summary.partial, summary.parts) == (2, 1, {"bad": REASON})
    assert summary.failures == []
    return config


@pytest.fixture
def cache(prepared: PrecomputeConfig) -> Path:
    return Path(prepared.output)


def test_the_settings_are_one(prepared: PrecomputeConfig) -> None:
    assert PrecomputeConfig("a", "b").on_damage == "fail"
    assert PrecomputeConfig("a", "b", keep_partial=True).on_damage == "keep-prefix"
    assert PrecomputeConfig("a", "b", keep_partial=True, damaged="keep-prefix").on_damage == "keep-prefix"
    for other in ("fail", "skip-frames"):
        with pytest.raises(
            ArgumentError, match=f"keep_partial means damaged keep-prefix, but damaged {other}"
        ):
            PrecomputeConfig("a", "b", keep_partial=True, damaged=other)
    with pytest.raises(
        ArgumentError, match="damaged must be one of fail, keep-prefix, skip-frames, got 'skip'"
    ):
        PrecomputeConfig("a", "b", damaged="skip")


def test_the_command_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[PrecomputeConfig] = []

    def remember(config: PrecomputeConfig):
        seen.append(config)
        raise ArgumentError("enough")

    arguments = ["precompute", str(tmp_path), "--out", str(tmp_path / "cache")]
    main([*arguments, "--damaged", "skip-frames"], run=remember)
    main([*arguments, "--keep-partial"], run=remember)
    assert [config.on_damage for config in seen] == ["skip-frames", "keep-prefix"]
    capsys.readouterr()
    assert main([*arguments, "--damaged", "skip-frames", "--keep-partial"], run=remember) == 2
    assert "leave one out" in capsys.readouterr().err


def test_the_index_tells(cache: Path) -> None:
    bad, whole = read_index(cache)
    assert (bad.partial, bad.gaps, bad.runs) == ("gaps", "4 8", (range(3), range(4, 7)))
    assert (whole.partial, whole.gaps, whole.runs) == ("", "", (range(9),))
    with (cache / "index.csv").open(newline="") as file:
        assert [row["partial"] for row in csv.DictReader(file)] == ["gaps", ""]


def test_an_index_of_an_earlier_version_is_read_and_completed(
    prepared: PrecomputeConfig, cache: Path
) -> None:
    index = cache / "index.csv"
    text = index.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    names = [name for name in rows[0] if name not in ("partial", "gaps")]
    whole = [row for row in rows if row["video"] == "whole"]  # that version knew no gaps
    index.write_text(
        "\n".join([",".join(names), *(",".join(row[name] for name in names) for row in whole)]) + "\n"
    )
    assert [entry.partial for entry in read_index(cache)] == ["gaps", "unknown"]
    run(prepared, "skip-frames")
    assert index.read_text() == text


def test_gaps_that_do_not_fit_the_counts_make_the_index_worthless(cache: Path) -> None:
    index, text = cache / "index.csv", (cache / "index.csv").read_text()
    index.write_text(text.replace("4 8", "2 4"))
    assert [entry.gaps for entry in read_index(cache)] == ["4 8", ""]  # from the files
    assert [entry.gaps for entry in rebuild_index(cache)] == ["4 8", ""]


def test_another_setting_redoes_what_it_would_not_have_kept(
    prepared: PrecomputeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "precompute",
        str(prepared.input),
        "--out",
        str(prepared.output),
        "--method",
        "farneback",
        "--rgb",
    ]
    assert main([*command, "--dry-run", "--damaged", "skip-frames"]) == 0
    printed = capsys.readouterr().out
    assert "kept from before  2 (1 only in part)" in printed
    assert f"only in part: bad: {REASON}" in printed
    assert main([*command, "--dry-run", "--keep-partial"]) == 0
    assert "to be redone: bad: holds only a part (gaps)" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 1
    assert "to be redone: bad: holds only a part (gaps)" in capsys.readouterr().out
    again = run(prepared, "skip-frames")
    assert (again.done, again.skipped, again.parts) == (0, 2, {"bad": REASON})


def test_info_names_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = describe_cache(cache)
    assert (info.partial, info.parts) == (1, {"bad": f"gaps: {REASON}"})
    assert (info.frames, info.fields) == (8 + 10, 6 + 9)
    assert main(["info", str(cache)]) == 0
    printed = capsys.readouterr().out
    assert "(1 partial)" in printed
    assert f"only in part: bad: gaps: {REASON}" in printed


def test_verify_reads_all_and_repair_keeps_what_can_be_kept(
    prepared: PrecomputeConfig, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in Path(prepared.output).iterdir():
        (cache / path.name).write_bytes(path.read_bytes())
    rebuild_index(cache)
    found = verify_cache(cache, Videos(prepared.input), decode=True, progress=False)
    assert (found.faults, found.partial, found.with_gaps, found.fields) == ([], 1, 1, 6 + 9)
    before = (cache / "bad.flow.zip").read_bytes()
    (cache / "whole.flow.zip").write_bytes(b"damaged")
    found = verify_cache(cache, Videos(prepared.input), progress=False)
    assert [fault.cache_file for fault in found.faults] == ["whole.flow.zip"]
    repaired = repair_cache(found, Videos(prepared.input), workers=1, progress=False)
    assert (repaired.repaired, repaired.faults) == (["whole.flow.zip"], [])
    assert (cache / "bad.flow.zip").read_bytes() == before


def test_exports_leave_the_numbers_out_and_arrays_refuse(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = export_cache(ExportConfig(cache, tmp_path / "png", format="png"), progress=False)
    assert (written.videos, written.fields, written.with_gaps) == (2, 15, ["bad.flow.zip"])
    names = sorted(path.name for path in (tmp_path / "png" / "bad").glob("flow_x_*"))
    assert names == [f"flow_x_{number:05d}.png" for number in (1, 2, 3, 5, 6, 7)]
    with CacheReader(cache / "bad.flow.zip") as reader:
        image = cv2.imread(str(tmp_path / "png" / "bad" / "flow_x_00005.png"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(image, reader.flow([4])[0, 0])
    assert len(list((tmp_path / "png" / "bad").glob("img_*"))) == 8
    # An import cannot know whether a number was left out or lost.
    imported = import_folders(ImportConfig(tmp_path / "png", tmp_path / "again"), progress=False)
    assert [(failure.video, failure.reason) for failure in imported.failures] == [
        ("bad", "flow_x number 4 is missing")
    ]
    assert main(["export", str(cache), "--out", str(tmp_path / "npy"), "--format", "npy"]) == 1
    assert "failed: bad.flow.zip: frames of its video are missing before frame 4" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "npy").iterdir()] == ["whole.npy"]


@pytest.mark.parametrize("own_video", [False, True])
def test_view_draws_the_fields_beside_their_frames(
    prepared: PrecomputeConfig, cache: Path, tmp_path: Path, own_video: bool
) -> None:
    video = Path(prepared.input) / "bad" if own_video else None
    for name in ("a.png", "a.avi"):
        view(cache / "bad.flow.zip", tmp_path / name, video=video)
        assert (tmp_path / name).stat().st_size > 0
