"""Draw what a two-stream run did with a few of its test videos: frame, flow, what each stream and the fusion said.

    python3 tools/draw_overview.py RUN OUTPUT.png

RUN is a finished run directory of `twostream-train`; the flow cache it names must still be there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flow_cache import CacheReader, cache_path, flow_colours, run_program
from flow_cache.quantization import dequantize
from twostream.reports.outputs import COLOURS

VIDEOS = 4


def choose(predictions: pd.DataFrame) -> pd.DataFrame:
    """Take one video from each of a few classes, first those where fusion is right and both streams are wrong."""
    wrong = (predictions["rgb_prediction"] != predictions["label"]).astype(int) + (
        predictions["flow_prediction"] != predictions["label"]
    ).astype(int)
    ranked = predictions.assign(score=wrong + predictions["correct"]).sort_values(
        ["score", "confidence"], ascending=False, kind="stable"
    )
    distinct = ranked.drop_duplicates("label")
    return distinct.iloc[np.unique(np.linspace(0, len(distinct) - 1, VIDEOS).round().astype(int))]


def draw(run: Path) -> Figure:
    """Draw the overview of a run."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    predictions = pd.read_csv(run / "evaluation" / "predictions.csv")
    summary = pd.read_csv(run / "evaluation" / "summary.csv").query("subset == 'all'")
    top1 = dict(zip(summary["output"], summary["top1"].astype(float), strict=True))
    chosen = choose(predictions)
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(chosen) + 1, width_ratios=[1] * len(chosen) + [0.9])
    for column, (_, row) in enumerate(chosen.iterrows()):
        with CacheReader(cache_path(config["data"]["cache"], str(row["video"]))) as reader:
            middle = reader.num_fields // 2
            frame = reader.rgb([middle])[0]
            flow = dequantize(reader.flow([middle]), reader.meta.bound)[0]
        top, bottom = (figure.add_subplot(grid[line, column]) for line in range(2))
        top.imshow(frame)
        top.set_title(str(row["label"]).replace("_", " "), fontsize=11, fontweight="bold")
        bottom.imshow(flow_colours(flow, max(float(np.quantile(np.hypot(*flow), 0.99)), 1e-6)))
        for axes in (top, bottom):
            axes.set_xticks([])
            axes.set_yticks([])
        said = {"rgb": row["rgb_prediction"], "flow": row["flow_prediction"], "fused": row["prediction"]}
        for line, (output, name) in enumerate(said.items()):
            mark = "✓" if name == row["label"] else "✗"
            bottom.text(
                0.0,
                -0.08 - 0.14 * line,
                f"{mark} {output}: {str(name).replace('_', ' ')}",
                transform=bottom.transAxes,
                va="top",
                fontsize=9,
                color=COLOURS[output],
            )
    axes = figure.add_subplot(grid[:, -1])
    outputs = list(COLOURS)
    values = [100 * top1[output] for output in outputs]
    bars = axes.bar(outputs, values, color=list(COLOURS.values()))
    axes.bar_label(bars, fmt="%.1f %%", fontsize=10)
    axes.set_ylim(0, 108)
    axes.set_title(f"top-1, {len(predictions)} test videos", fontsize=11)
    axes.set_yticks([])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("picture", type=Path, help="the file to write; its suffix chooses the format")
    given = parser.parse_args()
    draw(given.run).savefig(given.picture, dpi=110, bbox_inches="tight", pad_inches=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(run_program("draw_overview", main))
