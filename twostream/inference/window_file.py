"""The decisions of many windows as JSON lines or CSV: a line a window, there as soon as it is decided."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flow_cache import csv_bytes
from twostream.errors import ConfigError
from twostream.files import replacing
from twostream.inference.prediction_file import best_classes, check_suffix, describe_outputs, write_all

if TYPE_CHECKING:
    from twostream.inference.windows import Decision

Record = dict[str, Any]


def window_record(
    video: object, decision: Decision, classes: tuple[str, ...], top: int, seconds: float | None
) -> Record:
    """Describe the decision of a window by plain values.

    Args:
        video: its path, or the name of a camera.
        decision: of the window.
        classes: their names, in the order of the probabilities.
        top: how many classes are named for each output.
        seconds: when the window ends, from the beginning; None if unknown.

    Returns:
        `video`, `window`, `first_frame`, `last_frame`, `seconds`; `class` and `confidence`, smoothed over time;
        `smoothed`, and for each output what this window alone says, first the one that decides: probabilities of the
        most probable classes, best first; `stream_weights` where there are two streams.
    """
    name, confidence = best_classes(decision.smoothed, classes, 1)[0]
    record: Record = {
        "video": str(video),
        "window": decision.number,
        "first_frame": decision.first,
        "last_frame": decision.last,
        "seconds": None if seconds is None else round(seconds, 3),
        "class": name,
        "confidence": confidence,
        "smoothed": dict(best_classes(decision.smoothed, classes, top)),
    }
    return record | describe_outputs(decision.probabilities, decision.stream_weights, classes, top)


class WindowFile:
    """A file to which a run appends a line for each window.

    A run that goes on keeps the lines of the videos that are done, and no others.

    Args:
        path: a name that ends in .jsonl or .csv; its folder is made where it is missing.
        checkpoint: what is written in each line of how it was made.
        kept: the videos that are done; None: the file must be new.
        overwrite: begin anew, whatever the file holds.

    Raises:
        ConfigError: another suffix, a file that is there, or one that cannot be read or written.
    """

    def __init__(
        self, path: Path, checkpoint: str, kept: frozenset[str] | None, *, overwrite: bool = False
    ) -> None:
        check_suffix(path, "--windows-out")
        self.path = path
        self._checkpoint = checkpoint
        self._is_csv = path.suffix.lower() == ".csv"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not overwrite:
                if kept is None:
                    raise ConfigError(
                        f"--windows-out {path} is there already; name another, or use --overwrite"
                    )
                with path.open("rb") as old, replacing(path) as partial, Path(partial).open("wb") as new:
                    for line in self._lines_of(old, kept):
                        new.write(line)
            self._file = path.open("wb" if overwrite else "ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"--windows-out {path}: {error.strerror or error}") from error
        self._begun = path.stat().st_size > 0

    def append(self, record: Record) -> None:
        """Add the line of a window; CacheWriteError if there is no space for it."""
        record = {**record, "checkpoint": self._checkpoint}
        if self._is_csv:
            row = _row(record)
            line = csv_bytes([row.values()] if self._begun else [row, row.values()])
        else:
            line = json.dumps(record).encode("ascii") + b"\n"
        self._begun = True
        write_all(self._file, self.path, line)

    def _lines_of(self, file: io.BufferedReader, videos: frozenset[str]) -> Iterator[bytes]:
        """Iterate the whole lines of some videos, and the header of a table."""
        try:
            if not self._is_csv:
                for line in file:
                    if line.endswith(b"\n") and json.loads(line)["video"] in videos:
                        yield line
                return
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
            for number, row in enumerate(csv.reader(text)):
                if number == 0 and row[:2] != ["video", "window"]:
                    raise ValueError(f"begins with {row[:2]}")
                if number == 0 or row[0] in videos:
                    yield csv_bytes([row])
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ConfigError(
                f"--windows-out {self.path} holds other things than windows ({error}); name another file, or use"
                " --overwrite"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _row(record: Record) -> dict[str, Any]:
    """Return the values of a record by the names of their columns."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if key == "class":
            row["prediction"] = value
        elif key == "stream_weights":
            row |= {f"{stream}_weight": weight for stream, weight in value.items()}
        elif key == "smoothed":
            for place, (name, confidence) in enumerate(value.items(), 1):
                row |= {f"top_{place}": name, f"top_{place}_confidence": confidence}
        elif isinstance(value, dict):
            name, confidence = next(iter(value.items()))
            row |= {f"{key}_prediction": name, f"{key}_confidence": confidence}
        else:
            row[key] = value
    return row
