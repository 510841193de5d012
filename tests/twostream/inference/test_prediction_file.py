"""Files of predictions: whole lines whatever happens, and a later run goes on with them."""

import csv
import json
import resource
from pathlib import Path

import numpy as np
import pytest

from flow_cache import CacheWriteError
from twostream.errors import ConfigError
from twostream.inference.prediction_file import PredictionFile, as_record
from twostream.inference.predictor import Prediction

CLASSES = ("run", "walk, slowly", 'say "hi"')
VIDEOS = [
    "a.avi",
    'odd "name",\nof two\r lines.avi',
    "a\rb.avi",
    "a\tb.avi",
    "a,b.avi",
    " a.avi",
    "=1+1.avi",
    "not\udcff utf-8.avi",
    "C:\\x.mp4",
]
HASH = "0123456789abcdef"


def record(video: str, top: int = 2, streams: int = 2) -> dict:
    values = np.random.default_rng(len(video)).dirichlet(np.ones(3), 3).astype(np.float32)
    outputs = ("fused", "rgb", "flow") if streams == 2 else ("flow",)
    weights = np.array([0.25, 0.75], np.float32) if streams == 2 else None
    return as_record(Prediction(Path(video), dict(zip(outputs, values, strict=False)), weights), CLASSES, top)


def opened(path: Path, *, top: int = 2, streams: int = 2, checkpoint: str = HASH, overwrite: bool = False):
    return PredictionFile(path, record("", top, streams), checkpoint, overwrite=overwrite)


@pytest.fixture(params=[".jsonl", ".csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "new folder" / f"predictions{request.param}"


@pytest.fixture
def written(path: Path) -> Path:
    with opened(path) as file:
        for video in VIDEOS:
            file.append(record(video))
    return path


def test_json_lines_are_the_printed_objects_and_their_checkpoint(tmp_path: Path) -> None:
    with opened(tmp_path / "p.jsonl") as file:
        for video in VIDEOS:
            file.append(record(video))
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{**record(video), "checkpoint": HASH} for video in VIDEOS]


@pytest.mark.parametrize("streams", [1, 2])
def test_rows_hold_the_same_figures(streams: int, tmp_path: Path) -> None:
    with opened(tmp_path / "p.csv", streams=streams) as file:
        for video in VIDEOS:
            file.append(record(video, streams=streams))
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        rows = list(csv.DictReader(text))
    assert [row["video"] for row in rows] == VIDEOS
    for row in rows:
        expected = record(row["video"], streams=streams)
        assert (row["prediction"], row["checkpoint"]) == (expected["class"], HASH)
        assert float(row["confidence"]) == expected["confidence"]
        decision = expected["fused" if streams == 2 else "flow"]
        assert [(row[f"top_{n}"], float(row[f"top_{n}_confidence"])) for n in (1, 2)] == [*decision.items()]
        if streams == 1:
            assert not {"rgb_prediction", "flow_prediction", "rgb_weight"} & row.keys()
            continue
        assert (row["rgb_weight"], row["flow_weight"]) == ("0.25", "0.75")
        for stream in ("rgb", "flow"):
            name, confidence = next(iter(expected[stream].items()))
            assert (row[f"{stream}_prediction"], float(row[f"{stream}_confidence"])) == (name, confidence)


def test_every_line_is_there_at_once(path: Path) -> None:
    with opened(path) as file:
        before = path.read_bytes()
        file.append(record("a.avi"))
        assert path.read_bytes().count(b"\n") == before.count(b"\n") + 1


def test_a_run_killed_at_any_byte_goes_on_to_the_same_file(written: Path) -> None:
    data = written.read_bytes()
    seen = set()
    breaks = {n + d for n in range(len(data)) if data[n] in b'\n\r"' for d in (0, 1, 2)}
    for length in sorted({*range(0, len(data), 11), *breaks, len(data)} - {len(data) + 1}):
        written.write_bytes(data[:length])
        with opened(written) as file:
            assert [*file.kept] == [] or {*file.kept} == {*VIDEOS[: len(file.kept)]}
            seen.add(len(file.kept))
            for video in VIDEOS:
                if video not in file.kept:
                    file.append(record(video))
        assert written.read_bytes() == data
    assert seen == {*range(len(VIDEOS) + 1)}


@pytest.mark.parametrize("changes", [{"checkpoint": "other"}, {"top": 3}, {"streams": 1}], ids=str)
def test_predictions_of_another_run_are_refused_or_overwritten(changes: dict, written: Path) -> None:
    data = written.read_bytes()
    with pytest.raises(ConfigError, match=r"predictions\.\w+ holds other things .* use --overwrite"):
        opened(written, **changes)
    assert written.read_bytes() == data
    with opened(written, **changes, overwrite=True) as file:
        assert not file.kept
    assert len(written.read_bytes()) < 200


@pytest.mark.parametrize(
    "text",
    ["my notes", "my notes\n", "my,notes\n1,2\n", "video,label\na.avi,walk\n", '"a\nb",c\n', "{}\n", '{"a": 1}',
     "[1]\n", "\0\0\n"],
)  # fmt: skip
def test_files_of_others_are_left_as_they_are(text: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match="name another file"):
        opened(path)
    assert path.read_text() == text


def test_a_line_in_the_middle_that_is_damaged_is_named(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\n"
    written.write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=r"line|delimiter|Unterminated"):
        opened(written)


def test_a_line_without_space_is_not_begun(written: Path) -> None:
    data = written.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(written) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) + 10, limits[1]))
        try:
            with pytest.raises(CacheWriteError, match=r"cannot write .*predictions"):
                file.append(record("z.avi"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert written.read_bytes() == data
        file.append(record("z.avi"))
    with opened(written) as file:
        assert file.kept == {*VIDEOS, "z.avi"}


def test_two_runs_do_not_write_one_file(written: Path) -> None:
    data = written.read_bytes()
    with opened(written), pytest.raises(ConfigError, match="another run is writing it"):
        opened(written, overwrite=True)
    assert written.read_bytes() == data


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.jsonl or \.csv, got .*p\.txt"):
        opened(tmp_path / "p.txt")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out"):
        opened(tmp_path / "file" / "p.csv")
    (tmp_path / "full.csv").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match="no regular file"):
        opened(tmp_path / "full.csv")
