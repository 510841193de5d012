"""Results that others have published: quoted with their source, never among what was measured here."""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Iterable

import pandas as pd


def quoted_results(data_sets: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the published results that come with this package.

    Args:
        data_sets: only those on these, however they are spelt ("ucf101" is "UCF-101"); None for all.

    Returns:
        A row a figure: `data_set`, `split`, `method`, `quantity`, `value` (a fraction) and `source`.
    """
    file = importlib.resources.files("twostream.reports.comparison") / "quoted.csv"
    table = pd.read_csv(io.StringIO(file.read_text(encoding="utf-8")), dtype={"value": float})
    if data_sets is None:
        return table
    wanted = {_plain(name) for name in data_sets}
    chosen: pd.DataFrame = table[[_plain(name) in wanted for name in table["data_set"]]]
    return chosen.reset_index(drop=True)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
