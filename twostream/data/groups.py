"""Source groups: which videos come from one recording, and so must stay on one side of a split.

The rule is found for each file by its name. A copy (`x (1).avi`, `Copy of x.avi`, another suffix, another case) joins
the source of the file that it was copied from.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from flow_cache import is_video
from twostream.errors import DataError, first_names

Rule = Callable[[str, str], str | None]
"""Tells the source of a video from the stem of its file and its class; None where the name does not say."""

# UCF-11 writes v_<class>_01_01.
_UCF_STEM = re.compile(r"v_(?P<name>.+)_(g(?P<group>\d+)_c\d+|(?P<plain>\d\d)_\d\d)", re.IGNORECASE)
_KTH_STEM = re.compile(r"(?P<person>person\d+)_[a-z]+_d\d+(_uncomp)?", re.IGNORECASE)
_GENERIC_STEM = re.compile(r"(?P<group>(.+_)?g\d+)_c\d+", re.IGNORECASE)
_KINETICS_STEM = re.compile(r"(?P<video>[\w-]{11})_\d{6}_\d{6}")
# What file managers make of the name of a copy, at its end or at its beginning.
_COPY = re.compile(
    r"(?P<end>(?<=.)[ _]?\(\d+\)|[ _-]+(copy|kopie|copie|copia)([ _-]*\(?\d+\)?)?)$"
    r"|^(?P<start>(copy|kopie|copie|copia)[ _]*(\(\d+\)[ _]*)?(of|von|de|di)[ _]+)",
    re.IGNORECASE,
)
_VIDEO = "video"


@dataclass(frozen=True)
class Groups:
    """Hold the source group of each video, and how it was found.

    Attributes:
        names: the groups, in the order of the videos.
        words: the rules that were used, in words.
        unmatched: videos that no rule fits; each has a group of its own, its path.
    """

    names: tuple[str, ...]
    words: str
    unmatched: tuple[str, ...] = ()

    def require_all(self) -> Groups:
        """Return these groups; DataError if the source of a video is not known."""
        if self.unmatched:
            raise DataError(refusal(self.unmatched, len(self.names)))
        return self


def refusal(unmatched: Sequence[str], total: int, rule: str = "auto") -> str:
    """Say that the sources of some videos are not known, and what to do."""
    said = "no rule for source groups fits" if rule == "auto" else f"group rule '{rule}' does not fit"
    return (
        f"{said} {len(unmatched)} of {total} videos, such as {first_names(unmatched)}; say which recording they come "
        "from by data.groups: auto,video if each of them is a recording of its own, a pattern with one group, or the "
        "column group of a CSV table (twostream-data check names them all)"
    )


def assign_groups(items: Sequence[tuple[str, str]], rule: str = "auto") -> tuple[list[str], str]:
    """Find the source group of each (video path, class name), and describe the rule in words.

    Raises:
        DataError: the rule does not fit every video, or is no regular expression with a group.
    """
    found = find_groups(items, rule).require_all()
    return list(found.names), found.words


def find_groups(items: Sequence[tuple[str, str]], rule: str = "auto") -> Groups:
    """Find the source group of each (video path, class name), file by file.

    Args:
        items: path and class of each video.
        rule: `auto` (every rule that knows a data set's names), the name of a rule, several of them separated by
            commas (the first that fits a file counts), or a regular expression with one group, searched in the stem.
            `video` makes each file its own source, apart from its copies.

    Raises:
        DataError: an explicit rule does not fit every video, or is no regular expression with one group.
    """
    rules, alone = _parse(rule)
    present = {_key(path) for path, _ in items}
    named: list[tuple[str, str, str | None]] = []  # what is compared, how it is written, which rule fitted
    for path, name in items:
        found = _first(rules, path, name, present)
        if found is None:
            original = _original(path, present)
            named.append((f"/{original}", path, None))
        else:
            group, words = found
            named.append((group.casefold(), group, words))
    unmatched = tuple(
        path for (path, _), (_, _, words) in zip(items, named, strict=True) if words is None and not alone
    )
    if unmatched and rule != "auto":
        raise DataError(refusal(unmatched, len(items), rule))
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for compared, written, _ in named:
        spellings[compared][written] += 1
    shown = {key: min(counts, key=lambda text: (-counts[text], text)) for key, counts in spellings.items()}
    used = Counter(words or "every video is its own source" for _, _, words in named)
    listed = [words if len(used) == 1 else f"{words} ({count})" for words, count in used.most_common()]
    return Groups(tuple(shown[compared] for compared, _, _ in named), "; ".join(listed), unmatched)


def _ucf_group(stem: str, name: str) -> str | None:
    match = _UCF_STEM.fullmatch(stem)
    return f"{match['name']}_g{match['group'] or match['plain']}" if match else None


def _kth_group(stem: str, name: str) -> str | None:
    match = _KTH_STEM.fullmatch(stem)
    return match["person"] if match else None


def _hmdb_group(stem: str, name: str) -> str | None:
    # The last occurrence: the six tags after the class never contain it, the film's title may. The first tag, what is
    # seen of the body, keeps other data sets' names out.
    match = re.fullmatch(rf"(.+)_{re.escape(name)}_[fhlu](_.*)?", stem, re.IGNORECASE)
    return match[1] if match else None


def _generic_group(stem: str, name: str) -> str | None:
    # Without the class, so that the same source number in two classes is one source: coarser, but it cannot
    # leak.
    own = f"{name}_".casefold()
    match = _GENERIC_STEM.fullmatch(stem[len(own) :] if stem.casefold().startswith(own) else stem)
    return match["group"] if match else None


def _kinetics_group(stem: str, name: str) -> str | None:
    match = _KINETICS_STEM.fullmatch(stem)
    return match["video"] if match else None


_RULES: dict[str, tuple[Rule, str]] = {
    "ucf": (_ucf_group, "class and group number of names v_<class>_g<group>_c<clip>"),
    "kth": (_kth_group, "the person of names person<number>_<class>_d<scene>"),
    "kinetics": (_kinetics_group, "the video of names <video>_<start>_<end>"),
    "hmdb": (_hmdb_group, "the file name before _<class>_"),
    "generic": (_generic_group, "the file name before its clip number _c<clip>, without the class"),
}


def _parse(rule: str) -> tuple[list[tuple[Rule, str]], bool]:
    """Return the rules that a setting stands for, and whether what they do not fit is its own source."""
    names = [name.strip() for name in rule.split(",")]
    if not all(name in _RULES or name in ("auto", _VIDEO) for name in names):
        return [(_regex_group(rule), f"what the pattern {rule} captures in the file name")], False
    chosen = [own for name in names for own in (_RULES if name == "auto" else [name]) if own != _VIDEO]
    return [_RULES[name] for name in chosen], _VIDEO in names


def _first(
    rules: Sequence[tuple[Rule, str]], path: str, name: str, present: set[str]
) -> tuple[str, str] | None:
    """Return the group of the first rule that fits a file, and the rule's words.

    The name of a copy may fit no rule, or another one, but that of its original does: it goes first where there is one.
    """
    own, bare = stem(path), without_copy_marks(stem(path))
    texts = (own, bare) if _original(path, present) == _key(path) else (bare, own)
    fitting = ((group, words) for match, words in rules for text in texts if (group := match(text, name)))
    return next(fitting, None)


def _regex_group(rule: str) -> Rule:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"group rule '{rule}' is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise DataError(
            f"group rule '{rule}': got {pattern.groups} groups in the pattern, expected exactly one (…); or name "
            f"rules: auto, {', '.join(_RULES)}, {_VIDEO}"
        )

    def match(stem: str, name: str) -> str | None:
        found = pattern.search(stem)
        return found[1] if found else None

    return match


def _key(path: str) -> str:
    """Return what two paths share that differ in suffix and case only."""
    return without_suffix(path).casefold()


def _original(path: str, present: set[str]) -> str:
    """Return the key of the file that a path is a copy of, if that is there too; else its own.

    `walk (7)` alone is no copy: a file manager numbers a series like that.
    """
    pure = PurePosixPath(without_suffix(path))
    original = str(pure.with_name(without_copy_marks(pure.name))).casefold()
    return original if original in present else _key(path)


def without_copy_marks(stem: str) -> str:
    """Return the stem that the name of a copy tells of: `x` for `x (1)`, `Copy of x`, `x - Copy (2)`, `x.avi`."""
    while True:
        bare = _COPY.sub("", without_suffix(stem))
        if bare == stem or not bare:
            return stem
        stem = bare


def stem(path: str) -> str:
    """Return a path's file name without the suffix of a video file; an image folder keeps its whole name."""
    return PurePosixPath(without_suffix(path)).name


def without_suffix(path: str) -> str:
    """Return a path without the suffix of a video file."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if is_video(pure.name) else str(pure)
