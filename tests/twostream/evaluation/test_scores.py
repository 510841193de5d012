"""Scores of other tools: what is read, what is refused, and that nothing in a file is ever run."""

import os
import pickle

import numpy as np
import pytest

from twostream.errors import DataError
from twostream.evaluation.scores import ScoreTable, read_scores, write_scores

CLASSES, VIDEOS = ("NA", "001", "jump, high"), ("a.avi", "b/c.avi", "=1+1", "d\udcff")
VALUES = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], dtype=np.float32)


def table(**changes):
    values = {
        "classes": CLASSES,
        "videos": VIDEOS,
        "probabilities": VALUES,
        "labels": ("NA", "001", "NA", "jump, high"),
        "groups": ("007", "NA", "", "x"),
    }
    return ScoreTable(**values | changes)


def arrays(**changes):
    values = {"videos": np.array(["a", "b"]), "classes": np.array(["x", "y"]), "scores": np.eye(2)}
    return {name: value for name, value in (values | changes).items() if value is not None}


class Harmful:
    """What a pickle can do: call anything."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("changes", [{}, {"labels": None}, {"groups": None, "labels": None}])
def test_npz_round_trip(changes, tmp_path):
    written = table(**changes)
    write_scores(tmp_path / "s.npz", written)
    found = read_scores(tmp_path / "s.npz")
    for name in ("classes", "videos", "labels", "groups"):
        assert getattr(found, name) == getattr(written, name)
    assert np.array_equal(found.probabilities, VALUES)


def test_csv_names_stay_text(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        'video,group,NA,001,"jump, high",label\na,01,0.5,0.25,0.25,001\nNA,,0,1,0,NA\n', encoding="utf-8"
    )
    found = read_scores(path)
    assert found.classes == CLASSES
    assert (found.videos, found.groups, found.labels) == (("a", "NA"), ("01", ""), ("001", "NA"))
    assert np.array_equal(found.probabilities, VALUES[:2])


def test_labels_may_be_indices(tmp_path):
    np.savez(tmp_path / "s.npz", **arrays(labels=np.array([1, 0])))
    assert read_scores(tmp_path / "s.npz").labels == ("y", "x")


def test_logits_are_refused_unless_they_are_said_to_be(tmp_path):
    np.savez(tmp_path / "s.npz", **arrays(scores=np.array([[0.0, np.log(3)], [-800.0, 800.0]])))
    with pytest.raises(DataError, match=r"rows of at least 0 that sum to 1.*for logits add --logits"):
        read_scores(tmp_path / "s.npz")
    assert read_scores(tmp_path / "s.npz", logits=True).probabilities == pytest.approx(
        np.array([[0.25, 0.75], [0, 1]])
    )


@pytest.mark.parametrize("name", ["s.pkl", "s.npz", "s.csv", "s"])
def test_a_pickle_is_never_run(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"pickles|cannot be read as scores|column 'video'"):
        read_scores(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["videos", "classes", "scores", "labels", "groups"])
def test_an_object_in_an_npz_is_never_run(name, tmp_path):
    objects = np.array([Harmful(tmp_path / "ran"), None], dtype=object)
    np.savez(tmp_path / "s.npz", **arrays(**{name: objects}))
    with pytest.raises(DataError, match="Python objects are pickles and never read: save names as text"):
        read_scores(tmp_path / "s.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.eye(3)}, r"expected scores of shape \(2, 2\), got \(3, 3\)"),
        ({"scores": np.array([[1, 0], [np.nan, 1]])}, "finite"),
        ({"scores": None}, "expected arrays videos, classes and scores, got videos, classes"),
        ({"classes": np.array(["x", "x"])}, "two or more classes, each once"),
        ({"classes": np.array([1, 2])}, "classes must be one row of text, got int64"),
        ({"labels": np.array([0, 2])}, r"indices in \[0, 2\)"),
        ({"labels": np.array(["x", "z"])}, "labels that are no class: z"),
        ({"groups": np.array(["g"])}, "expected 2 groups, got 1"),
        ({"videos": np.array([], dtype=str), "scores": np.zeros((0, 2))}, "at least one video"),
    ],
)
def test_what_cannot_be_is_refused(changes, message, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays(**changes))
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x,y\na,1,0\n", "expected a column 'video' and each other column once, got name, x, y"),
        ("video,x,x\na,1,0\n", "each other column once, got video, x, x"),
        ("video,x,y\na,one,0\n", "a number in every column of a class"),
        ("", "cannot be read as scores"),
        ("video,x,y\n", "at least one video"),
    ],
)
def test_unusable_csv_is_refused(text, message, tmp_path):
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "s.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        read_scores(tmp_path / "none.npz")
