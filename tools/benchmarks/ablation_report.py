"""The tables of `tools/ablate.py`: means over runs, and differences to the base on the same splits and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.ablations import NAMES, NOTE, RULES, VARIANTS, Variant
from benchmarks.report import bullet_list, markdown_table, provenance, write_csv, write_markdown
from twostream.config import TrainConfig

Row = dict[str, Any]
HEAD = ("variant", "changes", "top-1 (%)", "mean class accuracy (%)", "F1 (%)", "runs", "difference (points)")
EXPLAINED = """Figures are means over the runs. The difference is that of top-1 to the base, the first line of a table,
over the splits and seeds that both have. `base` marks a variant that changes nothing, because the base is so."""


def write_report(
    out: Path,
    base: TrainConfig,
    rows: Sequence[Row],
    unchanged: Sequence[Variant],
    reasons: Mapping[str, str],
) -> None:
    """Write ablation.csv and ablation.md.

    Args:
        out: folder to write to.
        base: the base.
        rows: a row for each finished run, as they stand in the CSV.
        unchanged: variants that are the base itself.
        reasons: why variants could not be run, by name.
    """
    write_csv(out / "ablation.csv", rows)
    lines = [protocol(base, rows), ""]
    for title, outputs in (
        ("RGB stream", ("rgb",)),
        ("Flow stream", ("flow",)),
        ("Fusion", ("fused", *RULES)),
    ):
        table = list(table_rows([v for v in VARIANTS if v.output in outputs], rows, unchanged))
        if table:
            lines += [f"## {title}", "", *markdown_table(HEAD, table)]
    lines += [EXPLAINED, "", NOTE, ""]
    present = {row["variant"] for row in rows} | {variant.name for variant in unchanged}
    absent = {name: "not run yet" for name in NAMES if name not in present} | dict(reasons)
    if absent:
        lines += ["Without figures, or with some runs missing:", ""]
        lines += [*bullet_list(absent), ""]
    write_markdown(out / "ablation.md", "Ablations", lines, bullet_list(provenance("torch")), [""])


def protocol(base: TrainConfig, rows: Sequence[Row]) -> str:
    """Say what was measured on what, and what rests on one run."""
    single = [name for name in NAMES if len({row["seed"] for row in rows if row["variant"] == name}) == 1]
    videos = sorted({int(row["num_videos"]) for row in rows})
    data = base.data
    name = data.name or Path(str(data.root or data.cache)).name
    return (
        f"{name}, split {_numbers(rows, 'split')} ({data.split.kind}), seed {_numbers(rows, 'seed')},"
        f" {' or '.join(map(str, videos))} test videos, by which nothing is decided:"
        " what a run chooses it chooses on videos of the training side, and no variant is picked here;"
        " one seed only:"
        f" {', '.join(single) or 'none'}."
    )


def table_rows(
    variants: Sequence[Variant], rows: Sequence[Row], unchanged: Sequence[Variant]
) -> Iterator[list[str]]:
    """Average the runs of each variant, and compare them with those of the base on the same splits and seeds."""
    for variant in variants:
        base = {(row["split"], row["seed"]): row for row in rows if row["variant"] == variant.base}
        is_same = variant in unchanged or variant.name == variant.base
        name = variant.base if variant in unchanged else variant.name
        own = [row for row in rows if row["variant"] == name]
        if not own:
            continue
        pairs = [
            float(row["top1"]) - float(base[key]["top1"])
            for row in own
            if (key := (row["split"], row["seed"])) in base
        ]
        averages = (
            fmean(float(row[key]) for row in own) for key in ("top1", "mean_class_accuracy", "f1_macro")
        )
        difference = "base" if is_same else f"{100 * fmean(pairs):+.1f}" if pairs else "no run of the base"
        if pairs and len(pairs) < len(own):
            difference += f" (of {len(pairs)} runs)"
        changes = variant.text if is_same else own[0]["changes"]
        runs = f"{len(own)} (split {_numbers(own, 'split')}; seed {_numbers(own, 'seed')})"
        yield [variant.name, changes, *(f"{100 * value:.1f}" for value in averages), runs, difference]


def _numbers(rows: Sequence[Row], key: str) -> str:
    return ", ".join(map(str, sorted({row[key] for row in rows})))
