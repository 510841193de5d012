"""The page that goes with an exported model: what it was trained on, how good it is, and what it may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twostream.checkpoints import Checkpoint
from twostream.evaluation.results import Evaluation
from twostream.files import write_text
from twostream.models.networks import TIMM, VIDEO_BACKBONES
from twostream.models.weights import is_file_name
from twostream.reports.tables import compute_figures, summary_table

CARD_FILE = "MODEL_CARD.md"
_FIGURES = {
    "top1": "Top-1",
    "top1_low": "from",
    "top1_high": "to",
    "top5": "Top-5",
    "mean_class_accuracy": "Mean class accuracy",
    "f1_macro": "F1 (macro)",
}


def write_model_card(
    folder: Path,
    checkpoint: Checkpoint,
    evaluation: Evaluation | None,
    files: Sequence[Path],
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write `MODEL_CARD.md`.

    Args:
        folder: where to.
        checkpoint: the model.
        evaluation: of the model; None where there is none.
        files: what was written beside it.
        commands: that trained it.
        notes: sentences on the export.
    """
    card = checkpoint.card
    data = card.data
    name = data.get("name") or Path(str(data.get("root") or data.get("cache"))).name
    flow = card.flow
    lines = [
        f"# Two-stream model of {name}",
        "",
        f"Classifies a video into {len(card.classes)} actions by {' and '.join(card.model.streams)}:",
        f"{', '.join(card.classes)}.",
        "",
        "## Files",
        "",
        *(f"- `{path.name}`" for path in files),
        *(["", *notes] if notes else []),
        "",
        "## Data and split",
        "",
        f"- Data set: {name}",
    ]
    if card.split is None:
        split = data.get("split", {})
        lines.append(
            f"- Split: {split.get('kind', 'unknown')} {split.get('number', '')}; the checkpoint, of an earlier version,"
            " does not say which videos it has seen"
        )
    else:
        sides = {side: len(card.split.side(side)) for side in ("train", "validation", "test", "before")}
        lines += [
            f"- Split: {card.split.name}",
            f"- Videos: {sides['train']} for training, {sides['validation']} for validation",
            f"- {sides['test']} for the test, {sides['before']} seen by earlier checkpoints; the checkpoint names them",
            f"- Source groups: {card.split.group_rule}",
            *(f"- {note}" for note in card.split.notes),
        ]
    parameters = ", ".join(f"{key} {value}" for key, value in flow.get("parameters", {}).items())
    lines += [
        f"- Flow: {flow.get('method')} ({parameters}), bound {card.bound:g} px, step {flow.get('step', 1)}",
        f"- Seed {card.seed}, epoch {checkpoint.epoch}",
        "",
        "## Figures",
        "",
    ]
    if evaluation is None:
        lines.append("The run holds no evaluation of the model: `twostream-evaluate` makes one.")
    else:
        table = summary_table(compute_figures(evaluation))
        table = table[table["subset"] == "all"].set_index("output")[list(_FIGURES)].rename(columns=_FIGURES)
        lines += [evaluation.protocol.line(), "", (100 * table).round(1).to_markdown(), ""]
        lines.append("In percent; the interval is that of top-1, resampled over source groups.")
    lines += ["", "## Made by", ""]
    lines += [f"    {command}" for command in commands] or [
        "The command is not recorded beside the checkpoint."
    ]
    lines += ["", "## Weights that it started from", ""]
    for stream in card.model.streams:
        own = card.model.stream(stream)
        lines.append(f"- {stream}: {own.backbone}, {_origin(own.backbone, own.weights)}")
    lines += [
        "",
        "## Limits",
        "",
        f"- It knows {len(card.classes)} classes, and answers with one of them whatever a video shows.",
        "- Figures hold for videos like those of the data set; other cameras, people and places may do worse.",
        "- Probabilities are not certainties: the report's calibration says how far they can be trusted.",
        "- Flow must be made with the settings above; the model is wrong on any other, without a sign of it.",
        "- What the data set and the weights above may be used for binds this model, too.",
        "",
    ]
    path = folder / CARD_FILE
    write_text(path, "\n".join(lines))
    return path


def _origin(backbone: str, weights: str) -> str:
    """Say where a CNN's first weights are from, and under which licence, as far as is known."""
    if weights == "none":
        return "from random weights"
    if is_file_name(weights):
        return f"from the file `{Path(weights).name}`, whose licence is not recorded"
    if backbone.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(backbone.removeprefix(TIMM))
        licence = getattr(config, "license", None) or "not stated"
        return f"from timm's weights `{weights}`, licence {licence}"
    terms = "Kinetics" if backbone in VIDEO_BACKBONES else "ImageNet"
    return (
        f"from torchvision's weights `{weights}`: the library is under BSD-3-Clause and states no other licence for"
        f" weights; they were trained on {terms}, which has terms of its own"
    )
