"""Comparisons of runs: every figure recomputed from predictions, what is refused, and what is said."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import recompute
import yaml
from evaluations import made_up_evaluation
from PIL import Image

from twostream.cli.compare import main
from twostream.errors import ConfigError, DataError
from twostream.evaluation.files import read_evaluation, write_evaluation
from twostream.evaluation.scores import ScoreTable, read_scores, write_scores
from twostream.reports.comparison.figures import compare
from twostream.reports.comparison.fusion import fuse
from twostream.reports.comparison.quoted import quoted_results
from twostream.reports.comparison.runs import read_runs
from twostream.reports.comparison.write import FILES
from twostream.reports.tables import predictions_table
from twostream.reports.write import write_reports


def write_run(path, evaluation, settings=None):
    """Leave what a comparison reads of a run directory, without the pictures of a report."""
    folder = path / "evaluation"
    folder.mkdir(parents=True)
    write_evaluation(evaluation, folder)
    predictions_table(evaluation).to_csv(folder / "predictions.csv", index=False)
    if settings is not None:
        (path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two streams on the same videos, a third on another split, and one of a single stream."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a", made_up_evaluation(1))
    write_run(root / "b", made_up_evaluation(2))
    write_run(root / "other", made_up_evaluation(1, data_seed=5, split="split 2", rows=70))
    write_run(root / "flow", made_up_evaluation(3, streams=("flow",)))
    return root


def scores_of(run, output="fused", **changes):
    """What another tool would have kept of a run's output."""
    found = read_evaluation(run / "evaluation")
    values = {
        "classes": found.classes,
        "videos": found.videos,
        "probabilities": found.probabilities[output],
        "labels": tuple(found.classes[label] for label in found.labels),
        "groups": found.groups,
    }
    return ScoreTable(**values | changes)


def predictions(run, output="fused"):
    """Read a run's predictions.csv, with the decisions of an output as `prediction`."""
    table = recompute.read(run / "evaluation" / "predictions.csv")
    prefix = recompute.outputs_of(table).get(output, "")
    return table.assign(
        prediction=table[f"{prefix}prediction"], video=table["video"].str.removesuffix(".avi")
    )


# figures


def test_every_figure_follows_from_the_predictions(runs, tmp_path):
    sources = [f"m={runs / 'a'}", f"m={runs / 'other'}", f"n={runs / 'b'}", f"flow={runs / 'flow'}"]
    assert main([*sources, "--out", str(tmp_path), "--fuse", "n:rgb", "flow"]) == 0
    kept = recompute.read(tmp_path / "comparison_predictions.csv")
    fused = {name: rows.reset_index(drop=True) for name, rows in kept.groupby("output")}
    rows = [
        ("m, split 1", "m, split 1", "fused", predictions(runs / "a")),
        ("m, split 2", "m, split 2", "fused", predictions(runs / "other")),
        ("n", "n: fused", "fused", predictions(runs / "b")),
        ("n", "n: rgb", "rgb", predictions(runs / "b", "rgb")),
        ("flow", "flow", "flow", predictions(runs / "flow", "flow")),
        *(("n:rgb + flow", f"n:rgb + flow: {rule}", rule, fused[rule]) for rule in ("product", "mean")),
    ]
    recompute.check_comparison(tmp_path, rows)
    assert list(fused) == ["flow", "fused", "mean", "product", "rgb"]
    averages = pd.read_csv(tmp_path / "comparison_averages.csv")
    assert list(averages["runs"]) == ["m, split 1; m, split 2"]


def test_the_comparison_of_one_run_agrees_with_its_own_report(runs, tmp_path):
    assert (
        main([f"a={runs / 'a'}", "--out", str(tmp_path), "--outputs", "all", "product", "mean", "weighted"])
        == 0
    )
    names = ("fused", "rgb", "flow", "product", "mean", "weighted")
    rows = [
        ("a", f"a: {recompute.TITLES[name].lower()}", name, predictions(runs / "a", name)) for name in names
    ]
    recompute.check_comparison(tmp_path, rows)


def test_a_report_without_probabilities_gives_the_same_figures(runs, tmp_path):
    write_reports(made_up_evaluation(1), tmp_path / "kept")
    (tmp_path / "kept" / "evaluation.npz").unlink()
    outputs = ["all", "product", "mean", "weighted"]
    found, expected = (compare(read_runs([str(path)]), outputs) for path in (tmp_path / "kept", runs / "a"))
    assert found.runs[0].probabilities == {}
    assert [each.output for each in found.contenders] == [each.output for each in expected.contenders]
    for one, other in zip(found.contenders, expected.contenders, strict=True):
        assert (one.scores, one.intervals) == (other.scores, other.intervals)
    for name in ("protocol", "dataset", "split", "side", "classes", "videos", "groups"):
        assert getattr(found.runs[0], name) == getattr(expected.runs[0], name)
    with pytest.raises(DataError, match="only its decisions were kept"):
        fuse(found.runs, ("kept:rgb", "kept:flow"))


def test_neither_the_order_of_videos_nor_that_of_classes_matters(runs, tmp_path):
    order, columns = np.random.default_rng(0).permutation(84), [3, 1, 0, 2, 6, 5, 4]
    given = scores_of(runs / "a")
    shuffled = ScoreTable(
        tuple(given.classes[column] for column in columns),
        tuple(given.videos[row].removesuffix(".avi") for row in order),
        given.probabilities[order][:, columns],
        None,  # taken from the other run, as are the groups
        None,
    )
    write_scores(tmp_path / "shuffled.npz", shuffled)
    found = compare(read_runs([f"b={runs / 'b'}", f"s={tmp_path / 'shuffled.npz'}", f"a={runs / 'a'}"]))
    scores = [each.scores for each in found.contenders]
    assert scores[1] == scores[2]
    (other,) = (pair.result for pair in found.pairs if (pair.first, pair.second) == (0, 1))
    (own,) = (pair.result for pair in found.pairs if (pair.first, pair.second) == (0, 2))
    assert other == own
    assert found.runs[1].dataset == "films"


# families


def test_runs_that_differ_in_split_and_seed_alone_are_averaged(tmp_path):
    settings = {
        "out": "x",
        "seed": 0,
        "data": {"split": {"number": 1, "kind": "official"}},
        "model": {"hidden": 64},
    }
    sources = []
    for number, (seed, split, hidden) in enumerate([(0, 1, 64), (1, 2, 64), (0, 1, 96)]):
        changed = {**settings, "out": f"x{number}", "seed": seed, "model": {"hidden": hidden}}
        changed["data"] = {"split": {"number": split, "kind": "official"}}
        evaluation = made_up_evaluation(number, data_seed=split, split=f"split {split}")
        sources.append(str(write_run(tmp_path / f"r{number}", evaluation, changed)))
    found = compare(read_runs(sources, free_settings=("out",)))
    (average,) = found.averages
    assert [run.name for run in average.members] == ["r0", "r1"]
    values = [each.scores.top1 for each in found.contenders[:2]]
    assert average.mean["top1"] == pytest.approx(np.mean(values))
    assert average.deviation["top1"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))


def test_runs_without_settings_are_averaged_only_if_they_are_given_one_name(runs):
    paths = [str(runs / "a"), str(runs / "other")]
    assert compare(read_runs(paths)).averages == ()
    (average,) = compare(read_runs([f"m={path}" for path in paths])).averages
    assert (average.family, len(average.members)) == ("m", 2)


def test_names_are_as_short_as_they_can_be(runs, tmp_path):
    copy = shutil.copytree(runs / "a", tmp_path / "elsewhere" / "a")
    found = read_runs(
        [str(runs / "a"), str(copy / "evaluation"), str(runs / "b" / "evaluation" / "evaluation.npz")]
    )
    assert [run.name for run in found] == [f"{runs.name}/a", "elsewhere/a", f"{runs.name}/b"]


# what is said


def test_runs_on_different_videos_are_compared_without_paired_tests(runs, tmp_path, capsys):
    assert main([str(runs / "a"), str(runs / "other"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "Tested on different videos, so without McNemar's test and paired bootstrap" in text
    assert "**a** and **other**: 84 and 70, 0 in common." in text
    assert "1 pair tested on different videos: no paired test" in capsys.readouterr().out
    assert not (tmp_path / "comparison_pairs.csv").exists()
    assert "| a " in text


def test_the_protocol_of_every_run_comes_first(runs, tmp_path):
    assert main([str(runs / "a"), str(runs / "flow"), "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(
        "- **a**: data set films; split 1; test side of 84 videos (trained on 200); 2 clips"
    )
    assert lines[1].startswith("- **flow**: data set films;")
    assert "- Videos are made up." in lines


def test_every_file_is_written_and_stale_ones_go(runs, tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    sources = [f"m={runs / 'a'}", f"m={runs / 'other'}"]
    assert main([*sources, "--fuse", "m, split 1:rgb", "m, split 1:flow", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "mine.txt"])
    assert main([f"a={runs / 'a'}", "--out", str(tmp_path), "--quoted", "none"]) == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left.isdisjoint({"comparison_mean.npz", "comparison_quoted.csv", "comparison_averages.csv"})
    assert {"mine.txt", "comparison.md", "comparison_pairs.csv", "comparison.png"} <= left
    for name in ("comparison.png", "comparison_classes.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 300
            assert image.height > 150


def test_without_a_folder_the_table_is_printed_alone(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs / "a"), str(runs / "b")]) == 0
    said = capsys.readouterr().out
    assert "a - b: top-1 " in said
    assert "McNemar p " in said
    assert list(tmp_path.iterdir()) == []


def test_other_source_groups_are_said_to_be(runs, tmp_path):
    write_scores(tmp_path / "s.npz", scores_of(runs / "b", groups=tuple(f"g{row % 3}" for row in range(84))))
    assert main([f"a={runs / 'a'}", f"s={tmp_path / 's.npz'}", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "These group videos by other sources, of which those of A are drawn: a and s." in text


def test_unknown_source_groups_are_said_to_be(runs, tmp_path):
    write_scores(tmp_path / "s.npz", scores_of(runs / "a", groups=None))
    assert main([str(tmp_path / "s.npz"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "No source groups are known: every video counts as its own source." in text


def test_nothing_heavy_is_needed(runs, modules_after):
    loaded = modules_after(f"from twostream.cli.compare import main; main(['{runs / 'a'}', '{runs / 'b'}'])")
    assert "twostream.reports.comparison.figures" in loaded
    assert not loaded & {"torch", "lightning", "cv2"}


# fusions


def test_streams_of_one_run_fuse_to_its_own_baselines(runs):
    found = read_runs([f"a={runs / 'a'}"])
    fused = fuse(found, ("a:rgb", "a:flow"))
    expected = read_evaluation(runs / "a" / "evaluation")
    for name, values in expected.baselines().items():
        assert np.array_equal(fused.run.probabilities[name], values)
    assert fused.weighted == expected.weighted_fusion


def test_streams_of_two_runs_are_fused_by_weights_of_named_validation_videos(runs, tmp_path):
    validation = made_up_evaluation(9, data_seed=8, split="split 3", rows=50)
    shuffled = np.random.default_rng(0).permutation(50)
    for name, rows in (("rgb", np.arange(50)), ("flow", shuffled)):
        values = ScoreTable(
            validation.classes,
            tuple(np.array(validation.videos)[rows]),
            validation.probabilities[name][rows],
            tuple(np.array(validation.classes)[validation.labels[rows]]) if name == "rgb" else None,
            None,
        )
        write_scores(tmp_path / f"{name}.npz", values)
    found = read_runs([f"a={runs / 'a'}", f"b={runs / 'b'}"])
    fused = fuse(found, ("a:rgb", "b:flow"), [str(tmp_path / "rgb.npz"), str(tmp_path / "flow.npz")])
    kept = dataclasses.replace(
        read_evaluation(runs / "a" / "evaluation"),
        protocol=made_up_evaluation(9, validation=50).protocol,
        validation_labels=validation.labels,
        validation_probabilities=validation.probabilities,
    )
    assert fused.weighted == kept.weighted_fusion
    assert fused.weighted.num_videos == 50


def test_predictions_of_the_validation_side_beside_the_runs_are_used(tmp_path):
    sources = []
    for number, stream in enumerate(("rgb", "flow")):
        run = write_run(tmp_path / stream, made_up_evaluation(number, streams=(stream,)))
        side = made_up_evaluation(number, streams=(stream,), data_seed=3, split="split 9", rows=30)
        side = dataclasses.replace(side, protocol=dataclasses.replace(side.protocol, side="validation"))
        write_run(tmp_path / f"{stream}-side", side)
        shutil.copytree(tmp_path / f"{stream}-side" / "evaluation", run / "evaluation-validation")
        sources.append(f"{stream}={run}")
    assert fuse(read_runs(sources), ("rgb", "flow")).weighted.num_videos == 30


def test_without_validation_videos_there_are_no_weights_and_that_is_said(runs, tmp_path):
    sources = [f"a={runs / 'a'}", f"flow={runs / 'flow'}"]
    assert main([*sources, "--fuse", "a:rgb", "flow", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "There is no weighted fusion: there are no predictions of validation videos to fit it on" in text
    assert "Weighted" not in text


def test_fused_scores_can_be_compared_again(runs, tmp_path):
    out = tmp_path / "out"
    assert main([f"a={runs / 'a'}", "--fuse", "a:rgb", "a:flow", "--out", str(out)]) == 0
    names = ("product", "mean", "weighted")
    again = compare(read_runs([str(out / f"comparison_{name}.npz") for name in names]))
    first = pd.read_csv(out / "comparison.csv").set_index("output")
    for name, each in zip(names, again.contenders, strict=True):
        assert each.scores.top1 == first.loc[name, "top1"]
        assert each.intervals["f1_macro"].low == pytest.approx(first.loc[name, "f1_macro_low"], abs=1e-12)


# what is refused


def refusal(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_other_classes_are_refused(runs, tmp_path, capsys):
    write_run(tmp_path / "c", made_up_evaluation(classes=("brush_hair", "catch", "other")))
    line = refusal([runs / "a", tmp_path / "c"], capsys)
    assert "its classes differ from those of" in line
    assert "not there other, missing clap, golf, jump and 2 more; only runs with the same classes" in line


def test_other_labels_are_refused(runs, tmp_path, capsys):
    given = scores_of(runs / "a")
    labels = ("golf", *given.labels[1:])
    write_scores(tmp_path / "s.npz", dataclasses.replace(given, labels=labels))
    line = refusal([runs / "a", tmp_path / "s.npz"], capsys)
    assert "is labelled golf, but brush_hair in a" in line


def test_missing_labels_are_refused(runs, tmp_path, capsys):
    write_scores(tmp_path / "s.npz", scores_of(runs / "a", labels=None))
    assert "84 videos have no label, here or in another run" in refusal([tmp_path / "s.npz"], capsys)


def test_fused_weights_are_never_fitted_on_test_videos(runs, tmp_path, capsys):
    write_scores(tmp_path / "s.npz", scores_of(runs / "a"))
    arguments = [
        f"a={runs / 'a'}",
        f"b={runs / 'b'}",
        "--fuse",
        "a",
        "b",
        "--validation",
        *[tmp_path / "s.npz"] * 2,
    ]
    assert "84 validation videos are test videos" in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{a}"], "each run once"),
        (["{a}", "--fuse", "a", "c"], "--fuse c: no such run; give NAME or NAME:OUTPUT, with a name of a"),
        (["{a}", "--fuse", "a", "a:depth"], "a has no output depth; it has fused, rgb, flow"),
        (["{a}", "{other}", "--fuse", "a", "other"], "they are of 84 and 70 videos, 0 in common"),
        (["{a}", "--validation", "x", "y"], "--validation needs --fuse"),
        (["{flow}", "--outputs", "rgb"], "has none of the outputs rgb; it has flow"),
        (["{none}"], "no such run directory, report folder or file of scores"),
        (["{here}"], "expected a run directory or the folder of an evaluation"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_a_line(arguments, said, runs, tmp_path, capsys):
    places = {name: str(runs / name) for name in ("a", "other", "flow")}
    places |= {"none": str(tmp_path / "none"), "here": str(tmp_path)}
    assert said in refusal([argument.format_map(places) for argument in arguments], capsys)


def test_a_video_that_occurs_twice_is_refused(runs, tmp_path, capsys):
    given = scores_of(runs / "a")
    write_scores(tmp_path / "s.npz", dataclasses.replace(given, videos=(given.videos[1], *given.videos[1:])))
    assert "expected each video once" in refusal([tmp_path / "s.npz"], capsys)


def test_clips_are_refused(tmp_path, capsys):
    evaluation = made_up_evaluation()
    protocol = dataclasses.replace(evaluation.protocol, level="clip")
    write_run(tmp_path / "c", dataclasses.replace(evaluation, protocol=protocol))
    assert "its rows are clips" in refusal([tmp_path / "c"], capsys)


# quoted


def test_quoted_results_are_never_among_the_measured(runs, tmp_path):
    assert main([str(runs / "a"), "--out", str(tmp_path)]) == 0
    part = recompute.sections((tmp_path / "comparison.md").read_text(encoding="utf-8"))
    quoted = quoted_results()
    assert "nothing in this table was measured here" in part["Quoted, not measured"]
    rows = recompute.tables(part["Quoted, not measured"])[0][1:]
    names = ("data_set", "split", "method", "quantity")
    recompute.check_cells(
        [[], *rows],
        [[*(row[name] for name in names), 100 * row["value"], row["source"]] for _, row in quoted.iterrows()],
    )
    others = "".join(text for heading, text in part.items() if heading != "Quoted, not measured")
    assert not any(source in others for source in quoted["source"])
    assert "UCF" not in (tmp_path / "comparison.csv").read_text(encoding="utf-8")


def test_every_quoted_result_has_its_source_and_lies_in_range():
    quoted = quoted_results()
    assert (quoted["source"].str.len() > 10).all()
    assert quoted["value"].between(0, 1).all()
    assert not quoted.duplicated(["data_set", "method", "quantity"]).any()
    own = quoted[quoted["method"] == "two-stream CNN-LSTM, attention fusion"]
    for name, values in {
        "UCF-101": (0.9083, 0.9124, 0.9083, 0.9053),
        "UCF-50": (0.7724, 0.7792, 0.7724, 0.7698),
    }.items():
        assert tuple(own.loc[own["data_set"] == name, "value"]) == values


def test_quoted_results_of_the_same_data_set(runs):
    assert set(quoted_results(["hmdb_51"])["data_set"]) == {"HMDB-51"}
    assert quoted_results(["films"]).empty


def test_outputs_are_checked_before_anything_is_loaded(runs):
    with pytest.raises(ConfigError, match="has none of the outputs"):
        compare(read_runs([str(runs / "flow")]), ["product"])


def test_scores_are_read_as_they_were(runs, tmp_path):
    write_scores(tmp_path / "s.npz", scores_of(runs / "a"))
    (run,) = read_runs([str(tmp_path / "s.npz")])
    assert run.decision == "scores"
    assert np.array_equal(run.probabilities["scores"], read_scores(tmp_path / "s.npz").probabilities)
