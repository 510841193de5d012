"""The front door: what `import flow_cache` offers, what it costs, and that its documentation is true."""

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import flow_cache

STUB = Path(flow_cache.__file__).with_suffix(".pyi")


def test_import_is_light_and_needs_no_torch() -> None:
    heavy = ["torch", "cv2", "imagecodecs", "rich", "jsonargparse", "numpy"]
    code = f"import sys, flow_cache; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_module_imports_torch_or_ray() -> None:
    code = (
        "import sys, pkgutil, importlib, flow_cache\n"
        "for module in pkgutil.walk_packages(flow_cache.__path__, 'flow_cache.'):\n"
        "    importlib.import_module(module.name)\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_list_of_public_names_is_the_stubs() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    (listed,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(listed) == sorted(flow_cache.__all__)
    assert set(listed) <= set(dir(flow_cache))


@pytest.mark.parametrize("name", flow_cache.__all__)
def test_public_names_exist(name: str) -> None:
    assert callable(getattr(flow_cache, name))


@pytest.mark.parametrize("name", flow_cache.__all__)
def test_public_names_have_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(flow_cache, name), name, globs={})
    assert found.examples, f"{name} has no example in its docstring"
    report: list[str] = []
    doctest.DocTestRunner().run(found, out=report.append)
    assert not report, "".join(report)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        flow_cache.no_such_name  # noqa: B018
