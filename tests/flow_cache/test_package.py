import subprocess
import sys

import pytest

import flow_cache


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


@pytest.mark.parametrize("name", flow_cache.__all__)
def test_public_names_exist(name: str) -> None:
    assert callable(getattr(flow_cache, name))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        flow_cache.no_such_name  # noqa: B018
