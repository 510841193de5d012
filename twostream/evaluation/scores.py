"""Scores of another tool as a plain file: CSV or npz, never a pickle, which can run any code when it is loaded.

A CSV has a column `video`, a column for each class, and may have `label` (a class name) and `group`. An npz has the
arrays `videos` (N,), `classes` (C,), `scores` (N, C), and may have `labels` (N,) and `groups` (N,); names are arrays of
text, not of Python objects.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from twostream.errors import DataError, first_names
from twostream.files import write_bytes

FloatArray = npt.NDArray[np.float32]
Names = tuple[str, ...]

SUFFIXES = (".csv", ".npz")
_OWN_COLUMNS = ("video", "label", "group")
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Hold what a file says of N videos and C classes.

    Attributes:
        classes: C names, unique.
        videos: N names.
        probabilities: (N, C) float32, rows sum to 1.
        labels: N class names, or None if the file has none.
        groups: N source groups, or None if the file has none.
    """

    classes: Names
    videos: Names
    probabilities: FloatArray
    labels: Names | None
    groups: Names | None


def read_scores(path: Path, *, logits: bool = False) -> ScoreTable:
    """Read a file of scores.

    Args:
        path: a .csv or .npz file.
        logits: scores are logits, of which the softmax is taken; otherwise they must be probabilities.

    Raises:
        DataError: another kind of file, a damaged one, one with Python objects in it, or values that cannot be.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: expected scores as {' or '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}; pickles and "
            "checkpoints can run code when they are loaded and are never read: save the scores as CSV or npz"
        )
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_npz(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as scores: {error}") from error
    return _checked(path, *table, logits=logits)


def write_scores(path: Path, table: ScoreTable) -> None:
    """Write scores as an npz that `read_scores` reads."""
    arrays = {
        "videos": np.array(table.videos, dtype=np.str_),
        "classes": np.array(table.classes, dtype=np.str_),
        "scores": table.probabilities,
    }
    for name, values in (("labels", table.labels), ("groups", table.groups)):
        if values is not None:
            arrays[name] = np.array(values, dtype=np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


_Raw = tuple[Names, Names, npt.NDArray[np.float64], Names | None, Names | None]


def _read_csv(path: Path) -> _Raw:
    # names as they stand: pandas would give a second column of one name another
    first = pd.read_csv(
        path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding_errors="replace"
    )
    header = [str(name) for name in first.iloc[0]]
    if header.count("video") != 1 or len(set(header)) != len(header):
        raise DataError(
            f"{path}: expected a column 'video' and each other column once, got {first_names(header, 6)}"
        )
    text = dict.fromkeys(_OWN_COLUMNS, "str")
    table = pd.read_csv(path, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")
    classes = tuple(name for name in header if name not in _OWN_COLUMNS)
    try:
        scores = table[list(classes)].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: expected a number in every column of a class: {error}") from error
    optional = [tuple(table[name]) if name in header else None for name in ("label", "group")]
    return classes, tuple(table["video"]), scores, optional[0], optional[1]


def _read_npz(path: Path) -> _Raw:
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # numpy would take it for an array, or for a pickle
            raise DataError(f"{path}: not an npz file; pickles are never read: save the scores as CSV or npz")
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in ("videos", "classes", "scores") if name not in arrays]
        if missing:
            raise DataError(
                f"{path}: expected arrays videos, classes and scores, got {first_names(list(arrays), 6)}"
            )
        classes, videos = _names(path, arrays, "classes"), _names(path, arrays, "videos")
        scores = np.asarray(_array(path, arrays, "scores"), dtype=np.float64)
        labels = _labels(path, arrays, classes) if "labels" in arrays else None
        groups = _names(path, arrays, "groups") if "groups" in arrays else None
    return classes, videos, scores, labels, groups


def _array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(arrays[name])
    except ValueError as error:
        raise DataError(
            f"{path}: the array {name} cannot be read ({error}); Python objects are pickles and never read: "
            "save names as text, np.array(names, dtype=str)"
        ) from error


def _names(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> Names:
    values = _array(path, arrays, name)
    if values.ndim != 1 or values.dtype.kind != "U":
        raise DataError(f"{path}: {name} must be one row of text, got {values.dtype} of shape {values.shape}")
    return tuple(str(value) for value in values)


def _labels(path: Path, arrays: np.lib.npyio.NpzFile, classes: Names) -> Names:
    values = _array(path, arrays, "labels")
    if values.dtype.kind not in "iu":
        return _names(path, arrays, "labels")
    if values.ndim != 1 or values.min(initial=0) < 0 or values.max(initial=0) >= len(classes):
        raise DataError(f"{path}: labels must be one row of indices in [0, {len(classes)}), or class names")
    return tuple(classes[int(str(value))] for value in values)


def _checked(
    path: Path,
    classes: Names,
    videos: Names,
    scores: npt.NDArray[np.float64],
    labels: Names | None,
    groups: Names | None,
    *,
    logits: bool,
) -> ScoreTable:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise DataError(f"{path}: expected two or more classes, each once, got {first_names(classes, 6)}")
    if not videos:
        raise DataError(f"{path}: expected at least one video, got none")
    if scores.shape != (len(videos), len(classes)):
        raise DataError(f"{path}: expected scores of shape {(len(videos), len(classes))}, got {scores.shape}")
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != len(videos):
            raise DataError(f"{path}: expected {len(videos)} {name}, got {len(values)}")
    unknown: Sequence[str] = [] if labels is None else sorted(set(labels) - set(classes))
    if unknown:
        raise DataError(f"{path}: labels that are no class: {first_names(unknown)}")
    if not np.isfinite(scores).all():
        raise DataError(f"{path}: expected finite scores, got NaN or inf")
    if logits:
        scores = special.softmax(scores, axis=1)
    worst = float(np.abs(scores.sum(axis=1) - 1).max())
    if scores.min() < 0 or worst > _SUM_TOLERANCE:
        raise DataError(
            f"{path}: expected probabilities, rows of at least 0 that sum to 1, got a least value of "
            f"{scores.min():.3g} and a sum off by {worst:.3g}; for logits add --logits"
        )
    return ScoreTable(classes, videos, scores.astype(np.float32), labels, groups)
