"""Errors survive pickling; messages list names in short and keep to a line."""

import pickle

import pytest

from flow_cache.errors import (
    CacheFileError,
    CacheWriteError,
    FlowCacheError,
    StorageError,
    VideoError,
    first_names,
    one_line,
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (VideoError("a/b.avi", "no such file"), "a/b.avi: no such file"),
        (VideoError("b.avi", "broken", 7), "b.avi, frame 7: broken"),
        (
            CacheFileError("c.flow.zip", "damaged", "flow/00001.jls"),
            "c.flow.zip, member flow/00001.jls: damaged",
        ),
        (
            CacheWriteError.from_os_error("out", OSError(28, "No space left")),
            "cannot write out: No space left",
        ),
        (StorageError("s3://bucket/a", "refused"), "s3://bucket/a: refused"),
    ],
)
def test_errors_name_the_file_in_one_line_and_survive_pickling(error: FlowCacheError, text: str) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert str(error) == str(copy) == text
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "none"),
        (["a", 2], "a, 2"),
        ("abc", "a, b, c"),
        ("abcd", "a, b, c and 1 more"),
        (range(8), "0, 1, 2 and 5 more"),
        (range(1203), "0, 1, 2 and 1,200 more"),
    ],
)
def test_messages_name_the_first_and_count_the_rest(names, text: str) -> None:
    assert first_names(names) == text


def test_a_message_with_little_room_names_fewer() -> None:
    assert first_names(["a", "b", "c"], 2) == "a, b and 1 more"


@pytest.mark.parametrize("kind", [ValueError, str])
def test_messages_are_one_line(kind) -> None:
    assert one_line(kind("a\n\tlong   story\r\n")) == "a long story"


def test_an_error_that_says_nothing_goes_by_its_class() -> None:
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line("") == ""
