"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from twostream.files import replacing, write_text


def test_a_file_is_replaced_once_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with replacing(path) as partial:
        name = partial.name
        partial.write_text("x")
    (tmp_path / name).write_text("half of an earlier run, and longer")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "größer \udcff\r\n")
    assert (tmp_path / "a").read_bytes() == "größer \\udcff\r\n".encode()
