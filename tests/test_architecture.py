"""Who may import whom: one direction, as CONTRIBUTING.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each part of twostream and the parts it may use; `flow_cache` stands for the other package.
ALLOWED = {
    "errors": set(),
    "results": {"errors"},
    "models": {"errors"},
    "data": {"errors", "flow_cache"},
    "demo": {"errors"},
}
NEVER_FROM_LIBRARY = {"cli"}


def imported(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, at any level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return names


def part(name: str) -> str:
    """Reduce a module name to the part of the project it belongs to."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "twostream" else package


@pytest.mark.parametrize("path", sorted((ROOT / "flow_cache").rglob("*.py")), ids=lambda p: p.name)
def test_flow_cache_knows_nothing_of_twostream(path: Path) -> None:
    assert not [name for name in imported(path) if name.split(".")[0] in {"twostream", "lightning"}]


@pytest.mark.parametrize("path", sorted((ROOT / "twostream").rglob("*.py")), ids=lambda p: p.name)
def test_imports_point_downward(path: Path) -> None:
    own = path.relative_to(ROOT / "twostream").parts[0].removesuffix(".py")
    used = {part(name) for name in imported(path) if name.split(".")[0] in {"twostream", "flow_cache"}} - {
        own,
        "",
    }
    if own in ALLOWED:
        assert used <= ALLOWED[own]
    if own != "cli":
        assert not used & NEVER_FROM_LIBRARY


def test_flow_cache_runs_without_torch() -> None:
    code = (
        "import sys, flow_cache.cli.main, flow_cache.pipeline.run, flow_cache.methods, flow_cache.cache.reader;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
