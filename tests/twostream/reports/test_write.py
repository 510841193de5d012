"""Reports: every file, what it says, and that names survive every format."""

import base64
import csv
import dataclasses
import hashlib
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markupsafe import escape
from PIL import Image
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from twostream.errors import DataError
from twostream.evaluation.examples import Example
from twostream.evaluation.files import read_evaluation
from twostream.evaluation.results import Evaluation, Protocol
from twostream.evaluation.strips import Strips
from twostream.inference.looks import StreamLook
from twostream.reports.console import print_summary
from twostream.reports.document import Paragraph, Strong, Table, escape_markdown, plain, to_markdown
from twostream.reports.page.live import live_blocks
from twostream.reports.page.render import to_html
from twostream.reports.tables import compute_figures, per_class_table, read_predictions, summary_table
from twostream.reports.text import per_class_blocks, report_blocks
from twostream.reports.write import FILES, write_reports

ODD_NAMES = (
    "jump, high",
    "a|b",
    'say "hi"',
    "走る 🏃",
    "<b>bold</b> & *star*",
    "=1+1",
    "NA",
    "$x$ `y` [z](w)",
    "brush_hair",
)

ODD_VIDEOS = ("a\rb.avi", "a\nb.avi", "a\tb.avi", 'a"b.avi', "a,b.avi", " a.avi", "=1+1.avi", "a\udcffb.avi")


def make_protocol(num_videos, streams=("rgb", "flow"), **changes):
    values = {
        "dataset": "demo",
        "split": "groups, seed 0",
        "side": "test",
        "num_train": 40,
        "num_videos": num_videos,
        "clips_per_video": 3,
        "streams": streams,
        "checkpoint": "best.ckpt",
        "epoch": 1,
        "flow": "Farneback, bound 20 px, step 1",
        "groups": "the scene",
        "seed": 0,
        "command": "twostream-train --config demo.yaml | tee `log`",
        "notes": ("Videos are generated.",),
    }
    return Protocol(**values | changes)


def one_hot(predictions, classes):
    """Rows of 0.8 for the prediction, the rest shared among the other classes, lower index first."""
    rows = np.full((len(predictions), classes), 0.2) * np.linspace(1.5, 0.5, classes)
    rows[np.arange(len(predictions)), predictions] = 0
    rows *= 0.2 / rows.sum(axis=1, keepdims=True)
    rows[np.arange(len(predictions)), predictions] = 0.8
    return rows.astype(np.float32)


def evaluation_of(labels, predictions, classes, **changes):
    labels = np.asarray(labels)
    streams = tuple(name for name in predictions if name != "fused")
    values = {
        "protocol": make_protocol(len(labels), streams),
        "classes": tuple(classes),
        "videos": tuple(f"v{index:03d}.avi" for index in range(len(labels))),
        "groups": tuple(f"{index % 4:03d}" for index in range(len(labels))),
        "labels": labels,
        "probabilities": {
            name: one_hot(np.asarray(rows), len(classes)) for name, rows in predictions.items()
        },
    }
    return Evaluation(**values | changes)


def constructed(**changes):
    """Four classes, eight videos each: RGB tosses a coin between A and B, flow between A and C."""
    labels = np.repeat(np.arange(4), 8)
    coin = np.arange(32) % 2
    rgb = np.where(labels <= 1, coin, labels)
    flow = np.where(np.isin(labels, (0, 2)), 2 * coin, labels)
    weights = np.tile([0.25, 0.75], (32, 1))
    return evaluation_of(
        labels, {"fused": labels, "rgb": rgb, "flow": flow}, "ABCD", **{"stream_weights": weights} | changes
    )


def random_evaluation(seed=0, rows=60, classes=ODD_NAMES, **changes):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(classes), rows)
    outputs = {}
    for name, skill in (("fused", 2.0), ("rgb", 1.0), ("flow", 0.5)):
        values = np.exp(generator.normal(size=(rows, len(classes))) + skill * np.eye(len(classes))[labels])
        outputs[name] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    weights = generator.random((rows, 1))
    values = {
        "probabilities": outputs,
        "stream_weights": np.hstack([weights, 1 - weights]),
        "shared_source": generator.random(rows) < 0.3,
    }
    return evaluation_of(labels, outputs_to_predictions(outputs), classes, **values | changes)


def with_validation(evaluation, seed=1, rows=98):
    """The same evaluation with predictions of a validation side, on which flow knows more than RGB."""
    validation = random_evaluation(seed, rows, evaluation.classes)
    outputs = validation.probabilities
    return dataclasses.replace(
        evaluation,
        protocol=dataclasses.replace(evaluation.protocol, num_validation=rows),
        validation_labels=validation.labels,
        validation_probabilities={**outputs, "rgb": outputs["flow"], "flow": outputs["fused"]},
    )


def outputs_to_predictions(outputs):
    return {name: rows.argmax(axis=1) for name, rows in outputs.items()}


def write_history(path):
    pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, 1.0], "val_top1": [0.3, 0.6]}).to_csv(
        path, index=False
    )
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole report of odd names, with its evaluation."""
    directory = tmp_path_factory.mktemp("report") / "deep" / "evaluation"
    videos = (*ODD_VIDEOS, *(f"v{index:03d}.avi" for index in range(60 - len(ODD_VIDEOS))))
    evaluation = with_validation(random_evaluation(videos=videos))
    history = write_history(tmp_path_factory.mktemp("run") / "metrics.csv")
    return evaluation, directory, write_reports(evaluation, directory, history, [example(0), example(7)])


def example(video):
    """A video of whose six steps the fourth counts most; flow looks at all places alike."""
    pictures = np.random.default_rng(video).integers(0, 256, (6, 48, 64, 3)).astype(np.uint8)
    steps = np.array([1, 1, 1, 4, 1, 0], np.float32) / 8
    places = np.tile(np.array([[0.25, 0.5], [0.25, 0.0]], np.float32), (6, 1, 1))
    return Example(
        video, {"rgb": StreamLook(pictures, steps, places), "flow": StreamLook(pictures, steps, None)}
    )


def text_of(blocks):
    return to_markdown(blocks)


# the files


def test_every_file_is_written_whole_and_nothing_else(written):
    _, directory, paths = written
    assert [path.name for path in paths] == list(FILES)
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert all(path.stat().st_size > 0 for path in paths)
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


def test_protocol_line_comes_first(written):
    evaluation, directory, _ = written
    line = evaluation.protocol.line()
    for name in ("report.md", "per_class.md"):
        assert (directory / name).read_text(encoding="utf-8").splitlines()[0] == line
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert page.split("<body>")[1].strip().startswith(f"<p>{escape(line)}</p>")


def test_summary_agrees_with_scikit_learn(written):
    evaluation, directory, _ = written
    table = pd.read_csv(directory / "summary.csv").set_index(["output", "subset"])
    assert list(table.index) == [
        (output, subset)
        for subset in ("all", "unshared_sources")
        for output in ("fused", "rgb", "flow", "product", "mean", "weighted")
    ]
    for subset, rows in (("all", np.ones(60, bool)), ("unshared_sources", ~evaluation.shared_source)):
        labels, probabilities = evaluation.labels[rows], evaluation.probabilities["rgb"][rows]
        predictions, row = probabilities.argmax(axis=1), table.loc[("rgb", subset)]
        assert row["num_videos"] == rows.sum()
        assert row["top1"] == pytest.approx(sk.accuracy_score(labels, predictions), abs=1e-15)
        assert row["top5"] == sk.top_k_accuracy_score(labels, probabilities, k=5, labels=range(9))
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        expected = sk.f1_score(labels, predictions, average="weighted", zero_division=0)
        assert row["f1_weighted"] == pytest.approx(expected, abs=1e-15)


def test_per_class_csv_holds_every_class_by_its_name(written):
    evaluation, directory, _ = written
    table = pd.read_csv(directory / "per_class.csv", keep_default_na=False)
    assert tuple(table["class"]) == evaluation.classes
    predictions = evaluation.predictions("flow")
    recall = sk.recall_score(evaluation.labels, predictions, average=None, labels=range(9), zero_division=0)
    assert table["flow_recall"].astype(float).to_numpy() == pytest.approx(recall)
    assert set(table["flow_confused_with"]) <= {*evaluation.classes, ""}


def test_confusion_csv_can_be_read_back(written):
    evaluation, directory, _ = written
    for name, output in (("confusion_matrix.csv", "fused"), ("confusion_matrix_rgb.csv", "rgb")):
        with (directory / name).open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert tuple(header) == ("label", *evaluation.classes)
        assert tuple(row[0] for row in rows) == evaluation.classes
        expected = sk.confusion_matrix(evaluation.labels, evaluation.predictions(output), labels=range(9))
        assert np.array_equal(np.array([row[1:] for row in rows], dtype=int), expected)


def test_predictions_csv_round_trip(written):
    evaluation, directory, _ = written
    table = read_predictions(directory / "predictions.csv")
    names = np.array(evaluation.classes, dtype=object)
    assert tuple(table["video"]) == evaluation.videos
    assert tuple(table["group"]) == evaluation.groups  # "000" stays text
    assert list(table["label"]) == list(names[evaluation.labels])
    assert list(table["prediction"]) == list(names[evaluation.predictions()])
    assert np.array_equal(table["correct"], evaluation.predictions() == evaluation.labels)
    assert np.array_equal(table["shared_source"], evaluation.shared_source)
    assert np.array_equal(table["confidence"], evaluation.probabilities["fused"].max(axis=1))
    assert list(table["flow_prediction"]) == list(names[evaluation.predictions("flow")])
    assert np.array_equal(table["rgb_weight"], evaluation.stream_weights[:, 0])
    order = np.argsort(-evaluation.probabilities["fused"], axis=1)
    for rank in range(5):
        assert list(table[f"top_{rank + 1}"]) == list(names[order[:, rank]])


def test_evaluation_round_trip_is_exact(written):
    evaluation, directory, _ = written
    found = read_evaluation(directory)
    assert found.protocol == evaluation.protocol
    assert (found.classes, found.videos, found.groups) == (
        evaluation.classes,
        evaluation.videos,
        evaluation.groups,
    )
    for name, values in evaluation.probabilities.items():
        assert np.array_equal(found.probabilities[name], values)
        assert np.array_equal(found.validation_probabilities[name], evaluation.validation_probabilities[name])
    for name in ("labels", "stream_weights", "shared_source", "validation_labels"):
        assert np.array_equal(getattr(found, name), getattr(evaluation, name))
    baselines = evaluation.baselines()
    assert list(baselines) == ["product", "mean", "weighted"]
    for name, values in found.baselines().items():
        assert np.array_equal(values, baselines[name])


def test_a_file_without_validation_is_read_as_before(tmp_path):
    write_reports(constructed(), tmp_path)
    path = tmp_path / "evaluation.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    meta = json.loads(kept["meta"].tobytes())
    del meta["protocol"]["num_validation"]  # as earlier versions wrote it
    kept["meta"] = np.frombuffer(json.dumps(meta).encode("ascii"), dtype=np.uint8)
    np.savez_compressed(path, **kept)
    found = read_evaluation(tmp_path)
    assert found.protocol.num_validation is None
    assert (found.validation_labels, found.validation_probabilities) == (None, None)
    assert list(found.baselines()) == ["product", "mean"]
    write_reports(found, tmp_path)
    assert "holds no predictions of validation videos" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_missing_or_damaged_evaluation_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match=r"evaluation\.npz: damaged"):
        read_evaluation(tmp_path)


def test_html_is_self_contained_and_balanced(written):
    _, directory, _ = written
    page = (directory / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 4  # the matrices are tables
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r'(href|url)\s*[=(]\s*"?http', page)
    opened = tags_of(page)
    assert opened.count("script") == 1
    assert (
        opened.count("section")
        == len(re.findall(r"^## ", (directory / "report.md").read_text("utf-8"), re.M)) + 1
    )


def tags_of(page):
    """The tags that a page opens; each but those without content is closed where it should be."""

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.stack, self.opened = [], []

        def handle_starttag(self, tag, attributes):
            self.opened.append(tag)
            if tag not in ("meta", "img", "input"):
                self.stack.append(tag)

        def handle_endtag(self, tag):
            assert self.stack.pop() == tag

    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.stack == []
    return parser.opened


def test_the_page_permits_its_one_script_and_no_request(written):
    _, directory, _ = written
    page = (directory / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert html.unescape(policy).split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
    ]  # fmt: skip


def test_every_video_stands_in_the_page_without_its_script(written):
    """Every control that needs the script is hidden until it runs; the tables are there."""
    evaluation, directory, _ = written
    page = (directory / "report.html").read_text(encoding="utf-8")
    table = page.split('id="video-table"')[1].split("</table>")[0]
    rows = re.findall(r'<tr data-label="(\d+)" data-answers="([\d ]+)"><td>(.*?)</td>', table)
    assert [int(label) for label, _, _ in rows] == evaluation.labels.tolist()
    answers = np.array([list(map(int, said.split())) for _, said, _ in rows])
    for column, output in enumerate(evaluation.outputs):
        assert np.array_equal(answers[:, column], evaluation.predictions(output))
    names = [plain(video).encode("utf-8", "backslashreplace").decode() for video in evaluation.videos]
    assert [html.unescape(name) for _, _, name in rows] == names
    for tag in re.findall(r'<(?:form|fieldset|p)[^>]* class="tools"[^>]*>', page):
        assert "hidden" in tag
    assert "<button" not in page.split("<form")[0]


def test_the_matrices_of_the_page_are_those_of_the_csv_files(written):
    evaluation, directory, _ = written
    page = (directory / "report.html").read_text(encoding="utf-8")
    tables = page.split('<table class="matrix"')[1:]
    assert len(tables) == 3
    for output, table in zip(evaluation.outputs, tables, strict=True):
        body = table.split("<tbody>")[1].split("</tbody>")[0]
        rows = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in body.split("</tr>")[:-1]]
        counts = [[int(cell or 0) for cell in row] for row in rows]
        expected = sk.confusion_matrix(evaluation.labels, evaluation.predictions(output), labels=range(9))
        assert counts == expected.tolist()


def test_the_page_says_which_videos_have_pictures_and_why():
    figures = compute_figures(constructed())
    blocks = report_blocks(figures, [])

    def page_of(strips):
        return to_html(live_blocks(figures, blocks, strips), {}, title="films", classes="ABCD")

    without = page_of(None)
    assert "without the flow cache" in without
    assert "<details" not in without
    some = page_of(Strips({0: b"one", 5: b"two"}, {7: "v007.flow.zip: <damaged>"}))
    assert "2 of 32 videos can be opened" in some
    assert "as many as fit into 2 MB, the errors first" in some
    assert "1 video could not be read: v007.flow.zip: &lt;damaged&gt;." in some
    assert re.findall(r"<summary>(.*?)</summary><img [^>]*base64,(\w+)", some) == [
        ("v000.avi", "b25l"), ("v005.avi", "dHdv"),
    ]  # fmt: skip
    assert "as many as" not in page_of(Strips(dict.fromkeys(range(32), b"x")))


def test_pictures_of_the_markdown_exist(written):
    _, directory, _ = written
    files = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (directory / "report.md").read_text(encoding="utf-8"))
    assert len(files) == 6
    assert all((directory / file).is_file() for file in files)


def test_an_earlier_report_leaves_nothing_behind_but_foreign_files(written, tmp_path):
    write_reports(constructed(), tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    single = evaluation_of([0, 1], {"rgb": [0, 1]}, "AB")
    paths = write_reports(single, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine.txt", *(p.name for p in paths)])
    assert "confusion_matrix_rgb.csv" not in {path.name for path in paths}


def test_unusable_history_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="no such history"):
        write_reports(constructed(), tmp_path / "out", tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()


# what it says


def test_sentences_explain_which_classes_each_stream_confuses():
    text = text_of(per_class_blocks(compute_figures(constructed())))
    assert text.index("not told apart") < text.index("| Class")
    assert (
        "RGB cannot tell apart **A** and **B**: of their 16 videos it gets 8 right (50.0 %), "
        "flow 12 (75.0 %) and the fusion 16 (100.0 %). Flow does not confuse them with each other. "
        "The fusion resolves them."
    ) in text
    assert (
        "Flow cannot tell apart **A** and **C**: of their 16 videos it gets 8 right (50.0 %), "
        "RGB 12 (75.0 %) and the fusion 16 (100.0 %). RGB does not confuse them with each other. "
        "The fusion resolves them."
    ) in text
    assert "RGB cannot tell apart the classes of 1 group: 1 resolved by the fusion." in text
    assert "The fusion confuses no group of classes by this measure; it makes no error." in text


def test_sentences_say_what_the_fusion_leaves_unresolved():
    labels = np.repeat(np.arange(3), 6)
    blind = np.tile([0, 1, 2], 6)
    partly = np.where(labels == 2, 2, np.arange(18) % 2)
    resolved_in_part = compute_figures(
        evaluation_of(labels, {"fused": partly, "rgb": blind, "flow": blind}, "ABC")
    )
    text = text_of(per_class_blocks(resolved_in_part))
    assert "The fusion resolves them in part: it still cannot tell apart **A** and **B**." in text
    assert "The fusion cannot tell apart **A** and **B**" in text
    left = compute_figures(evaluation_of(labels, {"fused": blind, "rgb": blind, "flow": labels}, "ABC"))
    assert "The fusion does not resolve them." in text_of(per_class_blocks(left))


def test_report_states_gain_weights_agreement_command_and_notes():
    text = text_of(report_blocks(compute_figures(constructed()), []))
    assert "Fused top-1 is 100.0 %, 25.0 points above the better single stream, RGB with 75.0 %" in text
    assert "the fusion gives RGB 25.0 % and flow 75.0 %" in text
    assert "```\ntwostream-train --config demo.yaml | tee `log`\n```" in text
    assert "- Videos are generated." in text
    assert "Top-5 is left out" in text
    assert "![" not in text
    assert "At least one stream is right on 87.5 %" in text


def test_leak_free_subset_is_reported_where_sources_were_compared():
    shared = np.zeros(32, dtype=bool)
    assert "Sources shared" not in text_of(report_blocks(compute_figures(constructed()), []))
    none = compute_figures(constructed(shared_source=shared))
    assert "No video comes from a source that training saw" in text_of(report_blocks(none, []))
    shared[:8] = True
    some = compute_figures(constructed(shared_source=shared))
    assert "8 of 32 videos come from a source" in text_of(report_blocks(some, []))
    assert summary_table(some).query("subset == 'unshared_sources'")["num_videos"].tolist() == [24] * 5
    every = compute_figures(constructed(shared_source=np.ones(32, dtype=bool)))
    assert "No video is left" in text_of(report_blocks(every, []))
    assert summary_table(every)["subset"].unique().tolist() == ["all"]


def test_single_stream_run(tmp_path):
    labels = np.repeat(np.arange(2), 4)
    evaluation = evaluation_of(labels, {"flow": np.tile([0, 1], 4)}, ("run", "walk"))
    names = {path.name for path in write_reports(evaluation, tmp_path)}
    assert names == set(FILES) - {
        "confusion_matrix_rgb.csv",
        "confusion_matrix_flow.csv",
        "confusion_matrix_streams.png",
        "stream_weights.png",
        "examples.png",
        "curves.png",
    }
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Flow cannot tell apart **run** and **walk**: of their 8 videos it gets 4 right (50.0 %)." in text
    assert not re.search(r"\b(fusion|fused|RGB)\b", text, re.IGNORECASE)
    columns = read_predictions(tmp_path / "predictions.csv").columns
    assert "flow_prediction" not in columns
    assert [name for name in columns if re.fullmatch(r"top_\d", name)] == ["top_1", "top_2"]


def test_one_video_per_class_and_classes_without_videos():
    labels = np.array([0, 1, 3])
    figures = compute_figures(
        evaluation_of(labels, {"fused": labels, "rgb": labels[::-1], "flow": [2, 2, 2]}, "ABCD")
    )
    table = per_class_table(figures)
    absent = table[table["class"] == "C"].iloc[0]
    assert absent["support"] == 0
    assert absent["flow_predicted"] == 3
    blank = [name for name in table if re.search("precision|recall|f1|count", name)]
    assert absent[blank].isna().all()
    row = next(line for line in text_of(per_class_blocks(figures)).splitlines() if line.startswith("| C "))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["C", "0", *"--------"]
    assert summary_table(figures)["mean_class_accuracy"].tolist()[:3] == pytest.approx([1, 1 / 3, 0])
    assert "RGB confuses no group of classes by this measure" in text_of(per_class_blocks(figures))


def test_one_source_group_leaves_the_interval_out():
    figures = compute_figures(constructed(groups=("one",) * 32))
    assert summary_table(figures)[["top1_low", "top1_high"]].isna().all(axis=None)
    text = text_of(report_blocks(figures, []))
    assert "left out, because it takes two source groups" in text
    assert "nan" not in text


def test_never_predicted_class_is_named():
    figures = compute_figures(evaluation_of([0, 0, 1, 1], {"rgb": [0, 0, 0, 0]}, "AB"))
    assert "1 class with videos never predicted; precision and F1 count as 0: **B**." in text_of(
        per_class_blocks(figures)
    )


def test_hundred_and_one_classes_are_all_listed():
    classes = tuple(f"Class{index:03d}" for index in range(101))
    text = text_of(report_blocks(compute_figures(random_evaluation(rows=303, classes=classes)), []))
    assert all(f"| {name} " in text for name in classes)
    assert "the 12 classes with most weight on RGB" in text


def test_many_classes_leave_the_fused_matrix_out_of_the_side_by_side_picture(tmp_path):
    classes = tuple(f"Class{index:03d}" for index in range(25))
    write_reports(random_evaluation(rows=75, classes=classes), tmp_path)
    with (
        Image.open(tmp_path / "confusion_matrix.png") as one,
        Image.open(tmp_path / "confusion_matrix_streams.png") as two,
    ):
        assert one.width < two.width < 2.2 * one.width
    assert len(pd.read_csv(tmp_path / "confusion_matrix_flow.csv").columns) == 26
    assert "on a square root scale" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_needs_no_torch():
    code = "import sys, twostream.reports.write, twostream.reports.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# fusions and calibration


def table_after(text, heading):
    """The cells of the table under a heading of a markdown report, by the first cell of each row."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *rest = rows
    return {row[0]: dict(zip(header, row, strict=True)) for row in rest}


def test_baseline_rows_agree_with_scikit_learn(written):
    evaluation, directory, _ = written
    table = pd.read_csv(directory / "summary.csv").set_index(["output", "subset"])
    baselines = evaluation.baselines()
    rgb, flow = (evaluation.probabilities[name].astype(np.float64) for name in ("rgb", "flow"))
    np.testing.assert_allclose(
        baselines["product"], rgb * flow / (rgb * flow).sum(axis=1, keepdims=True), rtol=1e-5
    )
    labels = evaluation.labels
    for name, values in baselines.items():
        row, predictions = table.loc[(name, "all")], values.argmax(axis=1)
        assert row["top1"] == pytest.approx(sk.accuracy_score(labels, predictions), abs=1e-15)
        assert row["f1_macro"] == pytest.approx(sk.f1_score(labels, predictions, average="macro"))
        assert row["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predictions))
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]


def test_fusions_stand_in_markdown_and_html(written):
    evaluation, directory, _ = written
    summary = pd.read_csv(directory / "summary.csv").query("subset == 'all'").set_index("output")
    text = (directory / "report.md").read_text(encoding="utf-8")
    rows = table_after(text, "Fusions")
    assert list(rows) == ["Fused", "Product", "Mean", "Weighted"]
    for name, row in rows.items():
        figures = summary.loc[name.lower()]
        assert float(row["Top-1"]) == pytest.approx(100 * figures["top1"], abs=0.051)
        assert float(row["F1 (macro)"]) == pytest.approx(100 * figures["f1_macro"], abs=0.051)
        low, high = row["95 % interval"].split(" to ")
        assert float(low) <= float(row["Top-1"]) <= float(high)
    fitted = evaluation.weighted_fusion
    page = (directory / "report.html").read_text(encoding="utf-8")
    weights = f"weighted: RGB {fitted.rgb_weight:.2f}, flow {fitted.flow_weight:.2f}, temperatures RGB "
    temperatures = f"{fitted.rgb_temperature:.2f} and flow {fitted.flow_temperature:.2f}, exponents"
    own = "Fused is the model's own decision. The others are baselines"
    for said in (own, weights + temperatures, "fitted on 98 validation videos."):
        assert said in text
        assert escape(said) in page
    assert "<h2>Fusions</h2>" in page
    assert fitted.flow_weight > fitted.rgb_weight


def test_calibration_of_every_output_agrees_with_torchmetrics_and_torch(written):
    evaluation, directory, _ = written
    summary = pd.read_csv(directory / "summary.csv").query("subset == 'all'").set_index("output")
    rows = table_after((directory / "report.md").read_text(encoding="utf-8"), "Calibration")
    outputs = {**evaluation.probabilities, **evaluation.baselines()}
    assert [name.lower() for name in rows] == list(outputs) == list(summary.index)
    target = torch.from_numpy(evaluation.labels)
    for row, (name, values) in zip(rows.values(), outputs.items(), strict=True):
        scores = torch.from_numpy(values)
        ece = float(multiclass_calibration_error(scores, target, len(evaluation.classes), n_bins=15))
        nll = float(torch.nn.functional.nll_loss(scores.log(), target))
        assert summary.loc[name, "ece"] == pytest.approx(ece, abs=1e-5)
        assert summary.loc[name, "nll"] == pytest.approx(nll, abs=1e-5)
        assert float(row["ECE (%)"]) == pytest.approx(100 * ece, abs=0.051)
        assert float(row["NLL (nats)"]) == pytest.approx(nll, abs=0.0006)


@pytest.mark.parametrize(
    ("fused", "rgb", "said"),
    [
        ([0, 1, 0, 0], [0, 1, 0, 1], "below the better stream and the best baseline: its top-1 of 75.0 % is"),
        ([0, 1, 0, 1], [0, 1, 0, 1], "below neither the better stream nor the best baseline"),
        ([0, 1, 0, 1], [0, 1, 1, 1], "is 25.0 points above RGB with 75.0 %"),
        ([0, 1, 0, 1], [0, 1, 0, 1], "is the same as RGB with 100.0 %"),
    ],
)
def test_the_report_says_whether_the_fusion_loses_to_what_needs_no_training(fused, rgb, said):
    figures = compute_figures(evaluation_of([0, 1, 0, 1], {"fused": fused, "rgb": rgb, "flow": rgb}, "AB"))
    text = text_of(report_blocks(figures, []))
    assert said in text.split("## Fusions")[1].split("\n## ")[0]


def test_the_report_says_that_the_fusion_is_below_the_best_baseline_alone():
    """Each stream is sure where it is right: their product is right everywhere, the fusion above RGB only."""
    labels = np.array([0, 1, 0, 1])
    rgb = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]])
    flow = np.array([[0.4, 0.6], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    outputs = {"fused": one_hot(np.array([0, 1, 0, 0]), 2), "rgb": rgb, "flow": flow}
    figures = compute_figures(
        evaluation_of(labels, outputs_to_predictions(outputs), "AB", probabilities=outputs)
    )
    assert figures.gain.top1 == pytest.approx(0.25)
    assert figures.baseline_gain.over == "product"
    text = text_of(report_blocks(figures, []))
    assert (
        "On these videos it is below the best baseline: its top-1 of 75.0 % is 25.0 points above RGB with "
        "50.0 % (95 % interval"
    ) in text
    assert "25.0 points below product with 100.0 %" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_validation": 0}, "the split has no validation videos to fit it on."),
        ({"num_validation": None}, "this evaluation holds no predictions of validation videos"),
        ({"num_validation": 9, "side": "validation"}, "this is the validation side."),
    ],
)
def test_the_report_says_why_there_is_no_weighted_fusion(changes, said, tmp_path):
    evaluation = constructed(protocol=make_protocol(32, **changes))
    write_reports(evaluation, tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("There is no weighted fusion: ") == 1
        assert said in text
    rows = pd.read_csv(tmp_path / "summary.csv")["output"].tolist()
    assert rows == ["fused", "rgb", "flow", "product", "mean"]


def test_the_terminal_tells_baselines_from_the_models_outputs(written, capsys):
    evaluation, directory, _ = written
    print_summary(evaluation, directory)
    out = capsys.readouterr().out
    for name in ("product", "mean", "weighted"):
        assert f" {name} (baseline) " in out
    assert " fused " in out


# escaping

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: plain(text) != "")


@given(st.lists(names, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_names_survive_markdown_tables(cells):
    table = Table(tuple(f"h{index}" for index in range(len(cells))), (tuple(cells),), frozenset())
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown([table]))
    inner = [tokens[index + 1] for index, token in enumerate(tokens) if token.type == "td_open"]
    assert ["".join(child.content for child in token.children) for token in inner] == [
        plain(c) for c in cells
    ]
    assert all(
        child.type == "text" or child.type == "text_special" for token in inner for child in token.children
    )


@given(names)
@settings(max_examples=60, deadline=None)
def test_names_survive_html(name):
    class Text(HTMLParser):
        found = ""

        def handle_data(self, data):
            self.found += data

    parser = Text()
    page = to_html([Paragraph((Strong(name),))], {}, title=name)
    parser.feed(page.split("<strong>")[1].split("</strong>")[0])
    parser.close()
    assert parser.found == plain(name)


def test_words_with_underscores_stay_readable():
    assert escape_markdown("brush_hair _x_ a|b") == r"brush_hair \_x\_ a\|b"
