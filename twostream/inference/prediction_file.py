"""Predictions of many videos as JSON lines or CSV: a line a video, there as soon as the video is done."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from flow_cache import CacheWriteError, csv_bytes, try_lock
from twostream.errors import ConfigError
from twostream.files import file_hash

if TYPE_CHECKING:
    from twostream.inference.predictor import Prediction

Record = dict[str, Any]


def as_record(prediction: Prediction, classes: tuple[str, ...], top: int) -> Record:
    """Describe a prediction by plain values, as `twostream-predict --json` prints it.

    Args:
        prediction: of one video.
        classes: their names, in the order of the probabilities.
        top: how many classes are named for each output.

    Returns:
        `video`, `class` and `confidence`; for each output, first the one that decides, the probabilities of its most
        probable classes, best first; `stream_weights` where there are two streams.
    """
    name, confidence = best_classes(prediction.decision, classes, 1)[0]
    record: Record = {"video": str(prediction.video), "class": name, "confidence": confidence}
    return record | describe_outputs(prediction.probabilities, prediction.stream_weights, classes, top)


def describe_outputs(
    probabilities: Mapping[str, Any], stream_weights: Any, classes: tuple[str, ...], top: int
) -> Record:
    """Describe the best classes of each output, and the weights of the streams where there are two."""
    record: Record = {
        name: dict(best_classes(values, classes, top)) for name, values in probabilities.items()
    }
    if stream_weights is not None:
        record["stream_weights"] = dict(zip(("rgb", "flow"), stream_weights.tolist(), strict=True))
    return record


def best_classes(probabilities: Any, classes: tuple[str, ...], top: int) -> list[tuple[str, float]]:
    """Name the most probable classes, best first."""
    order = (-probabilities).argsort(kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in order]


def checkpoint_hash(path: Path) -> str:
    """Return what tells the file of a checkpoint from every other: the beginning of its SHA-256, 16 digits."""
    return file_hash(path)[:16]


def check_suffix(path: Path, flag: str = "--out") -> None:
    """Raise ConfigError unless the name ends in .jsonl or .csv."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{flag} must end in {' or '.join(_FORMATS)}, got {path}")


class PredictionFile:
    """A file to which a run appends predictions, and with which a later run goes on.

    Every line is written at once and whole, so a run may be killed at any time. What the file holds already is kept,
    but for a last line that was cut short, which is removed. A file that holds something else, or predictions of
    another checkpoint or with another number of best classes, is refused and left as it is.

    Args:
        path: a name that ends in .jsonl or .csv; its folder is made where it is missing.
        sample: a record like those to come; its values do not matter.
        checkpoint: hash of the checkpoint, which each line repeats.
        overwrite: begin anew, whatever the file holds.

    Attributes:
        kept: the videos in the file when it was opened, by their path.

    Raises:
        ConfigError: the file cannot be opened, or is refused.
    """

    def __init__(self, path: Path, sample: Record, checkpoint: str, *, overwrite: bool = False) -> None:
        check_suffix(path)
        self.path = path
        self._checkpoint = checkpoint
        self._format = _FORMATS[path.suffix.lower()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise ConfigError(f"--out {path} is no regular file; name another")
            self._file = path.open("ab", buffering=0)
            try:
                if not try_lock(self._file):
                    raise ConfigError(f"--out {path}: another run is writing it; give each its own file")
                data = b"" if overwrite else path.read_bytes()
                self.kept, length = self._read(data, self._complete(sample))
                self._file.truncate(length)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise ConfigError(f"--out {path}: {error.strerror or error}") from error
        if not length:
            write_all(self._file, path, self._format.header(self._complete(sample)))

    def append(self, record: Record) -> None:
        """Add a line to the file; CacheWriteError if there is no space for it, and then none of it is there."""
        write_all(self._file, self.path, self._format.line(self._complete(record)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _complete(self, record: Record) -> Record:
        return {**record, "checkpoint": self._checkpoint}

    def _read(self, data: bytes, sample: Record) -> tuple[frozenset[str], int]:
        """Return the videos of the whole lines, and the length of these; ConfigError for those of something else."""
        length = self._format.whole(data)
        beginning = self._format.header(sample) or _JSON_BEGINNING
        try:
            if not length and not beginning.startswith(data[: len(beginning)]):
                raise ValueError(f"begins with {data[:20]!r}")
            records = list(self._format.read(data[:length], sample))
            for found in records:
                if found["checkpoint"] != self._checkpoint:
                    raise ValueError(f"made by checkpoint {found['checkpoint']}, not {self._checkpoint}")
        except (ValueError, csv.Error) as error:
            raise ConfigError(
                f"--out {self.path} holds other things than this run's predictions ({error}); name another file, or"
                " use --overwrite"
            ) from error
        return frozenset(str(found["video"]) for found in records), length


def write_all(file: io.FileIO, path: Path, data: bytes) -> None:
    """Append bytes to a file, all or none; CacheWriteError if there is no space for them."""
    start = path.stat().st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(start)
        raise CacheWriteError.from_os_error(path, error) from error
    except KeyboardInterrupt:
        file.truncate(start)
        raise


class _Format(Protocol):
    """How records become lines, and lines become records."""

    def header(self, sample: Record) -> bytes:
        """Return what a file begins with."""
        ...

    def line(self, record: Record) -> bytes:
        """Return the line of a record."""
        ...

    def whole(self, data: bytes) -> int:
        """Return how many of the bytes are whole lines."""
        ...

    def read(self, data: bytes, sample: Record) -> Iterator[Mapping[str, str]]:
        """Iterate `video` and `checkpoint` of lines; raises ValueError or csv.Error for lines unlike the sample's."""
        ...


class _JsonLines:
    """One JSON object a line, as `--json` prints it, and the checkpoint."""

    def header(self, sample: Record) -> bytes:
        return b""

    def line(self, record: Record) -> bytes:
        return json.dumps(record).encode("ascii") + b"\n"

    def whole(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def read(self, data: bytes, sample: Record) -> Iterator[Mapping[str, str]]:
        expected = self._layout(sample)
        for number, line in enumerate(data.splitlines(), 1):
            record = json.loads(line)
            if not isinstance(record, dict) or self._layout(record) != expected:
                raise ValueError(f"line {number} has other streams, another --top, or is no prediction")
            yield record

    def _layout(self, record: Record) -> dict[str, int | None]:
        """Return what all records of a file have in common: their keys, and how many classes are under each."""
        return {key: len(value) if isinstance(value, dict) else None for key, value in record.items()}


class _Csv:
    """One row a video, with the columns that `predictions.csv` of an evaluation has for the same things."""

    def header(self, sample: Record) -> bytes:
        return csv_bytes([self._row(sample)])

    def line(self, record: Record) -> bytes:
        return csv_bytes([self._row(record).values()])

    def whole(self, data: bytes) -> int:
        # A quoted name may hold line breaks. Quotes inside one are doubled: an odd number of them leaves it open.
        end = position = 0
        quoted = False
        for line in data.split(b"\n")[:-1]:
            position += len(line) + 1
            quoted ^= line.count(b'"') % 2 == 1
            if not quoted:
                end = position
        return end

    def read(self, data: bytes, sample: Record) -> Iterator[Mapping[str, str]]:
        rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True)
        expected = list(self._row(sample))
        columns = next(rows, expected)
        if columns != expected:
            raise ValueError(f"line 1 has columns {', '.join(columns)[:60]}, expected {', '.join(expected)}")
        for row in rows:
            if len(row) != len(expected):
                raise ValueError(f"line {rows.line_num} has {len(row)} columns, expected {len(expected)}")
            yield dict(zip(expected, row, strict=True))

    def _row(self, record: Record) -> dict[str, Any]:
        """Return the values of a record by the names of their columns."""
        outputs = {key: value for key, value in record.items() if isinstance(value, dict)}
        weights = outputs.pop("stream_weights", {})
        decision, *streams = outputs
        row = {key: record[name] for key, name in _CSV_NAMES.items()}
        for stream in streams:
            name, confidence = next(iter(outputs[stream].items()))
            row |= {f"{stream}_prediction": name, f"{stream}_confidence": confidence}
        row |= {f"{stream}_weight": weight for stream, weight in weights.items()}
        for place, (name, confidence) in enumerate(outputs[decision].items(), 1):
            row |= {f"top_{place}": name, f"top_{place}_confidence": confidence}
        return row | {"checkpoint": record["checkpoint"]}


_JSON_BEGINNING = b'{"video": "'
_CSV_NAMES = {"video": "video", "prediction": "class", "confidence": "confidence"}  # column: key of a record
_FORMATS: dict[str, _Format] = {".jsonl": _JsonLines(), ".csv": _Csv()}
