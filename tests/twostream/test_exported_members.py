"""The front door: what `from twostream import …` gives, that it is documented, and that it costs nothing to open."""

import ast
import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

import twostream

ModulesAfter = Callable[[str], set[str]]

ROOT = Path(twostream.__file__).parent


def stub() -> ast.Module:
    return ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))


def test_the_list_of_names_is_the_stub() -> None:
    imported = [
        alias.name for node in stub().body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    (listed,) = [ast.literal_eval(node.value) for node in stub().body if isinstance(node, ast.Assign)]
    assert sorted(imported) == listed
    assert sorted(twostream.__all__) == listed
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", sorted(twostream.__all__))
def test_every_name_resolves_and_is_documented(name: str) -> None:
    member = getattr(twostream, name)
    assert member.__module__.startswith("twostream.")
    assert member.__name__ == name
    documentation = inspect.getdoc(member) or ""
    assert documentation.partition("\n")[0].endswith("."), "a summary of one line"
    assert ">>> " in documentation


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        twostream.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def user_folder(
    tiny_run: Path, tiny_videos: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as a user has it who trained on `videos`: where the examples run."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("runs", "cache"):
        (folder / name).mkdir()
    (folder / "videos").symlink_to(tiny_videos)
    (folder / "cache" / "videos").symlink_to(tiny_cache)
    (folder / "runs" / "videos").symlink_to(tiny_run)
    return folder


def examples(name: str) -> Iterator[doctest.DocTest]:
    """Find the examples in the documentation of a name and of its public methods."""
    found = doctest.DocTestFinder(recurse=True).find(getattr(twostream, name), name, globs={})
    return (test for test in found if test.examples)


@pytest.mark.parametrize("name", sorted(twostream.__all__))
def test_examples_run(name: str, user_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = list(examples(name))
    assert tests
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with chdir(user_folder):
        for test in tests:
            runner.run(test)
    assert runner.failures == 0, capsys.readouterr().out


def test_the_readmes_python_runs(user_folder: Path) -> None:
    """As it stands there, a block after the other, in a folder as a user has it."""
    video = min((user_folder / "videos").rglob("*.avi"))
    (user_folder / "some_video.mp4").symlink_to(video)
    page = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    found: dict[str, Any] = {}
    with chdir(user_folder):
        for block in blocks:
            assert len([line for line in block.splitlines() if line]) <= 3
            exec(block, found)
    assert found["flow"].shape[1:] == (2, 48, 64)
    assert set(found["classes"]) == set(found["evaluation"].classes)
    assert 0 <= found["top1"] <= 1


def test_importing_loads_nothing_heavy(modules_after: ModulesAfter) -> None:
    loaded = modules_after("import flow_cache, twostream")
    assert {"flow_cache", "twostream"} <= loaded
    assert not loaded & {
        "torch",
        "numpy",
        "lightning",
        "cv2",
        "pandas",
        "sklearn",
        "matplotlib",
        "jsonargparse",
    }


def test_settings_are_had_without_torch(modules_after: ModulesAfter) -> None:
    loaded = modules_after("from twostream import DataConfig, ModelConfig, TrainConfig; TrainConfig()")
    assert "twostream.config" in loaded
    assert not loaded & {"torch", "lightning", "cv2", "pandas", "sklearn", "torchvision"}
