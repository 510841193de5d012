"""Rows of CSV come back as they were, whatever the names in them hold."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from flow_cache.storage.table import csv_bytes

# What file names hold: every character but NUL, and bytes that are no UTF-8 as lone surrogates.
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.sampled_from("\r\n\t\",'= \udc80\udcff\x1b\ufeff")
)


@given(st.lists(st.lists(NAMES, min_size=2, max_size=4)))
def test_every_name_comes_back(rows: list[list[str]]) -> None:
    text = csv_bytes(rows).decode("utf-8", "surrogateescape")
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == rows


def test_rows_of_plain_names_are_plain_lines() -> None:
    assert (
        csv_bytes([("video", "frames"), ("walk/a.avi", 12), ("", None)])
        == b"video,frames\nwalk/a.avi,12\n,\n"
    )
