"""Help, version and argument errors come without waiting for torch."""

import importlib.metadata
from collections.abc import Callable

import pytest

from twostream.cli.compare import main as compare
from twostream.cli.evaluate import main as evaluate
from twostream.cli.export import main as export
from twostream.cli.predict import main as predict
from twostream.cli.train import main as train

COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "compare": compare, "export": export}
HEAVY = {"torch", "torchvision", "lightning", "cv2", "pandas", "sklearn", "matplotlib", "numba"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--no_such_flag", "x", "y"]], ids=str)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_heavy_is_loaded_before_the_arguments_are_right(
    name: str, arguments: list[str], modules_after: Callable[[str], set[str]]
) -> None:
    loaded = modules_after(f"from twostream.cli.{name} import main; sys.exit(main({arguments}))")
    assert f"twostream.cli.{name}" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version_names_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        COMMANDS[name](["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"twostream-{name} {importlib.metadata.version('twostream')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_argument_and_the_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        COMMANDS[name](["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    assert "--version" in text
    for argument in {
        "train": (
            "--config",
            "--print_config",
            "--data.split.val_fraction",
            "--trainer.devices",
            "--model.hidden",
        ),
        "evaluate": ("checkpoint", "--part", "--data.eval_clips", "--device"),
        "compare": ("runs", "--out", "--outputs", "--fuse", "--validation", "--logits", "--quoted"),
        "export": ("checkpoint", "--out", "--format", "--check", "--clips"),
        "predict": ("checkpoint", "videos", "--top", "--json", "--out", "--root", "--overwrite"),
    }[name]:
        assert argument in text


def test_prediction_needs_no_trainer(modules_after: Callable[[str], set[str]]) -> None:
    loaded = modules_after("from twostream import Predictor, load_checkpoint")
    assert {"torch", "twostream.inference.predictor"} <= loaded
    assert not {name for name in loaded if name.partition(".")[0] in {"lightning", "sklearn", "pandas"}}
    assert not {name for name in loaded if name.startswith(("twostream.training.fit", "twostream.config"))}


def test_evaluation_needs_no_run(modules_after: Callable[[str], set[str]]) -> None:
    loaded = modules_after("from twostream import evaluate, load_checkpoint, write_reports")
    assert "twostream.evaluation.predictions" in loaded
    assert not loaded & {
        "twostream.run",
        "twostream.run_directory",
        "twostream.config",
        "twostream.training.fit",
    }
