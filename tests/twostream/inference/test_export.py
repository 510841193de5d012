"""Exports: they agree with the model, are read back exactly, and are refused once they were changed."""

import importlib.util
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from twostream.checkpoints import Checkpoint, ModelCard, load_checkpoint, seal_of
from twostream.cli.evaluate import main as evaluate_main
from twostream.cli.export import main
from twostream.errors import CheckpointError
from twostream.inference.check_clips import generated_clips
from twostream.inference.onnx_export import ExportError, export_onnx
from twostream.inference.predictor import Predictor
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream

onnx_here = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="onnx and onnxruntime are not installed (extra export)",
)


@pytest.fixture(scope="module")
def weights(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    assert main([str(tiny_run), "--out", str(folder), "--format", "safetensors"]) == 0
    return folder


@pytest.fixture
def copied(weights: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    return tmp_path


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return (
        seal_of(a.card.to_plain()) == seal_of(b.card.to_plain())
        and a.epoch == b.epoch
        and a.state.keys() == b.state.keys()
        and all(torch.equal(a.state[key], b.state[key]) for key in a.state)
    )


def test_weights_are_read_back_exactly_and_become_a_checkpoint(
    tiny_run: Path, weights: Path, tmp_path: Path
) -> None:
    original, read = load_checkpoint(tiny_run), load_checkpoint(weights)
    assert original.card.split is not None
    assert read.card.split == original.card.split
    assert same(read, original)
    assert main([str(weights), "--out", str(tmp_path), "--format", "checkpoint"]) == 0
    assert same(load_checkpoint(tmp_path / "model.ckpt"), original)


def test_weights_predict_and_evaluate_as_the_checkpoint(
    tiny_run: Path, weights: Path, tiny_videos: Path
) -> None:
    video = min(tiny_videos.rglob("*.avi"))
    found, expected = (Predictor(load_checkpoint(path), "cpu")(video) for path in (weights, tiny_run))
    np.testing.assert_array_equal(found.decision, expected.decision)
    assert evaluate_main([str(weights), "--device", "cpu"]) == 0
    predictions = (weights / "evaluation" / "predictions.csv").read_bytes()
    assert predictions == (tiny_run / "evaluation" / "predictions.csv").read_bytes()


def test_the_model_card_says_what_it_is(weights: Path) -> None:
    text = (weights / "MODEL_CARD.md").read_text()
    for part in (
        "Protocol: data set tiny",
        "Top-1",
        "for training",
        "random weights",
        "--data.name=tiny",
        "## Limits",
    ):
        assert part in text


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "zipped.ckpt"])
def test_code_in_a_file_is_not_run(name: str, copied: Path) -> None:
    mark = copied / "executed"
    content = {"twostream": Payload(mark), "state_dict": {}, "epoch": 0}
    if name == "zipped.ckpt":
        torch.save(content, copied / name)
    else:
        (copied / name).write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="not a readable"):
        load_checkpoint(copied / name)
    assert main([str(copied / name), "--out", str(copied / "out"), "--format", "safetensors"]) == 2
    assert not mark.exists()


def change(plain: dict, how: str) -> None:
    card = plain["twostream"]
    if how == "classes":
        card["classes"][:2] = card["classes"][1::-1]
    elif how == "flow":
        card["flow"]["bound"] = 4.0
    elif how == "split":
        card["split"]["side"][0] = "test"
    elif how == "architecture":
        card["model"]["hidden"] = 9
    elif how == "resealed":
        card["flow"]["bound"] = 4.0
        card["sha256"] = seal_of(card)
    elif how == "missing":
        del card["classes"]
    elif how == "list":
        plain["twostream"] = []


@pytest.mark.parametrize(
    "how", ["classes", "flow", "split", "architecture", "resealed", "missing", "list", "no JSON"]
)
def test_changed_settings_are_refused(how: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copied / "config.json"
    plain = json.loads(config.read_text())
    change(plain, how)
    config.write_text("[" if how == "no JSON" else json.dumps(plain))
    with pytest.raises(CheckpointError):
        load_checkpoint(copied)
    assert main([str(copied), "--out", str(copied / "out"), "--format", "safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("how", ["classes", "flow", "split"])
def test_changed_checkpoints_are_refused(how: str, tiny_run: Path, tmp_path: Path) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    change(content, how)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("how", ["shape", "missing", "extra", "number", "no mapping"])
def test_changed_weights_are_refused(how: str, tiny_run: Path, tmp_path: Path) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    state = content["state_dict"]
    key = next(name for name in state if name.endswith("classifier.weight"))
    if how == "shape":
        state[key] = state[key][:-1]
    elif how == "missing":
        del state[key]
    elif how == "extra":
        state["model.more"] = torch.zeros(1)
    elif how == "number":
        state[key] = 3
    else:
        content["state_dict"] = [1]
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.ckpt").model()


def test_exchanged_weights_are_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is not the file that config\.json was written with"):
        load_checkpoint(copied)


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    arguments = ["--out", str(folder), "--format", "onnx", "--check", str(tiny_videos), "--clips", "3"]
    assert main([str(tiny_run), *arguments]) == 0
    return folder


@onnx_here
def test_the_example_decides_as_the_predictor(
    exported: Path, tiny_run: Path, tiny_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs from the folder, with what stands beside it, and imports nothing of twostream."""
    specification = importlib.util.spec_from_file_location("example", exported / "predict_onnx.py")
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    assert "twostream" not in {name.partition(".")[0] for name in vars(example)}
    predictor = Predictor(load_checkpoint(tiny_run), "cpu")
    for video in sorted(tiny_videos.rglob("*.avi"))[::9]:
        outputs, classes = example.predict(str(exported / "model.onnx"), str(video))
        expected = predictor(video)
        assert tuple(classes) == predictor.card.classes
        assert outputs["fused_probabilities"].argmax() == expected.decision.argmax()
        # Resizing by matrices rounds some pixels to the other side than OpenCV.
        np.testing.assert_allclose(outputs["fused_probabilities"][0], expected.decision, atol=5e-3)


@onnx_here
def test_every_part_of_a_network_is_exported(tmp_path: Path) -> None:
    """Attention over space, layered LSTMs in both directions, the joint module, attention between streams."""
    config = ModelConfig(
        backbone="mobilenet_v3_small",
        weights="none",
        hidden=4,
        spatial="attention",
        layers=2,
        bidirectional=True,
        joint="cross_attention",
        temporal="multihead",
        fusion="cross_attention",
        fusion_hidden=8,
        subtract_median_flow=True,
        rgb={"backbone": "mc3_18", "spatial": "motion"},
        rgb_window=2,
    )
    flow = {"method": "farneback", "parameters": {}, "bound": 20.0, "step": 1, "codec": {}}
    card = ModelCard(("a", "b"), config, {"steps": 3, "stack": 2, "size": 40}, flow, 20.0, 2, seed=0)
    torch.manual_seed(0)
    model = card.build_model()
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn_like(parameter)
    checkpoint = Checkpoint(Path("a.ckpt"), card, 1, model.state_dict())
    files, agreement = export_onnx(checkpoint, tmp_path, generated_clips(checkpoint, 4))
    assert {path.name for path in files} == {
        *("model.onnx", "rgb.onnx", "flow.onnx", "fusion.onnx", "predict_onnx.py"),
    }
    assert agreement.clips == 4
    assert agreement.difference < 1e-4


@onnx_here
def test_an_export_that_disagrees_does_not_appear(tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_run)

    def clips() -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        _, batch = next(iter(generated_clips(checkpoint, 1)))
        model.streams["rgb"].classifier.bias.data += torch.arange(9.0)
        yield "a clip", batch

    model = checkpoint.model()

    def compared(_: Checkpoint) -> TwoStream:
        return model

    with pytest.raises(ExportError, match="nothing was written"):
        export_onnx(checkpoint, tmp_path, clips(), build=compared)
    assert list(tmp_path.iterdir()) == []


@onnx_here
def test_length_and_number_of_clips_are_free(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    for videos, clips, steps in ((1, 1, 1), (2, 3, 5)):
        inputs = {}
        for node in session.get_inputs():
            shape = [videos, clips, steps, *node.shape[3:]]
            dtype = {"tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}.get(node.type, np.float32)
            inputs[node.name] = np.ones(shape, dtype)
        assert {len(values) for values in session.run(None, inputs)} == {videos}


@onnx_here
def test_a_changed_onnx_file_is_refused_by_the_example(exported: Path, tmp_path: Path) -> None:
    import onnx

    from twostream.inference.predict_onnx import predict

    model = onnx.load(exported / "model.onnx")
    (about,) = (entry for entry in model.metadata_props if entry.key == "twostream")
    about.value = about.value.replace('"bound": 20.0', '"bound": 10.0')
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SystemExit, match="were changed"):
        predict(str(tmp_path / "model.onnx"), "a.avi")
    (tmp_path / "pickled.onnx").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(Exception, match=r"pickled\.onnx"):
        predict(str(tmp_path / "pickled.onnx"), "a.avi")
    assert not (tmp_path / "executed").exists()


def test_without_the_extra_a_line_says_so(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main([str(tiny_run), "--out", str(tmp_path), "--format", "onnx"]) == 2
    assert "pip install 'twostream[export]'" in capsys.readouterr().err
