"""`twostream-export`: a trained model as files that can be carried away."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jsonargparse

from flow_cache import print_line
from twostream.cli.errors import run_command
from twostream.cli.parser import command_parser
from twostream.errors import ConfigError

PROGRAM = "twostream-export"
DESCRIPTION = """Write a trained model as ONNX, as safetensors with a JSON file of all its settings, or as a checkpoint
again, with a model card beside it.

ONNX files appear once onnxruntime and PyTorch agree on clips to 1e-4. Nothing that is read or written holds code."""


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the parser."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    parser.add_argument(
        "checkpoint", type=str, help="A .ckpt file, the folder of a run, or exported weights (.safetensors)."
    )
    parser.add_argument(
        "--out", type=str, required=True, help="Folder of the files; made where it is missing."
    )
    parser.add_argument(
        "--format",
        type=Literal["onnx", "safetensors", "checkpoint", "all"],
        default="all",
        help="onnx: model.onnx (whole videos), a file a stream, fusion.onnx and an example; safetensors:"
        " model.safetensors and config.json; checkpoint: model.ckpt; all: the first two.",
    )
    parser.add_argument(
        "--check",
        type=str,
        default=None,
        help="What ONNX is compared on: videos or a folder of them, or a flow cache made with the model's settings;"
        " default: generated clips.",
    )
    parser.add_argument("--clips", type=int, default=8, help="How many videos, or clips, are compared.")
    return parser


def run(argv: Sequence[str]) -> int:
    """Export as the arguments say; returns the exit status."""
    arguments = make_parser().parse_args(list(argv))
    if arguments.clips < 1:
        raise ConfigError(f"--clips must be at least 1, got {arguments.clips}")
    # The exporter's own warnings say nothing that the comparison does not find.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # torch, which takes seconds, once the arguments are right
    from twostream.checkpoints import load_checkpoint, save_checkpoint, save_weights
    from twostream.evaluation.files import EVALUATION_FILE, read_evaluation
    from twostream.inference.check_clips import generated_clips, real_clips
    from twostream.inference.onnx_export import export_onnx, require_libraries
    from twostream.reports.model_card import write_model_card

    if arguments.format in ("onnx", "all"):
        require_libraries()
    checkpoint = load_checkpoint(arguments.checkpoint)
    checkpoint.model()  # refuses weights that do not fit
    folder = Path(arguments.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made: {error}") from error
    files: list[Path] = []
    notes: list[str] = []
    if arguments.format in ("safetensors", "all"):
        files += save_weights(folder, checkpoint)
    if arguments.format == "checkpoint":
        save_checkpoint(folder / "model.ckpt", checkpoint)
        files.append(folder / "model.ckpt")
    if arguments.format in ("onnx", "all"):
        clips = (
            generated_clips(checkpoint, arguments.clips)
            if arguments.check is None
            else real_clips(checkpoint, arguments.check, arguments.clips)
        )
        written, agreement = export_onnx(checkpoint, folder, clips)
        files += written
        of = "generated clips" if arguments.check is None else "videos"
        notes.append(
            f"ONNX and PyTorch agree to {agreement.difference:.1e} (probabilities) on {agreement.clips} {of}."
        )
        if agreement.bfloat16 is not None:
            notes.append(
                f"PyTorch computes frozen CNNs of this model in bfloat16, ONNX in float32: probabilities then differ by"
                f" up to {agreement.bfloat16:.1e}, the decision in {agreement.decisions} of {agreement.clips}."
            )
    directory = checkpoint.home
    evaluation = (
        read_evaluation(directory / "evaluation")
        if (directory / "evaluation" / EVALUATION_FILE).exists()
        else None
    )
    record = directory / "run.json"
    commands = json.loads(record.read_text(encoding="utf-8")).get("commands", []) if record.exists() else []
    files.append(write_model_card(folder, checkpoint, evaluation, files, commands, notes))
    for line in (*notes, *(str(path) for path in files)):
        print_line(line)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
