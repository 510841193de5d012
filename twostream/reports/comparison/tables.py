"""Turn a comparison into tables: fractions at full precision, NaN where nothing was measured."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from twostream.reports.comparison.figures import SCORE_NAMES, Comparison


def measured_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate the contenders: a row each.

    Returns:
        Columns `run`, `output`, `dataset`, `split`, `side`, `num_videos`, `num_groups`, `num_classes` (with videos),
        then `top1`, `mean_class_accuracy` and `f1_macro`, each with `_low` and `_high`, and `path`.
    """
    rows = []
    for each in comparison.contenders:
        row: dict[str, object] = {
            "run": each.run.name,
            "output": each.output,
            "dataset": each.run.dataset,
            "split": each.run.split,
            "side": each.run.side,
            "num_videos": len(each.labels),
            "num_groups": len(set(each.groups)),
            "num_classes": len(np.unique(each.labels)),
        }
        for name in SCORE_NAMES:
            interval = each.intervals[name]
            row[name] = getattr(each.scores, name)
            row[f"{name}_low"], row[f"{name}_high"] = interval.low, interval.high
        rows.append({**row, "path": str(each.run.path)})
    return pd.DataFrame(rows)


def averages_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate the families: `family`, `output`, `num_runs`, `runs`, and each figure's mean and `_deviation`."""
    rows = []
    for each in comparison.averages:
        row: dict[str, object] = {
            "family": each.family,
            "output": each.output,
            "num_runs": len(each.members),
            "runs": "; ".join(run.name for run in each.members),
        }
        for name in SCORE_NAMES:
            row[name], row[f"{name}_deviation"] = each.mean[name], each.deviation[name]
        rows.append(row)
    return pd.DataFrame(rows)


def pairs_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate the pairs on the same videos: a row each.

    Returns:
        Columns `first`, `first_output`, `second`, `second_output`, `num_videos`, `num_groups`, `both`, `only_first`,
        `only_second`, `neither`, `mcnemar_p`, `mcnemar_p_holm`, then, for each figure, `_difference` (first minus
        second), `_low` and `_high`.
    """
    rows = []
    for pair in comparison.pairs:
        first, second = comparison.contenders[pair.first], comparison.contenders[pair.second]
        result = pair.result
        row: dict[str, object] = {
            "first": first.run.name,
            "first_output": first.output,
            "second": second.run.name,
            "second_output": second.output,
            **{
                name: value for name, value in asdict(result).items() if name not in (*SCORE_NAMES, "p_value")
            },
            "mcnemar_p": result.p_value,
            "mcnemar_p_holm": pair.p_holm,
        }
        for name in SCORE_NAMES:
            difference = getattr(result, name)
            row[f"{name}_difference"] = difference.value
            row[f"{name}_low"], row[f"{name}_high"] = difference.interval.low, difference.interval.high
        rows.append(row)
    return pd.DataFrame(rows)


def classes_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate every class of every contender.

    Returns:
        Columns `class`, `run`, `output`, `support`, `precision`, `recall`, `f1`, and `recall_difference` and
        `f1_difference` to the first contender, blank for classes without videos.
    """
    first = comparison.contenders[0].classes
    rows = []
    for index, name in enumerate(comparison.class_names):
        for each in comparison.contenders:
            entry = each.classes[index]
            rows.append(
                {
                    "class": name,
                    "run": each.run.name,
                    "output": each.output,
                    "support": entry.support,
                    "precision": entry.precision,
                    "recall": entry.recall,
                    "f1": entry.f1,
                    "recall_difference": entry.recall - first[index].recall,
                    "f1_difference": entry.f1 - first[index].f1,
                }
            )
    return pd.DataFrame(rows)


def decisions_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate every decision, from which all the other tables follow: a row a contender and video."""
    names = np.asarray(comparison.class_names, dtype=object)
    tables = []
    for each in comparison.contenders:
        table = pd.DataFrame(
            {
                "run": each.run.name,
                "output": each.output,
                "video": list(each.run.videos),
                "group": list(each.groups),
                "label": names[each.labels],
                "prediction": names[each.predictions],
            }
        )
        known = each.probabilities
        table["confidence"] = np.full(len(table), np.nan) if known is None else known.max(axis=1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
