"""Write the section that holds the model's fusion against simple fusions of its two streams' probabilities."""

from __future__ import annotations

from twostream.evaluation.late_fusion import BASELINES
from twostream.reports.document import Block, Code, Heading, Paragraph, Strong, Table
from twostream.reports.explanation import SENTENCE_NAMES, plural
from twostream.reports.numbers import gain_interval, interval, percent
from twostream.reports.outputs import NAMES
from twostream.reports.tables import Figures, Gain


def fusion_blocks(figures: Figures) -> list[Block]:
    """Tabulate the fusions, say what each is, how the weighted one was fitted, and which is better."""
    if figures.gain is None or figures.baseline_gain is None:
        return []
    rows = tuple(
        (
            NAMES[output],
            percent(values.top1),
            interval(values),
            percent(values.mean_class_accuracy),
            percent(values.f1_macro),
        )
        for output, values in ((name, figures.overall[name]) for name in ("fused", *figures.baselines))
    )
    lead = (
        "In percent. Fused is the model's own decision. The others are baselines, computed from the two streams' "
        "probabilities alone: product ("
    )
    explained = Paragraph(
        (
            lead,
            Code("p ∝ p_rgb · p_flow"),
            "), mean (",
            Code("(p_rgb + p_flow) / 2"),
            ") and weighted (",
            Code("p ∝ p_rgb^a · p_flow^b"),
            ", each stream calibrated by a temperature first, fitted on validation videos only).",
        )
    )
    return [
        Heading(2, "Fusions"),
        Table(
            ("Output", "Top-1", "95 % interval", "Mean class accuracy", "F1 (macro)"),
            rows,
            frozenset({"Output"}),
        ),
        explained,
        Paragraph((_weighted(figures),)),
        Paragraph((Strong("The learned fusion."), _verdict(figures, figures.gain, figures.baseline_gain))),
    ]


def _weighted(figures: Figures) -> str:
    fitted = figures.evaluation.weighted_fusion
    protocol = figures.evaluation.protocol
    if fitted is not None:
        return (
            f"weighted: RGB {fitted.rgb_weight:.2f}, flow {fitted.flow_weight:.2f}, temperatures RGB "
            f"{fitted.rgb_temperature:.2f} and flow {fitted.flow_temperature:.2f}, exponents of the calibrated streams "
            f"{fitted.rgb_exponent:.2f} and {fitted.flow_exponent:.2f}, fitted on "
            f"{plural(fitted.num_videos, 'validation video')}. RGB and flow: share of each stream in the spread of the "
            "fused log-probabilities."
        )
    if protocol.side != "test":
        return (
            "There is no weighted fusion: it is fitted on the validation side and measured on the test side only, and "
            f"this is the {protocol.side} side."
        )
    if protocol.num_validation == 0:
        return "There is no weighted fusion: the split has no validation videos to fit it on."
    return (
        "There is no weighted fusion: this evaluation holds no predictions of validation videos to fit it on; evaluate "
        "the checkpoint again to have it."
    )


def _verdict(figures: Figures, over_stream: Gain, over_baseline: Gain) -> str:
    """Say what the learned fusion gains or loses against the better stream and the best baseline."""
    roles = {"the better stream": over_stream, "the best baseline": over_baseline}
    lost = [role for role, gain in roles.items() if gain.top1 < 0]
    below = f"below {' and '.join(lost)}" if lost else f"below neither {' nor '.join(roles)}"
    text = (
        f" On these videos it is {below}: its top-1 of {percent(figures.overall['fused'].top1)} % is "
        f"{' and '.join(_difference(figures, gain) for gain in roles.values())}. "
        "Stream and baseline were picked with these videos in view, which favours them."
    )
    if len(figures.baselines) < len(BASELINES):
        text += " The weighted baseline is missing from the comparison."
    return text


def _difference(figures: Figures, gain: Gain) -> str:
    side = "above" if gain.top1 > 0 else "below"
    direction = f"{100 * abs(gain.top1):.1f} points {side}" if gain.top1 else "the same as"
    name = SENTENCE_NAMES.get(gain.over, gain.over)
    return (
        f"{direction} {name} with {percent(figures.overall[gain.over].top1)} %{gain_interval(gain.interval)}"
    )
