"""Write a trained model as ONNX files, which are checked against it before they appear."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from twostream.checkpoints import CARD_KEY, SEAL, Checkpoint, sealed
from twostream.errors import ConfigError, TwoStreamError, one_line
from twostream.files import write_bytes
from twostream.inference.check_clips import Batch, describe_clips, generated_clips
from twostream.inference.clips import predict_clips
from twostream.inference.onnx_models import (
    STREAM_OUTPUTS,
    FusionModel,
    StreamModel,
    VideoModel,
    in_float32,
)
from twostream.models.two_stream import TwoStream

TOLERANCE = 1e-4
EXAMPLE = "predict_onnx.py"
_OPSET = 17
_FORMAT = 1


class ExportError(TwoStreamError):
    """A model that cannot be exported, or whose export does not agree with it."""


@dataclass(frozen=True)
class Agreement:
    """How an export compares with its original.

    Attributes:
        clips: videos, or generated clips, that were compared.
        difference: largest difference of a probability or stream weight, of all files.
        bfloat16: the same against the model as it is, where it computes frozen CNNs in bfloat16; None where not.
        decisions: of how many the decision then differs.
    """

    clips: int
    difference: float
    bfloat16: float | None = None
    decisions: int = 0


def require_libraries() -> None:
    """Raise ConfigError unless the extra `export` is installed."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}: python3 -m pip install 'twostream[export]', or take --format"
            " safetensors"
        )


def export_onnx(
    checkpoint: Checkpoint,
    folder: Path,
    clips: Iterable[tuple[str, Batch]],
    build: Callable[[Checkpoint], TwoStream] = Checkpoint.model,
) -> tuple[list[Path], Agreement]:
    """Write `model.onnx`, a file a stream, `fusion.onnx` where there is one, and an example that runs the first.

    Args:
        checkpoint: the trained model.
        folder: where the files appear, once all of them agree with the model.
        clips: what they are compared on.
        build: builds the network that they are compared with.

    Raises:
        ConfigError: onnx or onnxruntime is missing.
        ExportError: the model cannot be exported, or a file does not agree with it.
    """
    require_libraries()
    original = in_float32(checkpoint)
    model = original.model()
    about = {
        "format": _FORMAT,
        "classes": list(checkpoint.card.classes),
        "card": checkpoint.card.to_plain()[SEAL],
        "epoch": checkpoint.epoch,
        **describe_clips(checkpoint),
    }
    _, example = next(iter(generated_clips(original, 1)))
    example = {key: values.repeat(2, 2, *[1] * (values.ndim - 2)) for key, values in example.items()}
    video = VideoModel(model)
    modules: dict[str, StreamModel | FusionModel | VideoModel] = {"model": video}
    modules |= {name: StreamModel(model, name) for name in model.names}
    if video.fusion is not None:
        modules["fusion"] = video.fusion
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as temporary:
        paths = {name: Path(temporary) / f"{name}.onnx" for name in modules}
        values: dict[str, torch.Tensor] = {}
        for name, module in modules.items():
            outputs = _outputs(module)
            axes: tuple[str, ...]
            if isinstance(module, VideoModel):
                given, axes = example, ("videos", "clips", "steps")
            elif isinstance(module, StreamModel):
                given, axes = {key: value.flatten(0, 1) for key, value in example.items()}, ("clips", "steps")
                with torch.no_grad():
                    made = module(*(given[key] for key in module.inputs))
                values |= {f"{name}_{part}": value for part, value in zip(STREAM_OUTPUTS, made, strict=True)}
                values[f"{name}_valid"] = given[f"{name}_valid"]
            else:
                given, axes = values, ("clips", "steps")
            _write(module, given, axes, outputs, {**about, "outputs": list(outputs)}, paths[name])
        agreement = _compare(checkpoint, video, paths, clips, build)
        written = []
        for path in paths.values():
            target = folder / path.name
            path.replace(target)
            written.append(target)
    source = Path(__file__).with_name(EXAMPLE)
    write_bytes(folder / EXAMPLE, source.read_bytes())
    return [*written, folder / EXAMPLE], agreement


def _outputs(module: StreamModel | FusionModel | VideoModel) -> tuple[str, ...]:
    if isinstance(module, VideoModel):
        return module.outputs
    return STREAM_OUTPUTS if isinstance(module, StreamModel) else ("fused_probabilities", "weights")


def _write(
    module: StreamModel | FusionModel | VideoModel,
    given: Mapping[str, torch.Tensor],
    axes: tuple[str, ...],
    outputs: tuple[str, ...],
    about: Mapping[str, Any],
    path: Path,
) -> None:
    """Trace a module, and write it with what there is to know about it."""
    import onnx

    dynamic: dict[str, dict[int, str]] = {}
    for key in module.inputs:
        many = axes if not key.endswith(("logits", "embedding", "probabilities")) else axes[:-1]
        stream = "flow" if key.startswith("flow") else "rgb"
        dynamic[key] = {
            place: axis if axis == "videos" or (axis == "clips" and len(axes) == 2) else f"{stream}_{axis}"
            for place, axis in enumerate(many)
        }
    for key in outputs:
        dynamic[key] = {0: axes[0], **({1: "steps"} if key in ("attention", "states") else {})}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer warns of sizes that become constants: those of images, which are. The older exporter is taken
            # because the newer one unrolls LSTMs, for one length; that it is deprecated is known.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(given[key] for key in module.inputs),
                str(path),
                input_names=list(module.inputs),
                output_names=list(outputs),
                dynamic_axes=dynamic,
                opset_version=_OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ExportError(f"{path.name} cannot be exported: {one_line(error)[:300]}") from error
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {CARD_KEY: json.dumps(sealed(about))})
    onnx.checker.check_model(written)
    onnx.save(written, path)


def _compare(
    checkpoint: Checkpoint,
    video: VideoModel,
    paths: Mapping[str, Path],
    clips: Iterable[tuple[str, Batch]],
    build: Callable[[Checkpoint], TwoStream],
) -> Agreement:
    """Compare the files with the model; raises ExportError where they differ by more than the tolerance."""
    original = in_float32(checkpoint)
    model = build(original)
    as_is = checkpoint.model() if original.card != checkpoint.card else None
    sessions = {name: _session(path) for name, path in paths.items()}
    count, worst, low, changed = 0, 0.0, 0.0, 0
    for name, batch in clips:
        expected = predict_clips(model, batch)
        arrays = {key: values.numpy() for key, values in batch.items()}
        whole = _answers(_run(sessions["model"], arrays))
        for what, found in (
            ("model.onnx", whole),
            ("the files of its parts", _run_parts(video, sessions, arrays)),
        ):
            difference = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
            worst = max(worst, difference)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{what} and PyTorch differ by {difference:.2g} on {name}, expected at most {TOLERANCE:g}; nothing"
                    " was written"
                )
        count += 1
        if as_is is not None:
            told = predict_clips(as_is, batch)
            low = max(low, *(float(np.abs(whole[key] - told[key]).max()) for key in told))
            decision = next(iter(told))
            changed += int(whole[decision].argmax() != told[decision].argmax())
    if not count:
        raise ExportError("there was no clip to compare the export on; give videos, or --clips of at least 1")
    return Agreement(count, worst, None if as_is is None else low, changed)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    names = [node.name for node in session.get_outputs()]
    try:
        values = session.run(names, {node.name: arrays[node.name] for node in session.get_inputs()})
    except Exception as error:  # onnxruntime has no base of its own
        raise ExportError(f"onnxruntime cannot run the export: {one_line(error)[:300]}") from error
    return dict(zip(names, values, strict=True))


def _answers(outputs: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Name outputs as `predict_clips` does: in ONNX no output can have the name of an input."""
    return {name.removesuffix("_probabilities"): values for name, values in outputs.items()}


def _run_parts(
    video: VideoModel, sessions: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a file a stream and the fusion, as a user would who takes one stream alone."""
    values: dict[str, Any] = {}
    answers: dict[str, npt.NDArray[np.float32]] = {}
    for name in video.streams:
        flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in arrays.items()}
        made = _run(sessions[name], flat)
        answers[name] = made["probabilities"].mean(axis=0, keepdims=True)
        values |= {f"{name}_{part}": value for part, value in made.items()}
        values[f"{name}_valid"] = flat[f"{name}_valid"]
    if video.fusion is not None:
        if "probabilities" in video.fusion.parts:
            values |= {f"{name}_probabilities": value for name, value in answers.items()}
        merged = _answers(_run(sessions["fusion"], values))
        answers |= {key: value.mean(axis=0, keepdims=True) for key, value in merged.items()}
    return answers
