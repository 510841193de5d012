"""Source groups: which videos come from one recording, and so must stay on one side of a split."""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from flow_cache import is_video
from twostream.errors import DataError, first_names

_UCF_STEM = re.compile(r"v_(?P<name>.+)_g(?P<group>\d+)_c\d+")
_GENERIC_STEM = re.compile(r"(?P<group>(.+_)?g\d+)_c\d+")


def assign_groups(items: Sequence[tuple[str, str]], rule: str = "auto") -> tuple[list[str], str]:
    """Find the source group of each (video path, class name), and describe the rule in words.

    Raises:
        DataError: an explicit rule does not fit every video, or is no regular expression with one group.
    """
    rules: dict[str, tuple[Callable[[str, str], str | None], str]] = {
        "ucf": (_ucf_group, "class and group number of names v_<class>_g<group>_c<clip>"),
        "hmdb": (_hmdb_group, "the file name before _<class>_"),
        "generic": (_generic_group, "the file name before its clip number _c<clip>, without the class"),
        "video": (lambda path, _: path, "every video is its own source"),
    }
    if rule == "auto":
        for match, words in rules.values():
            matched = [match(path, name) for path, name in items]
            if all(matched):
                return [str(group) for group in matched], words
    if rule in rules:
        match, words = rules[rule]
    else:
        match, words = _regex_group(rule), f"what the pattern {rule} captures in the file name"
    groups = [match(path, name) for path, name in items]
    unmatched = [path for (path, _), group in zip(items, groups, strict=True) if not group]
    if unmatched:
        raise DataError(
            f"group rule '{rule}' does not fit {len(unmatched)} of {len(items)} videos, "
            f"such as {first_names(unmatched)}; use auto, ucf, hmdb, generic, video or a pattern with one group"
        )
    return [str(group) for group in groups], words


def _ucf_group(path: str, name: str) -> str | None:
    match = _UCF_STEM.fullmatch(stem(path))
    return f"{match['name']}_g{match['group']}" if match else None


def _hmdb_group(path: str, name: str) -> str | None:
    # The last occurrence: the six tags after the class never contain it, the film's title may.
    return stem(path).rpartition(f"_{name}_")[0] or None


def _generic_group(path: str, name: str) -> str | None:
    # Without the class, so that the same source number in two classes is one source: coarser, but it cannot
    # leak.
    match = _GENERIC_STEM.fullmatch(stem(path).removeprefix(f"{name}_"))
    return match["group"] if match else None


def _regex_group(rule: str) -> Callable[[str, str], str | None]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"group rule '{rule}' is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise DataError(
            f"group rule '{rule}': got {pattern.groups} groups in the pattern, expected exactly one (…)"
        )

    def match(path: str, name: str) -> str | None:
        found = pattern.search(stem(path))
        return found[1] if found else None

    return match


def stem(path: str) -> str:
    """Return a path's file name without the suffix of a video file; an image folder keeps its whole name."""
    return PurePosixPath(without_suffix(path)).name


def without_suffix(path: str) -> str:
    """Return a path without the suffix of a video file."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if is_video(pure.name) else str(pure)
