"""`twostream-predict`: the class of a video, and how sure the model is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from flow_cache import FlowSettings, VideoError
from twostream.cli.errors import INPUT_FAILED, complain, run_command
from twostream.cli.parser import command_parser
from twostream.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twostream.inference.predictor import Prediction

PROGRAM = "twostream-predict"


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the parser."""
    parser = command_parser(PROGRAM, "Print the most probable classes of videos.")
    parser.add_argument("checkpoint", type=str, help="A .ckpt file written by twostream-train.")
    parser.add_argument("videos", type=str, nargs="+", help="Video files or folders of images.")
    parser.add_argument("--top", type=int, default=3, help="How many classes to print.")
    parser.add_argument(
        "--json", action="store_true", help="Print a JSON object per video, with every stream."
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    # Everything else about the flow is the checkpoint's.
    others = {field.name for field in fields(FlowSettings)} - {"device"}
    parser.add_class_arguments(FlowSettings, "flow", skip=others, instantiate=False)
    return parser


def run(argv: Sequence[str]) -> int:
    """Predict as the arguments say; a video that fails is named, and the others go on."""
    arguments = make_parser().parse_args(list(argv))
    if arguments.top < 1:
        raise ConfigError(f"--top must be at least 1, got {arguments.top}")
    # torch, which takes seconds, once the arguments are right
    from twostream.checkpoints import load_checkpoint
    from twostream.inference.predictor import Predictor

    checkpoint = load_checkpoint(arguments.checkpoint)
    predictor = Predictor(checkpoint, arguments.device, arguments.flow.device)
    status = 0
    for video in arguments.videos:
        try:
            prediction = predictor(Path(video))
        except (VideoError, DataError) as error:
            status = complain(PROGRAM, error, INPUT_FAILED)
            continue
        if arguments.json:
            print(json.dumps(_as_json(prediction, checkpoint.card.classes, arguments.top)), flush=True)
        else:
            best = _best(prediction.decision, checkpoint.card.classes, arguments.top)
            print(f"{video}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in best), flush=True)
    return status


def _best(probabilities: Any, classes: tuple[str, ...], top: int) -> list[tuple[str, float]]:
    order = (-probabilities).argsort(kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in order]


def _as_json(prediction: Prediction, classes: tuple[str, ...], top: int) -> dict[str, Any]:
    name, confidence = _best(prediction.decision, classes, 1)[0]
    result: dict[str, Any] = {"video": str(prediction.video), "class": name, "confidence": confidence}
    for output, values in prediction.probabilities.items():
        result[output] = dict(_best(values, classes, top))
    if prediction.stream_weights is not None:
        result["stream_weights"] = {
            "rgb": float(prediction.stream_weights[0]),
            "flow": float(prediction.stream_weights[1]),
        }
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
