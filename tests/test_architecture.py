"""Who may import whom. `LAYERS` is the one place that says it; every import of both packages is held to it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From top to bottom: a room imports itself and what is below it, nothing above.
LAYERS = {
    "flow_cache": (
        "cli",
        "commands",
        "pipeline",
        "cache",
        "video",
        "methods",
        "storage",
        "quantization",
        "progress",
        "runtime",
        "errors",
    ),
    "twostream": (
        "cli",
        "run",
        "run_directory",
        "config",
        "app",
        "reports",
        "evaluation",
        "inference",
        "training",
        "checkpoints",
        "data",
        "models",
        "demo",
        "settings",
        "files",
        "errors",
    ),
}
# What a room may not import although it lies below.
FORBIDDEN = {"twostream.models": ("twostream.data", "flow_cache")}
# Code that stands directly in a package, `__init__.py` included; folders without code and the stub do not count.
MOST_ROOMS = {"flow_cache": 12, "twostream": 17}


@cache
def modules() -> dict[str, Path]:
    """Return the files of both packages by module name; a package goes by its own name."""
    found = {}
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules of both packages that a module imports: anywhere in it, in functions and for types too."""
    known = modules()
    found: set[str] = set()
    for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            # `from package import module` imports the module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return frozenset(imported for imported in found if imported.partition(".")[0] in LAYERS)


def room(name: str) -> str:
    """Return the part of a package that a module belongs to; nothing for the package itself."""
    return [*name.split("."), ""][1]


def circles() -> Iterator[tuple[str, ...]]:
    """Find import circles by depth-first search."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in path:
            yield (*path[path.index(name) :], name)
        elif name not in done:
            for imported in sorted(imports(name) & modules().keys()):
                yield from visit(imported, (*path, name))
            done.add(name)

    for name in modules():
        yield from visit(name, ())


@pytest.mark.parametrize("name", modules())
def test_imports_point_downward(name: str) -> None:
    package, own = name.partition(".")[0], room(name)
    order = LAYERS[package]
    for imported in imports(name):
        if imported.partition(".")[0] != package:
            # twostream knows flow_cache by its public names only; flow_cache knows nothing of twostream.
            assert (package, imported) == ("twostream", "flow_cache")
        elif own != room(imported):
            assert own in order, f"{own} has no place in LAYERS"
            assert order.index(room(imported)) > order.index(own), f"{name} imports {imported}"
        for place, forbidden in FORBIDDEN.items():
            if (name + ".").startswith(place + "."):
                assert not (imported + ".").startswith(tuple(f"{other}." for other in forbidden))


def test_there_is_no_import_circle() -> None:
    assert [" -> ".join(circle) for circle in circles()] == []


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_its_place_and_there_are_few(package: str) -> None:
    names = {room(name) for name in modules() if name.startswith(f"{package}.")}
    assert names == set(LAYERS[package])
    assert len(names) + 1 <= MOST_ROOMS[package]


def test_flow_cache_runs_without_torch() -> None:
    code = (
        "import sys, flow_cache.cli.main, flow_cache.pipeline.run, flow_cache.methods.registry;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_flow_on_cuda_needs_neither_numba_nor_opencv() -> None:
    """A machine with a GPU often has a build of OpenCV without contrib, or none."""
    code = (
        "import sys, flow_cache.methods.cuda.tvl1, flow_cache.methods.cuda.farneback;"
        "import flow_cache.methods.cuda.cupy_backend, flow_cache.methods.registry;"
        "sys.exit(len({'numba', 'cv2', 'cupy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
