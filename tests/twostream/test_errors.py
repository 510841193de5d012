"""How messages list names, and that they keep to a line."""

import pytest

from twostream.errors import first_names, one_line


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "none"),
        (["a", 2], "a, 2"),
        ("abc", "a, b, c"),
        ("abcd", "a, b, c and 1 more"),
        (range(8), "0, 1, 2 and 5 more"),
    ],
)
def test_messages_name_the_first_and_count_the_rest(names, text: str) -> None:
    assert first_names(names) == text


def test_a_message_with_little_room_names_fewer() -> None:
    assert first_names(["a", "b", "c"], 2) == "a, b and 1 more"


def test_messages_are_one_line() -> None:
    assert one_line(ValueError("a\n\tlong   story\r\n")) == "a long story"
