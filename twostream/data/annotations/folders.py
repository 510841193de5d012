"""Class folders, with or without a folder of each side above them."""

from __future__ import annotations

from collections.abc import Sequence

from twostream.data.annotations.records import SIDES, Annotations, annotate, count, split_of
from twostream.settings import Part


def load_folders(videos: Sequence[str], groups: str = "auto") -> Annotations:
    """Label videos by the first folder of their path, `<class>/**/<video>`."""
    inside = [video for video in videos if "/" in video]
    stray = len(videos) - len(inside)
    notes = (
        (f"{count(stray, 'video')} directly in the data root, in no class folder, left out.",)
        if stray
        else ()
    )
    return annotate([(video, video.split("/", 1)[0]) for video in inside], groups, notes=notes)


def load_split_folders(videos: Sequence[str], groups: str = "auto") -> Annotations:
    """Label videos by the second folder of their path, `train|val|test/<class>/**/<video>`, as Kinetics is kept.

    The first folder is the side. Without a `test` folder, that of the validation is the test side: Kinetics'
    test labels are not public.
    """
    found: dict[str, str] = {}
    parts: dict[str, Part] = {}
    for video in videos:
        side, _, rest = video.partition("/")
        name, inside, _ = rest.partition("/")
        if side.casefold() in SIDES and inside:
            found[video], parts[video] = name, SIDES[side.casefold()]
    split = split_of("the folders train, val and test", parts, "folder")
    stray = [video for video in videos if video not in found]
    notes = (
        (f"{count(len(stray), 'video')} in no <side>/<class> folder, such as {stray[0]}, left out.",)
        if stray
        else ()
    )
    return annotate(list(found.items()), groups, official={1: split} if split else {}, notes=notes)


def has_side_folders(videos: Sequence[str]) -> bool:
    """Tell whether the first folders are sides: `train` and another one, or sides alone, with folders in them."""
    depths: dict[str, int] = {}
    for video in videos:
        first, inside, rest = video.partition("/")
        if inside:
            depths[first] = max(depths.get(first, 0), rest.count("/"))
    sides = {SIDES[name.casefold()] for name, depth in depths.items() if name.casefold() in SIDES and depth}
    return "train" in sides and (len(sides) > 1 or len(depths) == 1)
