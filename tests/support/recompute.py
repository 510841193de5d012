"""Recompute the figures of reports from `predictions.csv` with pandas, scikit-learn and scipy alone.

Nothing of the project is imported here: what agrees with this was not written by the same hand.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binomtest
from sklearn import metrics as sk

DRAWS, BINS = 2000, 15
STREAMS = ("rgb", "flow")
TITLES = {
    "fused": "Fused",
    "rgb": "RGB",
    "flow": "Flow",
    "product": "Product",
    "mean": "Mean",
    "weighted": "Weighted",
}


def read(path):
    """Read a predictions.csv; names stay text."""
    table = pd.read_csv(path, keep_default_na=False)
    text = [name for name in table if name in ("video", "group", "label") or name.endswith("prediction")]
    return table.assign(**pd.read_csv(path, dtype=str, keep_default_na=False)[text])


def outputs_of(table):
    """Name the outputs and the prefix of their columns."""
    others = [name.removesuffix("_prediction") for name in table if name.endswith("_prediction")]
    return {"fused" if "rgb" in others else "decision": "", **{name: f"{name}_" for name in others}}


# markdown


def sections(text):
    """Cut a markdown report at its headings: {heading: text}."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[0::2], strict=True))


def tables(text):
    """Return the tables of a section: each a list of rows of cells, the header first."""
    found, current = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            current.append(cells)
        elif current:
            found.append([current[0], *current[2:]])
            current = []
    return found


def check_cells(table, expected):
    """Assert that a table has these rows; numbers may differ by half of their last digit."""
    rows = table[1:]
    assert len(rows) == len(expected), (rows, expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert len(row) == len(wanted), (row, wanted)
        for cell, value in zip(row, wanted, strict=True):
            check_cell(cell, value)


def check_cell(cell, value):
    """Assert that a cell shows a value: text, a count, a number, an (interval), or None for nothing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        assert cell == "-"
    elif isinstance(value, tuple):
        if np.isnan(value[0]):
            assert cell == "-"
        else:
            for shown, wanted in zip(cell.split(" to "), value, strict=True):
                check_cell(shown, float(wanted))
    elif isinstance(value, str | int | np.integer):
        assert cell == str(value)
    else:
        digits = len(cell.partition(".")[2])
        assert abs(float(cell) - value) <= 0.501 * 10**-digits, (cell, value)


def check_numbers(text, expected):
    """Assert that the numbers of a text are these, in this order."""
    shown = re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?!\w)", text)
    assert len(shown) == len(expected), (shown, expected)
    for cell, value in zip(shown, expected, strict=True):
        digits = len(cell.partition(".")[2])
        assert abs(float(cell) - value) <= 0.501 * 10**-digits, (text, cell, value)


# figures


def draws_of(groups):
    """Return how often each group is drawn, (D, G), and the groups in order."""
    names = sorted(set(groups))
    share = np.full(len(names), 1 / len(names))
    return np.random.default_rng(0).multinomial(len(names), share, size=DRAWS), names


def mean_interval(values, groups):
    """Return the interval of a mean in percent: percentiles over draws of whole groups."""
    counts, names = draws_of(groups)
    if len(names) < 2:
        return np.nan, np.nan
    by_group = pd.Series(np.asarray(values, float)).groupby(np.asarray(groups, dtype=object))
    means = counts @ by_group.sum()[names].to_numpy() / (counts @ by_group.size()[names].to_numpy())
    return tuple(100 * np.quantile(means, (0.025, 0.975)))


def right_interval(right, groups):
    """Return the interval of top-1 in percent, with the exact binomial bound where all are right or all wrong."""
    bound = 0.025 ** (1 / len(set(groups)))
    if len(set(groups)) > 1 and right.all():
        return 100 * bound, 100.0
    if len(set(groups)) > 1 and not right.any():
        return 0.0, 100 * (1 - bound)
    return mean_interval(right, groups)


def figures(table, prefix):
    """Return the figures of an output in percent."""
    label, given = table["label"], table[f"{prefix}prediction"]
    present = sorted(set(label))
    found = {"top1": 100 * sk.accuracy_score(label, given)}
    for average in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(
            label, given, labels=present, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), values, strict=False):
            found[f"{name}_{average}"] = 100 * value
    found["interval"] = right_interval((label == given).to_numpy(), table["group"])
    found["top5"] = 100 * (table[f"{prefix}label_rank"] <= 5).mean()
    chance = np.clip(table[f"{prefix}label_probability"], np.finfo(float).eps, 1)
    found["nll"] = float(-np.log(chance).mean())
    confidence = table[f"{prefix}confidence"].to_numpy(float)
    bins = pd.Series((label == given) - confidence).groupby(np.minimum(confidence * BINS // 1, BINS - 1))
    found["ece"] = 100 * bins.sum().abs().sum() / len(table)
    return found


def overall_row(table, output, prefix):
    found = figures(table, prefix)
    names = ("top1", "interval", "top5", "recall_macro", "precision_macro", "recall_macro", "f1_macro")
    return [TITLES[output], *(found[name] for name in (*names, "precision_weighted", "f1_weighted"))]


def gain(table, one, other):
    """Return top-1 of two outputs, their difference and its paired interval, in percent."""
    right, less = (table["label"] == table[f"{prefix}prediction"] for prefix in (one, other))
    difference = right.astype(float) - less
    return [
        100 * right.mean(),
        100 * less.mean(),
        100 * difference.mean(),
        *mean_interval(difference, table["group"]),
    ]


def class_figures(table, prefix, classes):
    """Return precision, recall, F1 in percent, support, predicted, and the commonest confusion of each class."""
    label, given = table["label"], table[f"{prefix}prediction"]
    values = sk.precision_recall_fscore_support(label, given, labels=classes, zero_division=0)
    found = pd.DataFrame(
        dict(zip(("precision", "recall", "f1"), 100 * np.array(values[:3]), strict=True)), classes
    )
    found["support"] = values[3]
    found.loc[found["support"] == 0, ["precision", "recall", "f1"]] = np.nan
    wrong = pd.crosstab(label, given).reindex(index=classes, columns=classes, fill_value=0).to_numpy()
    wrong = wrong - np.diag(np.diag(wrong))
    found["confusion"] = [f"{classes[row.argmax()]} ({row.max()})" if row.max() else None for row in wrong]
    return found


def groups_of_classes(table, prefix, classes, among=None):
    """Find the classes that an output cannot tell apart, by scipy's average linkage."""
    counts = pd.crosstab(table["label"], table[f"{prefix}prediction"]).reindex(
        index=classes, columns=classes, fill_value=0
    )
    kept = [name for name in (among or classes) if counts.loc[name].sum() >= 2]
    if len(kept) < 2:
        return []
    shares = counts.loc[kept].div(counts.loc[kept].sum(axis=1), axis=0)
    overlap = np.array([[np.minimum(a, b).sum() for b in shares.to_numpy()] for a in shares.to_numpy()])
    direct = np.minimum(shares[kept].to_numpy() + shares[kept].to_numpy().T, 1)
    distance = 1 - np.clip(np.maximum(overlap, direct), 0, 1)
    np.fill_diagonal(distance, 0)
    which = fcluster(linkage(squareform(distance, checks=False), "average"), 0.5 + 1e-9, "distance")
    found = [[kept[i] for i in np.flatnonzero(which == number)] for number in sorted(set(which))]
    return [names for names in found if len(names) > 1]


# comparisons


def macro_draws(label, given, groups):
    """Return mean class accuracy and macro F1 of every draw, in percent."""
    counts, names = draws_of(groups)
    right = label.where(label == given)

    def by_group(values):
        known = values.notna().to_numpy()
        table = pd.crosstab(np.asarray(groups)[known], values[known].to_numpy())
        return counts @ table.reindex(index=names, columns=sorted({*label, *given}), fill_value=0).to_numpy()

    support, predicted, hits = by_group(label), by_group(given), by_group(right)
    support = np.where(support > 0, support, np.nan)
    return 100 * np.nanmean(hits / support, axis=1), 100 * np.nanmean(
        2 * hits / (support + predicted), axis=1
    )


def score_cells(label, given, groups):
    """Return top-1, mean class accuracy and macro F1 in percent, each followed by its interval."""
    right, present = (label == given).to_numpy(), sorted(set(label))
    cells = [100 * sk.accuracy_score(label, given), right_interval(right, groups)]
    values = (
        sk.recall_score(label, given, labels=present, average="macro", zero_division=0),
        sk.f1_score(label, given, labels=present, average="macro", zero_division=0),
    )
    for value, draws in zip(values, macro_draws(label, given, groups), strict=True):
        all_alike = right.all() or not right.any()
        interval = (np.nan, np.nan) if all_alike else tuple(np.quantile(draws, (0.025, 0.975)))
        cells += [100 * value, interval]
    return cells


def pair_cells(label, first, second, groups):
    """Return videos, those that one alone gets right, McNemar's p, and the differences with their intervals."""
    right, too = label == first, label == second
    alone = int((right & ~too).sum()), int((~right & too).sum())
    p = binomtest(alone[0], sum(alone), 0.5).pvalue if sum(alone) else 1.0
    values = score_cells(label, first, groups)[::2], score_cells(label, second, groups)[::2]
    intervals = [mean_interval(right.astype(float) - too, groups)]
    for a, b in zip(macro_draws(label, first, groups), macro_draws(label, second, groups), strict=True):
        intervals.append(tuple(np.quantile(a - b, (0.025, 0.975))))
    cells = []
    for a, b, interval in zip(*values, intervals, strict=True):
        cells += [a - b, interval]
    return [len(label), *alone], p, cells


def check_comparison(folder: Path, rows: list[tuple[str, str, str, pd.DataFrame]]) -> None:
    """Assert that every figure of a comparison follows from the predictions.

    Args:
        folder: with comparison.md and its CSV files.
        rows: in the order of the report: run, name of the row, output, and a table of video, group, label, prediction.
    """
    part = sections((folder / "comparison.md").read_text(encoding="utf-8"))
    measured = tables(part["Measured"])[0][1:]
    kept = pd.read_csv(folder / "comparison.csv", dtype={"run": str})
    names = ("top1", "mean_class_accuracy", "f1_macro")
    scores = []
    assert len(measured) == len(kept) == len(rows)
    for shown, (_, written), (run, _, output, table) in zip(measured, kept.iterrows(), rows, strict=True):
        cells = score_cells(table["label"], table["prediction"], table["group"])
        scores.append(cells[::2])
        assert [shown[0], shown[1]] == [run, TITLES[output]]
        check_cells([[], shown[4:]], [[len(table), table["group"].nunique(), *cells]])
        for name, value, interval in zip(names, cells[::2], cells[1::2], strict=True):
            wanted = [value, *interval]
            found = [100 * written[f"{name}{end}"] for end in ("", "_low", "_high")]
            np.testing.assert_allclose(found, wanted, rtol=1e-9)
    _check_averages(part, rows, scores)
    _check_same_videos(part, folder, rows)
    _check_class_differences(part["Classes"], folder, rows)


def _check_averages(part, rows, scores):
    if "Averages over splits" not in part:
        return
    for shown in tables(part["Averages over splits"])[0][1:]:
        chosen = [
            values
            for (run, _, output, _), values in zip(rows, scores, strict=True)
            if TITLES[output] == shown[1] and (run in shown[0].split(", ") or run.startswith(f"{shown[0]}, "))
        ]
        assert len(chosen) == int(shown[2]) > 1
        for cell, values in zip(shown[4:], np.transpose(chosen), strict=True):
            for number, wanted in zip(
                cell.split(" ± "), (values.mean(), pd.Series(values).std()), strict=True
            ):
                check_cell(number, float(wanted))


def _check_same_videos(part, folder, rows):
    pairs = []
    for index, (_, first, _, table) in enumerate(rows):
        for _, second, _, other in rows[index + 1 :]:
            if set(table["video"]) == set(other["video"]):
                given = other.set_index("video")["prediction"][table["video"]].reset_index(drop=True)
                pairs.append(
                    (first, second, *pair_cells(table["label"], table["prediction"], given, table["group"]))
                )
    if not pairs:
        return
    order = sorted(range(len(pairs)), key=lambda index: pairs[index][3])
    adjusted, least = {}, 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(pairs) - rank) * pairs[index][3]))
        adjusted[index] = least
    shown = tables(part["On the same videos"])[0][1:]
    kept = pd.read_csv(folder / "comparison_pairs.csv")
    assert len(shown) == len(kept) == len(pairs)
    for index, (first, second, counts, p, cells) in enumerate(pairs):
        assert shown[index][:2] == [first, second]
        check_cells([[], shown[index][2:5] + shown[index][7:]], [[*counts, *cells]])
        for cell, value in zip(shown[index][5:7], (p, adjusted[index]), strict=True):
            assert value < 0.0005 if cell == "< 0.001" else abs(float(cell) - value) < 0.00051
        written = kept.loc[index]
        np.testing.assert_allclose(
            written[["mcnemar_p", "mcnemar_p_holm"]].astype(float), [p, adjusted[index]]
        )
        for name, value, interval in zip(
            ("top1", "mean_class_accuracy", "f1_macro"), cells[::2], cells[1::2], strict=True
        ):
            found = [100 * written[f"{name}_{end}"] for end in ("difference", "low", "high")]
            np.testing.assert_allclose(found, [value, *interval], atol=1e-9)


def _check_class_differences(text, folder, rows):
    shown = tables(text)[0][1:]
    classes = [row[0] for row in shown]
    found = [class_figures(table, "", classes) for *_, table in rows]
    for name, row in zip(classes, shown, strict=True):
        f1 = [figures.loc[name, "f1"] for figures in found[:6]]
        check_cells([[], row[2:]], [[*f1, *(value - f1[0] for value in f1[1:])]])
        assert row[1] == ", ".join(dict.fromkeys(str(figures.loc[name, "support"]) for figures in found[:6]))
    kept = pd.read_csv(folder / "comparison_classes.csv", dtype={"class": str}).set_index(
        ["class", "run", "output"]
    )
    for (run, _, output, _), figures in zip(rows, found, strict=True):
        for name in classes:
            written = kept.loc[(name, run, output)]
            wanted = figures.loc[name, ["precision", "recall", "f1"]].astype(float)
            np.testing.assert_allclose(100 * written[["precision", "recall", "f1"]].astype(float), wanted)
            difference = wanted["f1"] - found[0].loc[name, "f1"]
            np.testing.assert_allclose(100 * written["f1_difference"], difference, atol=1e-9)


def check_report(folder: Path) -> None:
    """Assert that every figure of a two-stream report.md about its videos follows from predictions.csv."""
    table = read(folder / "predictions.csv")
    classes = list(pd.read_csv(folder / "confusion_matrix.csv", dtype=str, keep_default_na=False).columns[1:])
    text = (folder / "report.md").read_text(encoding="utf-8")
    part, outputs = sections(text), outputs_of(table)
    own = {name: outputs[name] for name in ("fused", *STREAMS)}
    baselines = {name: prefix for name, prefix in outputs.items() if name not in own}
    tops = {name: figures(table, prefix)["top1"] for name, prefix in outputs.items()}
    found = {name: class_figures(table, prefix, classes) for name, prefix in own.items()}
    present = [name for name in classes if found["fused"].loc[name, "support"]]
    _check_nothing_else_is_said(text, part)
    assert f" side of {len(table)} videos (" in text.splitlines()[0]
    _check_summary(part["Summary"], table, own, tops, len(classes))
    _check_fusions(part["Fusions"], table, outputs, baselines, tops)
    check_cells(
        tables(part["Calibration"])[0],
        [
            [TITLES[name], *(figures(table, prefix)[key] for key in ("ece", "nll"))]
            for name, prefix in outputs.items()
        ],
    )
    if "Sources shared with training" in part:
        _check_shared(part["Sources shared with training"], table, own)
    _check_agreement(part["Which stream is right"], table)
    _check_groups(part, table, classes)
    _check_pairs(part["Pairs most often confused"], table, own, classes)
    _check_highlights(part["Best and worst classes, fused"], found, present)
    if "Stream weights per class" in part:
        _check_weights(part["Stream weights per class"], table, present)
    rows = []
    for name in classes:
        row = found["fused"].loc[name]
        rows.append(
            [name, int(row["support"]), row["precision"], row["recall"], row["f1"]]
            + [found[stream].loc[name, "f1"] for stream in STREAMS]
            + [found[output].loc[name, "confusion"] for output in own]
        )
    check_cells(tables(part["Every class"])[0], rows)
    never = [name for name in present if name not in set(table["prediction"])]
    said = re.search(r"(\d+) class\w* with videos never predicted; [^:]*: (.*)\.", part["Every class"])
    assert (int(said[1]) if said else 0) == len(never)
    assert _strong(said[2] if said else "") == never


# Sections whose tables are recomputed, and the starts of all lines of prose that hold numbers, other than notes. In
# those of the second group the numbers are rules and settings: they do not depend on the videos.
SECTIONS = {
    "", "Summary", "Fusions", "Calibration", "Sources shared with training", "Which stream is right",
    "What each stream cannot tell apart", "RGB alone", "Flow alone", "Fusion", "Pairs most often confused",
    "Best and worst classes, fused", "Stream weights per class", "Confusion matrices", "What the network looked at",
    "Training", "Every class", "How to reproduce", "Notes",
}  # fmt: skip
TABLES = {"Best and worst classes, fused": 2}
RECOMPUTED = (
    r"Protocol: ", r"\d+ videos? of \d+ source group", r"\*\*Fusion gain\.\*\*", r"\*\*The learned fusion\.\*\*",
    r"weighted: RGB ",
    r"\d+ of \d+ videos? (come|were)", r"At least one stream", r"(- )?(RGB|Flow|The fusion) (cannot|confuses)",
    r"\d+ groups? with fewer errors", r"Over all videos", r"Fused output unless said otherwise",
)  # fmt: skip
RULES = (r"Two classes count as", r"ECE: expected", r"In percent\. ", r"# Evaluation of ", r"!\[")


def _check_nothing_else_is_said(text, part):
    """No table and no sentence with numbers stands in the report that nothing here looks at."""
    assert set(part) <= SECTIONS
    for name, content in part.items():
        assert len(tables(content)) <= TABLES.get(name, 1), name
    prose = re.sub(r"^```.*?^```", "", text.partition("## Notes")[0], flags=re.MULTILINE | re.DOTALL)
    for line in prose.splitlines():
        if re.search(r"\d", line) and not line.startswith("|"):
            assert re.match("|".join(RECOMPUTED + RULES), line), line


def _strong(text):
    """Return the names that markdown marks as strong."""
    return [name.replace("\\", "") for name in re.findall(r"\*\*(.+?)\*\*", text)]


def _check_summary(text, table, own, tops, classes):
    counts = table["label"].value_counts()
    lead = text.strip().splitlines()[0].replace("top-1", "top")
    named = [classes] if len(counts) == classes else [classes, len(counts)]
    expected = [len(table), table["group"].nunique(), *named, 100 * counts.max() / len(table)]
    check_numbers(lead, expected)
    check_cells(tables(text)[0], [overall_row(table, name, prefix) for name, prefix in own.items()])
    better = max(STREAMS, key=tops.get)
    top, other, difference, low, high = gain(table, "", f"{better}_")
    said = next(line for line in text.splitlines() if line.startswith("**Fusion gain.**"))
    check_numbers(said.replace("top-1", "top"), [top, abs(difference), other, 95, low, high])


def _check_fusions(text, table, outputs, baselines, tops):
    rows = []
    for name in ("fused", *baselines):
        values = figures(table, outputs[name])
        rows.append(
            [TITLES[name], values["top1"], values["interval"], values["recall_macro"], values["f1_macro"]]
        )
    check_cells(tables(text)[0], rows)
    said = next(line for line in text.splitlines() if line.startswith("**The learned fusion.**"))
    expected = [tops["fused"]]
    for names in (STREAMS, tuple(baselines)):
        best = max(names, key=tops.get)
        _, other, difference, low, high = gain(table, "", outputs[best])
        expected += [*([abs(difference)] if difference else []), other, 95, low, high]
    check_numbers(said.replace("top-1", "top"), expected)


def _check_shared(text, table, own):
    kept = table[~table["shared_source"].astype(str).eq("True")]
    lead = text.strip().splitlines()[0]
    if len(kept) == len(table):
        return
    check_numbers(lead, [len(table) - len(kept), len(table), len(kept)])
    rows = [overall_row(kept.reset_index(drop=True), name, prefix) for name, prefix in own.items()]
    check_cells(tables(text)[0], rows)


def _check_agreement(text, table):
    fused, rgb, flow = (table["label"] == table[f"{start}prediction"] for start in ("", "rgb_", "flow_"))
    rows = []
    for name, chosen in (
        ("both streams", rgb & flow), ("RGB only", rgb & ~flow), ("flow only", ~rgb & flow), ("neither", ~rgb & ~flow),
    ):  # fmt: skip
        count, right = int(chosen.sum()), int((chosen & fused).sum())
        rows.append([name, count, 100 * count / len(table), right, 100 * right / count if count else None])
    check_cells(tables(text)[0], rows)
    said = next(line for line in text.splitlines() if line.startswith("At least one stream"))
    check_numbers(said, [100 * (rgb | flow).mean()])


def _check_groups(part, table, classes):
    """The groups of classes, how many of their videos each output gets right, and which of them the fusion resolves."""
    starts = {"RGB alone": "rgb_", "Flow alone": "flow_", "Fusion": ""}
    for heading, prefix in starts.items():
        lines = [line for line in part[heading].splitlines() if line.startswith("- ")]
        expected = []
        for names in groups_of_classes(table, prefix, classes):
            rows = table[table["label"].isin(names)]
            right = {
                start: int((rows["label"] == rows[f"{start}prediction"]).sum()) for start in starts.values()
            }
            if len(rows) - right[prefix] >= 2:
                order = [prefix, *(start for start in starts.values() if start != prefix)]
                numbers = [len(rows)]
                for start in order:
                    numbers += [right[start], 100 * right[start] / len(rows)]
                left = groups_of_classes(table, "", classes, names)
                solved = right[""] > right[prefix] and names not in left
                verdict = ("in part" if left else "resolved") if solved else "not resolved"
                places = [classes.index(name) for name in names]
                expected.append((right[prefix] - len(rows), places, names, numbers, verdict))
        assert len(lines) == min(len(expected), 10)
        for line, (_, _, names, numbers, verdict) in zip(lines, sorted(expected), strict=False):
            said, _, counts = line.partition(": of their ")
            assert _strong(said) == names
            sentence, _, rest = counts.partition(". ")
            check_numbers(re.sub(r"\.$", "", sentence), numbers)
            verdicts = {
                "resolved": "The fusion resolves them.",
                "in part": "The fusion resolves them in part",
                "not resolved": "The fusion does not resolve them.",
            }
            for key, words in verdicts.items() if prefix else ():
                assert (words in rest) == (key == verdict), line
        _check_group_counts(part[heading], table, prefix, [verdict for *_, verdict in expected], len(lines))


def _check_group_counts(text, table, prefix, verdicts, listed):
    lead = next(line for line in text.splitlines() if line.strip())
    if verdicts:
        order = ("resolved", "in part", "not resolved") if prefix else ()
        check_numbers(lead, [len(verdicts), *(verdicts.count(key) for key in order if key in verdicts)])
    else:
        errors = int((table["label"] != table[f"{prefix}prediction"]).sum())
        check_numbers(lead, [errors] if errors else [])
    more = re.search(r"^(\d+) groups? with fewer errors", text, re.MULTILINE)
    assert (int(more[1]) if more else 0) == len(verdicts) - listed


def _check_pairs(text, table, own, classes):
    rows = []
    for output, prefix in own.items():
        counts = pd.crosstab(table["label"], table[f"{prefix}prediction"]).reindex(
            index=classes, columns=classes, fill_value=0
        )
        pairs = []
        for i, a in enumerate(classes):
            for b in classes[i + 1 :]:
                there, back = int(counts.loc[a, b]), int(counts.loc[b, a])
                one, two = (a, b) if there >= back else (b, a)
                both = int(counts.loc[[a, b]].to_numpy().sum())
                if there + back:
                    share = (there + back) / both
                    key = (-(there + back), -share, classes.index(one), classes.index(two))
                    pairs.append((key, [one, two, max(there, back), min(there, back), 100 * share]))
        rows += [[TITLES[output], *cells] for _, cells in sorted(pairs)[:6]]
    check_cells(tables(text)[0], rows)


def _check_highlights(text, found, present):
    fused = found["fused"].loc[present]
    ranked = sorted(present, key=lambda name: (-fused.loc[name, "f1"], present.index(name)))
    count = min(5, len(ranked) // 2)
    chosen = [("best", name) for name in ranked[:count]] + [("worst", name) for name in ranked[::-1][:count]]
    rows = [
        [place, name, int(fused.loc[name, "support"])]
        + [fused.loc[name, key] for key in ("f1", "precision", "recall", "confusion")]
        for place, name in chosen
    ]
    shown = tables(text)
    check_cells(shown[0], rows)
    recalls = pd.DataFrame({name: found[name].loc[present, "recall"] for name in ("rgb", "flow", "fused")})
    change = (recalls["fused"] - recalls[["rgb", "flow"]].max(axis=1)).round(9)
    ranked = sorted(present, key=lambda name: (-change[name], present.index(name)))
    chosen = [name for name in ranked[:5] if change[name] > 0] + [
        name for name in ranked[-5:] if change[name] < 0
    ]
    if chosen:
        check_cells(shown[1], [[name, *recalls.loc[name], change[name]] for name in chosen])


def _check_weights(text, table, present):
    lead = next(line for line in text.splitlines() if line.startswith("Over all videos"))
    means = table.groupby("label")[["rgb_weight", "flow_weight"]].mean().loc[present] * 100
    check_numbers(lead, [100 * table["rgb_weight"].mean(), 100 * table["flow_weight"].mean()])
    shown = tables(text)[0][1:]
    for name, rgb, flow in shown:
        check_cell(rgb, means.loc[name, "rgb_weight"])
        check_cell(flow, means.loc[name, "flow_weight"])
    assert [float(row[1]) for row in shown] == sorted((float(row[1]) for row in shown), reverse=True)
