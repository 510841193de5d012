"""The pages a newcomer reads: what they show must exist."""

import ast
import re
from pathlib import Path

import pytest

import flow_cache
import twostream

ROOT = Path(__file__).parents[1]
PAGES = [
    path for path in ROOT.rglob("*.md") if not {".git", ".venv", "runs", "twostream-demo"} & {*path.parts}
]
MOST_LINES = 130
PUBLIC = {"flow_cache": flow_cache.__all__, "twostream": twostream.__all__}


def test_the_readme_can_be_finished() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_takes_only_public_names(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in PUBLIC:
                assert {alias.name for alias in node.names} <= {*PUBLIC[str(node.module)]}
