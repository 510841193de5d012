"""Read what runs and other tools say about test videos, into one form with one order of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from twostream.data.groups import without_suffix
from twostream.errors import ConfigError, DataError, first_names, one_line
from twostream.evaluation.files import EVALUATION_FILE, read_evaluation
from twostream.evaluation.late_fusion import BASELINES
from twostream.evaluation.results import OUTPUTS
from twostream.evaluation.scores import read_scores
from twostream.reports.tables import read_predictions

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Names = tuple[str, ...]

PREDICTIONS_FILE = "predictions.csv"
SCORES = "scores"
_UNKNOWN = "unknown"
_SPLIT_SETTINGS = ("seed", "data.split.number", "data.split.fold", "data.split.seed")
_ESCAPED = re.compile(r"\\([\\`*\[\]<>|~$&_])")
_PROTOCOL = re.compile(r"data set (?P<dataset>.+?); split (?P<split>.+?); (?P<side>\w+) side of ")


@dataclass(frozen=True)
class Validation:
    """Hold predictions of videos that no stream was trained on, to fit a fusion.

    Attributes:
        videos: M keys of the videos; None where they were not kept, and all outputs are of the same ones in order.
        labels: (M,) int64.
        probabilities: output name to (M, C) float32.
    """

    videos: Names | None
    labels: IntArray
    probabilities: Mapping[str, FloatArray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Hold what one run, or one file of scores, says about N videos.

    Attributes:
        name: unique among the runs compared.
        path: where it was read.
        family: name of the runs that are averaged with this one; its own name if there are none.
        protocol: the protocol in one line; empty where it is not known.
        dataset, split, side: as in the protocol, or "unknown".
        notes: remarks of the protocol.
        settings: the settings of the run, or None where they were not kept.
        classes: C names.
        videos: N names without the suffix of a video file, each once.
        labels: (N,) int64; None where a file of scores has none.
        groups: N source groups; None where a file of scores has none.
        predictions: output name to (N,) int64, the deciding output first, then streams and baselines.
        probabilities: output name to (N, C) float32; empty where only decisions were kept.
        validation: predictions of the validation side, or None.
    """

    name: str
    path: Path
    family: str
    protocol: str = ""
    dataset: str = _UNKNOWN
    split: str = _UNKNOWN
    side: str = _UNKNOWN
    notes: Names = ()
    settings: Mapping[str, Any] | None = None
    classes: Names
    videos: Names
    labels: IntArray | None
    groups: Names | None
    predictions: Mapping[str, IntArray]
    probabilities: Mapping[str, FloatArray] = field(default_factory=dict)
    validation: Validation | None = None

    def __post_init__(self) -> None:
        """Refuse a video that occurs twice."""
        twice = [name for name, count in Counter(self.videos).items() if count > 1]
        if twice:
            raise DataError(f"{self.path}: expected each video once, got {first_names(twice)} more than once")

    @property
    def decision(self) -> str:
        """Name the deciding output."""
        return next(iter(self.predictions))

    @property
    def outputs(self) -> Names:
        """Name the outputs of the model itself, without baselines."""
        return tuple(name for name in self.predictions if name not in BASELINES)


def read_run(name: str, path: Path, *, logits: bool = False) -> Run:
    """Read a run directory, the folder of an evaluation's report, or a file of scores.

    Args:
        name: what it is called in the comparison.
        path: where it is.
        logits: files of scores hold logits.

    Raises:
        DataError: nothing to compare is there, or it is damaged.
    """
    if path.is_file() and path.name in (EVALUATION_FILE, PREDICTIONS_FILE):
        path = path.parent
    if not path.is_dir():
        return _from_scores(name, path, logits)
    for folder in (path / "evaluation", path):
        if (folder / EVALUATION_FILE).is_file():
            return _from_evaluation(name, path, folder)
        if (folder / PREDICTIONS_FILE).is_file():
            return _from_predictions(name, path, folder)
    raise DataError(
        f"{path}: expected a run directory or the folder of an evaluation, with {EVALUATION_FILE} or "
        f"{PREDICTIONS_FILE}; twostream-evaluate writes them"
    )


def read_runs(
    sources: Sequence[str], *, logits: bool = False, free_settings: Sequence[str] = ()
) -> list[Run]:
    """Read all runs, and bring their classes to the order of the first.

    Runs that are one method on several splits, or with several seeds, are a family, whose figures are averaged: those
    that were given one name, and those without a name whose settings differ in nothing but split, seed and
    `free_settings`.

    Args:
        sources: paths, or NAME=PATH; the same name may be given to several.
        logits: files of scores hold logits.
        free_settings: dotted names of settings that do not change what comes out of a run.

    Raises:
        ConfigError: the same path twice.
        DataError: a run cannot be read, its classes differ from the first one's, or labels are missing or contradict
            each other.
    """
    named = [_split_source(source) for source in sources]
    twice = [str(path) for path, count in Counter(path for _, path in named).items() if count > 1]
    if twice:
        raise ConfigError(f"each run once, got {first_names(twice)} more than once")
    short = iter(_short_names([path for name, path in named if name is None]))
    families = [next(short) if name is None else name for name, _ in named]
    shared = {name for name, count in Counter(families).items() if count > 1}
    runs: list[Run] = []
    for family, (_, path) in zip(families, named, strict=True):
        run = replace(read_run(family, path, logits=logits), family=family)
        if family in shared:
            run = replace(run, name=_member_name(run, {other.name for other in runs}))
        runs.append(run)
    unnamed = [run for run, (name, _) in zip(runs, named, strict=True) if name is None]
    found = _families_by_settings(unnamed, (*free_settings, *_SPLIT_SETTINGS))
    runs = [replace(run, family=found.get(run.name, run.family)) for run in runs]
    runs = [in_order_of_classes(run, runs[0].classes, str(runs[0].path)) for run in runs]
    return _with_labels_and_groups(runs)


def in_order_of_classes(run: Run, classes: Names, where: str) -> Run:
    """Return a run with its classes in the given order.

    Raises:
        DataError: it has other classes.
    """
    if set(run.classes) != set(classes):
        extra = sorted(set(run.classes) - set(classes))
        missing = sorted(set(classes) - set(run.classes))
        raise DataError(
            f"{run.path}: its classes differ from those of {where}: not there {first_names(extra)}, "
            f"missing {first_names(missing)}; only runs with the same classes can be compared"
        )
    if run.classes == classes:
        return run
    columns = [run.classes.index(name) for name in classes]
    index = np.argsort(columns)  # old index to new
    validation = run.validation
    if validation is not None:
        validation = Validation(
            validation.videos,
            index[validation.labels],
            {name: values[:, columns] for name, values in validation.probabilities.items()},
        )
    return replace(
        run,
        classes=classes,
        labels=None if run.labels is None else index[run.labels],
        predictions={name: index[values] for name, values in run.predictions.items()},
        probabilities={name: values[:, columns] for name, values in run.probabilities.items()},
        validation=validation,
    )


def rows_in_order(videos: Names, run_videos: Names) -> IntArray:
    """Return, for each of `videos`, its row in `run_videos`, which must hold all of them."""
    row = {video: index for index, video in enumerate(run_videos)}
    return np.array([row[video] for video in videos], dtype=np.int64)


def labels_of(run: Run) -> IntArray:
    """Return the labels of a run, which `read_runs` has found for every one."""
    assert run.labels is not None
    return run.labels


def _split_source(source: str) -> tuple[str | None, Path]:
    name, equals, path = source.partition("=")
    if equals and name and path and not Path(source).exists():
        return one_line(name), Path(path)
    return None, Path(source)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name paths by as many of their last parts as tell them apart."""
    parts = []
    for path in paths:
        own = list(path.absolute().parts)
        for common in ((EVALUATION_FILE, PREDICTIONS_FILE), ("evaluation",)):
            if own[-1] in common and len(own) > 2:
                own.pop()
        parts.append(own)
    longest = max((len(each) for each in parts), default=1)
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return [one_line(name) for name in names]
    return [one_line(path) for path in paths]


def _member_name(run: Run, taken: set[str]) -> str:
    """Name a member of a family by its split, or by a number."""
    known = [] if run.split == _UNKNOWN else [f"{run.family}, {run.split}"]
    for name in (*known, *(f"{run.family} #{number}" for number in range(1, len(taken) + 2))):
        if name not in taken:
            return name
    raise AssertionError("more names than runs")


def _families_by_settings(runs: Sequence[Run], free: Sequence[str]) -> dict[str, str]:
    """Give the family of each run that has kept its settings and shares them, but for those that are free."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        if run.settings is not None:
            kept = {key: value for key, value in _flat(run.settings) if key not in free}
            members.setdefault(repr(sorted(kept.items(), key=str)), []).append(run)
    return {
        run.name: first_names([each.name for each in each_family])
        for each_family in members.values()
        if len(each_family) > 1
        for run in each_family
    }


def _flat(settings: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, object]]:
    """Yield every setting by its dotted name."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value


def _from_evaluation(name: str, path: Path, folder: Path) -> Run:
    evaluation = read_evaluation(folder)
    protocol = evaluation.protocol
    if protocol.level != "video":
        raise DataError(f"{folder}: its rows are clips; only predictions at video level can be compared")
    probabilities = {**evaluation.probabilities, **evaluation.baselines()}
    validation = _validation_beside(folder) if protocol.side == "test" else None
    if evaluation.validation_labels is not None and evaluation.validation_probabilities is not None:
        validation = validation or Validation(
            None, evaluation.validation_labels, evaluation.validation_probabilities
        )
    return Run(
        name=name,
        path=path,
        family=name,
        protocol=protocol.line().removeprefix("Protocol: "),
        dataset=protocol.dataset,
        split=protocol.split,
        side=protocol.side,
        notes=protocol.notes,
        settings=_settings(path, folder),
        classes=evaluation.classes,
        videos=_keys(evaluation.videos),
        labels=evaluation.labels,
        groups=evaluation.groups,
        predictions={output: values.argmax(axis=1) for output, values in probabilities.items()},
        probabilities=probabilities,
        validation=validation,
    )


def _validation_beside(folder: Path) -> Validation | None:
    """Read what `twostream-evaluate --part validation` left beside an evaluation."""
    beside = folder.with_name(f"{folder.name}-validation")
    if not (beside / EVALUATION_FILE).is_file():
        return None
    evaluation = read_evaluation(beside)
    return Validation(_keys(evaluation.videos), evaluation.labels, evaluation.probabilities)


def _from_predictions(name: str, path: Path, folder: Path) -> Run:
    """Read a report without its probabilities, as one is kept beside code."""
    classes, decision = _classes(folder), _decision(folder)
    index = {each: position for position, each in enumerate(classes)}
    try:
        table = read_predictions(folder / PREDICTIONS_FILE)
        labels = np.array([index[each] for each in table["label"]], dtype=np.int64)
        predictions = {
            output: np.array([index[each] for each in table[column]], dtype=np.int64)
            for output in (*OUTPUTS, *BASELINES)
            if (column := "prediction" if output == decision else f"{output}_prediction") in table.columns
        }
        videos, groups = tuple(table["video"]), tuple(table["group"])
    except (OSError, ValueError, KeyError, UnicodeError) as error:
        raise DataError(f"{folder / PREDICTIONS_FILE}: cannot be read as predictions: {error}") from error
    if not videos:
        raise DataError(f"{folder / PREDICTIONS_FILE}: expected at least one video, got none")
    line = _protocol_line(folder)
    found = _PROTOCOL.match(line)
    split = found["split"] if found else _UNKNOWN
    return Run(
        name=name,
        path=path,
        family=name,
        protocol=line,
        dataset=found["dataset"] if found else _UNKNOWN,
        split=f"split {split}" if split.isdecimal() else split,
        side=found["side"] if found else _UNKNOWN,
        settings=_settings(path, folder),
        classes=classes,
        videos=_keys(videos),
        labels=labels,
        groups=groups,
        predictions={decision: predictions.pop(decision), **predictions},
    )


def _classes(folder: Path) -> Names:
    path = folder / "confusion_matrix.csv"
    try:
        table = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: needed for the names of the classes, but cannot be read: {error}"
        ) from error
    return tuple(str(name) for name in table.iloc[0, 1:])


def _decision(folder: Path) -> str:
    path = folder / "summary.csv"
    try:
        return str(pd.read_csv(path, nrows=1, dtype=str)["output"][0])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: needed for the deciding output, but cannot be read: {error}") from error


def _protocol_line(folder: Path) -> str:
    path = folder / "report.md"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline().strip()
    return _ESCAPED.sub(r"\1", line).removeprefix("Protocol: ") if line.startswith("Protocol: ") else ""


def _settings(path: Path, folder: Path) -> Mapping[str, Any] | None:
    for place in (path, folder.parent):
        if (place / "config.yaml").is_file():
            try:
                plain = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
            except (OSError, UnicodeError, yaml.YAMLError) as error:
                raise DataError(f"{place / 'config.yaml'}: cannot be read: {one_line(error)}") from error
            return plain if isinstance(plain, Mapping) else None
    return None


def _from_scores(name: str, path: Path, logits: bool) -> Run:
    if not path.exists():
        raise DataError(f"{path}: no such run directory, report folder or file of scores")
    table = read_scores(path, logits=logits)
    labels = None
    if table.labels is not None:
        labels = np.array([table.classes.index(label) for label in table.labels], dtype=np.int64)
    return Run(
        name=name,
        path=path,
        family=name,
        classes=table.classes,
        videos=_keys(table.videos),
        labels=labels,
        groups=table.groups,
        predictions={SCORES: table.probabilities.argmax(axis=1)},
        probabilities={SCORES: table.probabilities},
    )


def _keys(videos: Sequence[str]) -> Names:
    return tuple(without_suffix(video) for video in videos)


def _with_labels_and_groups(runs: Sequence[Run]) -> list[Run]:
    """Give files of scores the labels and groups that other runs have for the same videos; hold labels together."""
    labels: dict[str, tuple[int, str]] = {}
    groups: dict[str, str] = {}
    for run in runs:
        if run.labels is not None:
            for video, label in zip(run.videos, run.labels.tolist(), strict=True):
                known, where = labels.setdefault(video, (label, run.name))
                if known != label:
                    names = run.classes
                    raise DataError(
                        f"{run.path}: {video} is labelled {names[label]}, but {names[known]} in {where}; "
                        "only runs on the same annotations can be compared"
                    )
        for video, group in zip(run.videos, run.groups or (), strict=False):
            groups.setdefault(video, group)
    complete = []
    for run in runs:
        if run.labels is None:
            without = [video for video in run.videos if video not in labels]
            if without:
                raise DataError(
                    f"{run.path}: {len(without)} videos have no label, here or in another run: "
                    f"{first_names(without)}; add a column label (npz: an array labels)"
                )
            run = replace(run, labels=np.array([labels[video][0] for video in run.videos], dtype=np.int64))
        if run.groups is None and all(video in groups for video in run.videos):
            run = replace(run, groups=tuple(groups[video] for video in run.videos))
        same = [each for each in runs if run.dataset == _UNKNOWN and set(each.videos) == set(run.videos)]
        for each in same:
            if each.dataset != _UNKNOWN:
                run = replace(run, dataset=each.dataset, split=each.split, side=each.side)
                break
        complete.append(run)
    return complete
