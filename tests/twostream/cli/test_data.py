"""`twostream-data`, and what every command says about data that are not whole."""

import csv
import itertools
import json
import warnings

import pytest

from twostream.cli.data import main
from twostream.cli.errors import run_command
from twostream.data.annotations import list_videos, load_annotations
from twostream.data.settings import SplitConfig
from twostream.data.splits import make_split
from twostream.errors import DataWarning


def test_what_a_person_should_know_of_the_data_is_one_line_on_standard_error(capsys):
    def command():
        for name in ("a", "a\nb", "a"):
            warnings.warn(f"no {name}", DataWarning, stacklevel=1)
        return 0

    before = warnings.showwarning
    assert run_command("twostream-train", command) == 0
    output = capsys.readouterr()
    assert output.err == "twostream-train: warning: no a\ntwostream-train: warning: no a b\n"
    assert output.out == ""
    assert warnings.showwarning is before


@pytest.fixture
def root(tmp_path):
    """Videos of two classes, four sources each, three clips a source; they are only listed here."""
    for name in ("fly", "run"):
        for source, clip in itertools.product(range(1, 5), range(1, 4)):
            path = tmp_path / "videos" / name / f"v_{name}_g{source:02d}_c{clip:02d}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {source} {clip}")
    return tmp_path / "videos"


def test_the_split_table_says_the_same_split_again(root, tmp_path, capsys):
    table = tmp_path / "split.csv"
    arguments = [f"--data.root={root}", "--data.split.val_fraction=0.3", "--data.split.seed=4"]
    assert main(["split", *arguments, f"--out={table}"]) == 0
    assert f"{table}: 12 training, 6 validation, 6 test videos (group split" in capsys.readouterr().out
    read = load_annotations(list_videos(root), lists=table)
    made = load_annotations(list_videos(root))
    config = SplitConfig(val_fraction=0.3, seed=4)
    first, again = make_split(made, config), make_split(read, config)
    assert [first.train, first.validation, first.test] == [again.train, again.validation, again.test]
    assert main(["split", *arguments]) == 0
    assert capsys.readouterr().out == table.read_text()


def test_a_table_is_not_overwritten_unasked(root, tmp_path, capsys):
    table = tmp_path / "split.csv"
    table.write_text("mine")
    assert main(["split", f"--data.root={root}", f"--out={table}"]) == 2
    assert "split.csv exists: choose another --out, or --overwrite" in capsys.readouterr().err
    assert table.read_text() == "mine"
    assert main(["split", f"--data.root={root}", f"--out={table}", "--overwrite"]) == 0
    assert table.read_text().startswith("path,label,split,group\n")


def test_a_random_split_is_refused_and_every_leaking_source_is_in_the_json(root, tmp_path, capsys):
    table = tmp_path / "random.csv"
    rows = [f"{video},{video[:3]},{'test' if '_c03' in video else 'train'}" for video in list_videos(root)]
    table.write_text("\n".join(["path,label,split", *rows]))
    arguments = [f"--data.root={root}", f"--data.lists={table}", "--fast"]
    assert main(["check", *arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["leaks"] == [
        {"source": f"{name}_g0{n}", "sides": ["train", "test"], "classes": [name]}
        for name in ("fly", "run")
        for n in range(1, 5)
    ]
    assert main(["split", *arguments[:-1]]) == 2
    assert "8 source groups have videos of one class in training and test" in capsys.readouterr().err


def test_what_a_person_reads(root, capsys):
    (root / "run" / "v_run_g01_c03.avi").write_bytes((root / "fly" / "v_fly_g01_c01.avi").read_bytes())
    (root / "run" / "my own clip.mp4").write_text("a stray")
    (root / "stray.avi").write_text("a stray, too")
    assert main(["check", f"--data.root={root}", "--fast", "--data.groups=auto,video"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["videos", *f"26, of which 25 have a class, below {root}".split()]
    assert any(line.startswith("left out") and "stray.avi" in line for line in lines)
    assert any(
        line.startswith("sources")
        and "_c<clip> (24); every video is its own source (1)); largest: fly_g01 with 3, " in line
        for line in lines
    )
    assert "the same file under several names (1):" in lines
    assert any("fly/v_fly_g01_c01.avi = run/v_run_g01_c03.avi" in line for line in lines)
    assert any("1 file under several names in several classes" in line for line in lines)
    run = next(line.split() for line in lines if line.startswith("run "))
    assert run[:3] == ["run", "13", "5"]
    assert main(["check", f"--data.root={root}", "--fast"]) == 1
    assert "fits 1 of 25 videos, such as run/my own clip.mp4" in capsys.readouterr().out


def test_a_clean_data_set_says_so(root, capsys):
    assert main(["check", f"--data.root={root}", "--fast"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no problems"


def test_settings_come_from_a_configuration_of_the_training_and_arguments_go_before(root, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"data:\n  root: {root}\n  split: {{kind: logo, fold: 2}}\nmodel:\n  hidden: 8\n")
    assert main(["split", f"--config={config}"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["group"] for row in rows if row["split"] == "test"} == {"fly_g02", "run_g02"}
    assert main(["split", f"--config={config}", "--data.split.fold=3"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["group"] for row in rows if row["split"] == "test"} == {"fly_g03", "run_g03"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected"),
        (["check"], "no videos are given"),
        (["check", "--data.root=none"], "data root none is not a folder"),
        (["check", "--config=none.yaml"], "none.yaml cannot be read"),
        (["check", "--config=bad.yaml"], "bad.yaml holds no settings"),
        (["split", "--data.roof=x"], "roof"),
    ],
)
def test_unusable_arguments_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("just words")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_and_mistakes_need_no_torch(modules_after):
    loaded = modules_after("from twostream.cli.data import main\nmain(['check', '--data.root=none'])")
    assert "jsonargparse" in loaded
    assert "torch" not in loaded
