"""Training, validation and test parts in which no source video sits on both sides, or which say so."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twostream.data.annotations import Annotations, VideoRecord
from twostream.data.settings import SplitConfig
from twostream.errors import DataError, first_names
from twostream.settings import Part


@dataclass(frozen=True)
class Split:
    """Hold the parts of a data set, how they were made, and test videos whose source is also in training."""

    train: tuple[VideoRecord, ...]
    validation: tuple[VideoRecord, ...]
    test: tuple[VideoRecord, ...]
    name: str
    notes: tuple[str, ...] = ()
    shared_sources: frozenset[str] = frozenset()

    def changed(self, change: Callable[[Part, tuple[VideoRecord, ...]], Iterable[VideoRecord]]) -> "Split":
        """Return the split with the videos of each side that a function makes of its name and videos."""
        train, validation = tuple(change("train", self.train)), tuple(change("validation", self.validation))
        test = tuple(change("test", self.test))
        shared = self.shared_sources & {video.path for video in test}
        return replace(self, train=train, validation=validation, test=test, shared_sources=shared)


def make_split(
    annotations: Annotations,
    config: SplitConfig = SplitConfig(),  # noqa: B008 - a frozen value
) -> Split:
    """Split the annotated videos; deterministic in the annotations and the config.

    Raises:
        DataError: settings out of range, a class without training videos, a part without videos, or leakage.
    """
    parts, name, notes = assign_parts(annotations, config)
    return _finish(annotations, config, parts, name, (*annotations.notes, *notes))


def assign_parts(
    annotations: Annotations, config: SplitConfig
) -> tuple[dict[str, Part], str, tuple[str, ...]]:
    """Put videos on sides, before validation is taken from the training and anything is refused.

    Returns:
        The side of each video that is on one, how the split was made, and sentences about it.

    Raises:
        DataError: settings out of range, or a split that the data do not have.
    """
    _check(config)
    kind = config.kind
    if kind == "auto":
        kind = "official" if annotations.official else "group"
    return _MAKERS[kind](annotations, config)


def _official(annotations: Annotations, config: SplitConfig) -> tuple[dict[str, Part], str, tuple[str, ...]]:
    if not annotations.official:
        raise DataError(
            "an official split needs split lists or a table with a split column; give them, or use group"
        )
    official = annotations.official.get(config.number)
    if official is None:
        numbers = ", ".join(map(str, annotations.official))
        raise DataError(f"there is no official split {config.number}: expected one of {numbers}")
    return dict(official.parts), official.name, official.notes


def _group(annotations: Annotations, config: SplitConfig) -> tuple[dict[str, Part], str, tuple[str, ...]]:
    held_out = hold_out_groups(annotations.videos, config.test_fraction, config.seed, cover=True)
    if not held_out:
        groups = len({video.group for video in annotations.videos})
        raise DataError(
            "no source group can be held out for the test without emptying a class: "
            f"the {len(annotations.videos)} videos form {groups} groups ({annotations.group_rule}); "
            "add sources or set another group rule"
        )
    parts = _parts(annotations.videos, lambda video: video.group in held_out)
    return parts, f"group split, {config.test_fraction:g} of each class held out, seed {config.seed}", ()


def _kfold(annotations: Annotations, config: SplitConfig) -> tuple[dict[str, Part], str, tuple[str, ...]]:
    labels = np.array([video.label for video in annotations.videos])
    groups = np.array([video.group for video in annotations.videos], dtype=object)
    found = len(set(groups))
    largest = max(Counter(labels.tolist()).values())
    if found < config.folds or largest < config.folds:
        raise DataError(
            f"{config.folds} folds need as many source groups and videos in a class: "
            f"got {found} groups ({annotations.group_rule}) and at most {largest} videos in a class; "
            "use fewer folds"
        )
    # Here and not above: it takes long to import, and whatever reads a checkpoint imports this module.
    from sklearn.model_selection import StratifiedGroupKFold

    _, numbers = np.unique(groups.astype(str), return_inverse=True)
    folds = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    _, test = list(folds.split(np.zeros(len(labels)), labels, numbers))[config.fold - 1]
    held_out = {annotations.videos[i].path for i in test}
    parts = _parts(annotations.videos, lambda video: video.path in held_out)
    return parts, f"fold {config.fold} of {config.folds} by source group, seed {config.seed}", ()


def _logo(annotations: Annotations, config: SplitConfig) -> tuple[dict[str, Part], str, tuple[str, ...]]:
    ends = {video.group: re.search(r"\d+$", video.group) for video in annotations.videos}
    unnumbered = [group for group, end in ends.items() if end is None]
    if unnumbered:
        raise DataError(
            f"a split by group number needs source groups that end in one, such as Diving_g01 or person01: got "
            f"{first_names(unnumbered)} (groups are {annotations.group_rule}); use kfold"
        )
    numbers = {group: int(end[0]) for group, end in ends.items() if end is not None}
    if config.fold not in numbers.values():
        raise DataError(
            f"there is no source group {config.fold}: expected one of {first_names(sorted(set(numbers.values())), 30)}"
        )
    parts = _parts(annotations.videos, lambda video: numbers[video.group] == config.fold)
    return parts, f"group {config.fold} of {len(set(numbers.values()))} left out", ()


_MAKERS = {"official": _official, "group": _group, "kfold": _kfold, "logo": _logo}


def hold_out_groups(
    videos: Sequence[VideoRecord], fraction: float, seed: int, cover: bool = False
) -> frozenset[str]:
    """Choose source groups that hold about `fraction` of each class's videos and never all of a class.

    Groups are visited from large to small, ties in seeded random order, and taken whenever that brings the
    shares of all classes closer to `fraction` in the least-squares sense. With `cover`, a class left without
    any held-out video then gives up the group that costs least, if it has one to spare.
    """
    labels = sorted({video.label for video in videos})
    column = {label: i for i, label in enumerate(labels)}
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(labels)))
    for video in videos:
        counts[video.group][column[video.label]] += 1
    names = sorted(counts)
    order = np.random.default_rng(seed).permutation(len(names))
    ranked = sorted((names[i] for i in order), key=lambda name: -counts[name].sum())
    totals = np.sum([counts[name] for name in names], axis=0)
    held = np.zeros(len(labels))
    chosen: set[str] = set()

    def cost(taken: np.ndarray) -> float:
        return float(np.sum((taken / totals - fraction) ** 2))

    def spares_every_class(name: str) -> bool:
        return bool(np.all(held + counts[name] < totals))

    for name in ranked:
        if spares_every_class(name) and cost(held + counts[name]) < cost(held):
            chosen.add(name)
            held = held + counts[name]
    for i in range(len(labels) if cover else 0):
        spare = [n for n in ranked if counts[n][i] and n not in chosen and spares_every_class(n)]
        if not held[i] and spare:
            best = min(spare, key=lambda n: cost(held + counts[n]))
            chosen.add(best)
            held = held + counts[best]
    return frozenset(chosen)


def _parts(videos: Iterable[VideoRecord], is_test: Callable[[VideoRecord], bool]) -> dict[str, Part]:
    return {video.path: "test" if is_test(video) else "train" for video in videos}


def _finish(
    annotations: Annotations, config: SplitConfig, parts: dict[str, Part], name: str, notes: tuple[str, ...]
) -> Split:
    """Take validation from training, check every rule and collect the notes."""

    def members(part: Part) -> list[VideoRecord]:
        return [video for video in annotations.videos if parts.get(video.path) == part]

    train, validation, test = members("train"), members("validation"), members("test")
    if not train or not test:
        raise DataError(f"{name} has {len(train)} training and {len(test)} test videos; both parts need some")
    lacking = _lacking(annotations, train)
    if lacking:
        raise DataError(f"{name}: no training videos for {first_names(lacking)}; every class needs some")
    shared, leak_notes = _check_leakage(annotations, config, [*train, *validation], test)
    if validation:
        both = {video.group for video in train} & {video.group for video in validation}
        if both:
            raise DataError(
                f"{name}: source groups {first_names(sorted(both))} have videos in training and validation; "
                "move each to one side"
            )
    elif config.val_fraction > 0:
        held_out = hold_out_groups(train, config.val_fraction, config.seed)
        if not held_out:  # sources are too large for the share: take the smallest that leave every class some
            held_out = hold_out_groups(train, config.val_fraction, config.seed, cover=True)
        if not held_out:
            raise DataError(
                f"no source group can be taken from the {len(train)} training videos for validation "
                "without emptying a class; set val_fraction to 0 to train without validation"
            )
        validation = [video for video in train if video.group in held_out]
        train = [video for video in train if video.group not in held_out]
    extra = list(leak_notes)
    if missing := _lacking(annotations, test):
        extra.append(
            f"No test videos for {len(missing)} of {len(annotations.classes)} classes: {', '.join(missing)}."
        )
    if validation and (missing := _lacking(annotations, validation)):
        extra.append(
            f"No validation videos for {len(missing)} of {len(annotations.classes)} classes: "
            f"{', '.join(missing)}."
        )
    return Split(tuple(train), tuple(validation), tuple(test), name, (*notes, *extra), shared)


def _check_leakage(
    annotations: Annotations,
    config: SplitConfig,
    training: Sequence[VideoRecord],
    test: Sequence[VideoRecord],
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Find sources on both sides; refuse them, or return the test videos concerned and a sentence."""
    in_training: dict[str, set[int]] = defaultdict(set)
    for video in training:
        in_training[video.group].add(video.label)
    shared = [video for video in test if video.group in in_training]
    if not shared:
        return frozenset(), ()
    groups = {video.group for video in shared}
    same_class = {video.group for video in shared if video.label in in_training[video.group]}
    found = f"(groups are {annotations.group_rule})"
    if same_class:
        raise DataError(
            f"{len(same_class)} source groups have videos of one class in training and test, such as "
            f"{first_names(sorted(same_class))} {found}; use a group split, or correct the lists or the group rule"
        )
    if config.leakage == "refuse":
        raise DataError(
            f"{len(groups)} source groups have videos of different classes in training and test, such as "
            f"{first_names(sorted(groups))} {found}; "
            "use a group split, or leakage=report to keep this one and report it"
        )
    total = len({video.group for video in (*training, *test)})
    note = (
        f"{len(groups)} of {total} source videos have clips in training and test, never of the same class; "
        f"this concerns {len(shared)} of {len(test)} test clips."
    )
    return frozenset(video.path for video in shared), (note,)


def _check(config: SplitConfig) -> None:
    for field, value, low in (
        ("test_fraction", config.test_fraction, False),
        ("val_fraction", config.val_fraction, True),
    ):
        if not (0 < value < 1 or (low and value == 0)):
            raise DataError(
                f"{field} is a share: got {value:g}, expected {'0 or ' if low else ''}more than 0, below 1"
            )
    if config.kind != "logo" and (config.folds < 2 or not 1 <= config.fold <= config.folds):
        raise DataError(
            f"got fold {config.fold} of {config.folds}, expected 2 or more folds and a fold from 1 to that"
        )


def _lacking(annotations: Annotations, videos: Sequence[VideoRecord]) -> list[str]:
    present = {video.label for video in videos}
    return [name for label, name in enumerate(annotations.classes) if label not in present]
