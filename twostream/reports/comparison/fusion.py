"""Fuse the saved probabilities of two runs, or of any tool, by simple rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from twostream.errors import ConfigError, DataError, first_names
from twostream.evaluation.late_fusion import WeightedFusion, fit_weighted, mean_rule, product_rule
from twostream.reports.comparison.runs import (
    IntArray,
    Run,
    in_order_of_classes,
    labels_of,
    read_runs,
    rows_in_order,
)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fused:
    """Hold the fusion of two outputs.

    Attributes:
        run: what came out, a run whose outputs are "product", "mean" and, where it could be fitted, "weighted".
        members: what was fused, each a run and one of its outputs.
        weighted: what was fitted, or None.
        reason: why nothing could be fitted; empty if it was.
    """

    run: Run
    members: tuple[tuple[Run, str], tuple[Run, str]]
    weighted: WeightedFusion | None
    reason: str

    @property
    def names(self) -> tuple[str, str]:
        """Return what was fused, in words."""
        first, second = (member_name(*member) for member in self.members)
        return first, second


def member_name(run: Run, output: str) -> str:
    """Name an output as `--fuse` does: by its run alone where it is the deciding one."""
    return run.name if output == run.decision else f"{run.name}:{output}"


def fuse(
    runs: Sequence[Run], members: Sequence[str], validation: Sequence[str] = (), *, logits: bool = False
) -> Fused:
    """Fuse two outputs.

    Args:
        runs: as `read_runs` gives them.
        members: two names of runs, each for its deciding output, or NAME:OUTPUT.
        validation: two runs, reports or files of scores with predictions of the same validation videos, in the same
            order; empty to take what the runs have kept of theirs.
        logits: files of scores hold logits.

    Raises:
        ConfigError: a member does not exist.
        DataError: a member has no probabilities, the videos differ, or validation videos are test videos.
    """
    (first, output), (second, other) = (_find(runs, member) for member in members)
    names = member_name(first, output), member_name(second, other)
    if set(first.videos) != set(second.videos):
        raise DataError(
            f"cannot fuse {names[0]} and {names[1]}: they are of {len(first.videos)} and {len(second.videos)} videos, "
            f"{len(set(first.videos) & set(second.videos))} in common; both must be of the same videos"
        )
    a = _probabilities(first, output)
    b = _probabilities(second, other)[rows_in_order(first.videos, second.videos)]
    fused = {"product": product_rule(a, b), "mean": mean_rule(a, b)}
    weighted, reason = None, ""
    fitting: tuple[IntArray, FloatArray, FloatArray] | str
    if validation:
        fitting = _given(validation, (first, second), (output, other), logits)
    else:
        fitting = _kept(first, output, second, other)
    if isinstance(fitting, str):
        reason = fitting
    else:
        weighted = fit_weighted(*fitting)
        fused["weighted"] = weighted(a, b)
    name = " + ".join(names)
    run = replace(
        first,
        name=name,
        family=name,
        protocol=f"fusion of {names[0]} and {names[1]}",
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
        settings=None,
        predictions={each: values.argmax(axis=1) for each, values in fused.items()},
        probabilities=fused,
        validation=None,
    )
    return Fused(run, ((first, output), (second, other)), weighted, reason)


def _find(runs: Sequence[Run], member: str) -> tuple[Run, str]:
    by_name = {run.name: run for run in runs}
    if member in by_name:
        return by_name[member], by_name[member].decision
    name, _, output = member.rpartition(":")
    if name not in by_name:
        raise ConfigError(
            f"--fuse {member}: no such run; give NAME or NAME:OUTPUT, with a name of {first_names(list(by_name), 9)}"
        )
    if output not in by_name[name].predictions:
        outputs = ", ".join(by_name[name].predictions)
        raise ConfigError(f"--fuse {member}: {name} has no output {output}; it has {outputs}")
    return by_name[name], output


def _probabilities(run: Run, output: str) -> FloatArray:
    if output not in run.probabilities:
        raise DataError(
            f"{run.path}: cannot fuse {member_name(run, output)}: only its decisions were kept; evaluation.npz, which "
            "twostream-evaluate writes, has its probabilities"
        )
    return run.probabilities[output]


def _given(
    sources: Sequence[str], runs: tuple[Run, Run], outputs: tuple[str, str], logits: bool
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Read the validation predictions that the user names."""
    read = read_runs(list(dict.fromkeys(sources)), logits=logits)
    found = []
    for run, output in zip((read[0], read[-1]), outputs, strict=True):
        ordered = in_order_of_classes(run, runs[0].classes, str(runs[0].path))
        probabilities = _probabilities(ordered, output if output in run.predictions else run.decision)
        found.append((ordered, probabilities))
    (a, first), (b, second) = found
    if set(a.videos) != set(b.videos):
        raise DataError(
            f"--validation: both must be of the same videos, got {len(a.videos)} and {len(b.videos)}, "
            f"{len(set(a.videos) & set(b.videos))} in common"
        )
    _require_untested(a.videos, runs[0])
    return labels_of(a), first, second[rows_in_order(a.videos, b.videos)]


def _kept(first: Run, output: str, second: Run, other: str) -> tuple[IntArray, FloatArray, FloatArray] | str:
    """Take what the runs have kept of their validation side; says why that is not possible."""
    a, b = first.validation, second.validation
    if a is None or b is None or output not in a.probabilities or other not in b.probabilities:
        return (
            "there are no predictions of validation videos to fit it on; twostream-evaluate --part validation makes "
            "them, --validation names them"
        )
    rows = np.arange(len(a.labels))
    if a.videos is not None and b.videos is not None:
        if set(a.videos) != set(b.videos):
            return "the validation sides of the two runs are of different videos"
        _require_untested(a.videos, first)
        rows = rows_in_order(a.videos, b.videos)
    elif first is not second:
        return (
            "the runs have kept predictions of validation videos, but not which videos these are; twostream-evaluate "
            "--part validation makes them with names"
        )
    return a.labels, a.probabilities[output], b.probabilities[other][rows]


def _require_untested(videos: Sequence[str], test: Run) -> None:
    tested = sorted(set(videos) & set(test.videos))
    if tested:
        raise DataError(
            f"{len(tested)} validation videos are test videos, such as {first_names(tested)}; a fusion must be "
            "fitted on others"
        )
