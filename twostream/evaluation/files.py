"""An evaluation as one file, `evaluation.npz`, from which every report can be written again."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from twostream.errors import DataError
from twostream.evaluation.results import OUTPUTS, Evaluation, FloatArray, Protocol
from twostream.files import replacing

EVALUATION_FILE = "evaluation.npz"


def write_evaluation(evaluation: Evaluation, directory: Path) -> None:
    """Write an evaluation into a folder as a compressed npz without pickles; names and protocol are JSON."""
    meta = {
        "protocol": asdict(evaluation.protocol),
        "classes": evaluation.classes,
        "videos": evaluation.videos,
        "groups": evaluation.groups,
    }
    arrays: dict[str, np.ndarray] = {
        "meta": np.frombuffer(json.dumps(meta).encode("ascii"), dtype=np.uint8),
        "labels": evaluation.labels,
    }
    for name, values in evaluation.probabilities.items():
        arrays[f"probabilities_{name}"] = values
    for name, values in (evaluation.validation_probabilities or {}).items():
        arrays[f"validation_probabilities_{name}"] = values
    for name in ("stream_weights", "shared_source", "validation_labels"):
        optional = getattr(evaluation, name)
        if optional is not None:
            arrays[name] = optional
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with replacing(directory / EVALUATION_FILE) as partial:
        partial.write_bytes(buffer.getvalue())


def read_evaluation(directory: str | Path) -> Evaluation:
    """Read the evaluation that `write_reports` left in a folder, exactly as it was.

    Raises:
        DataError: `evaluation.npz` is missing or damaged.

    Example:
        >>> from twostream import read_evaluation
        >>> evaluation = read_evaluation("runs/videos/evaluation")
        >>> evaluation.protocol.side, evaluation.outputs
        ('test', ('fused', 'rgb', 'flow'))
    """
    path = Path(directory) / EVALUATION_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            protocol = meta["protocol"]
            for name in ("streams", "notes", "seen"):
                protocol[name] = tuple(protocol.get(name, ()))
            return Evaluation(
                protocol=Protocol(**protocol),
                classes=tuple(meta["classes"]),
                videos=tuple(meta["videos"]),
                groups=tuple(meta["groups"]),
                labels=arrays["labels"],
                probabilities=_outputs(arrays, "probabilities"),
                stream_weights=arrays.get("stream_weights"),
                shared_source=arrays.get("shared_source"),
                validation_labels=arrays.get("validation_labels"),
                validation_probabilities=_outputs(arrays, "validation_probabilities") or None,
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the folder of an evaluation's report") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); evaluate the checkpoint again") from error


def _outputs(arrays: Mapping[str, FloatArray], field: str) -> dict[str, FloatArray]:
    return {name: arrays[f"{field}_{name}"] for name in OUTPUTS if f"{field}_{name}" in arrays}
