"""Pictures: drawn for whatever an evaluation has, readable in size, and without global state."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from twostream.errors import DataError
from twostream.reports import plots

ODD_NAMES = (
    "$x_1$ & <b>",
    'a|b, "c" `d` *e*',
    "走る 🏃",
    "a name that is much too long to fit beside a picture",
    r"\frac",
)


def shape_of(path):
    with Image.open(path) as image:
        image.verify()
        return image.size


def test_odd_names_and_absent_classes_are_drawn(tmp_path):
    matrix = np.diag([3, 2, 0, 1, 4])
    matrix[0, 1] = 2
    plots.plot_confusion_matrices(
        {"fused": matrix, "rgb": matrix, "flow": matrix}, ODD_NAMES, tmp_path / "m.png"
    )
    scores = np.array([0.0, 0.5, np.nan, 1.0, 0.7])
    plots.plot_per_class({"fused": scores, "rgb": scores, "flow": scores}, ODD_NAMES, tmp_path / "f.png")
    weights = np.array([[0.4, 0.6], [1, 0], [np.nan, np.nan], [0, 0], [0.5, 0.5]])
    labels = np.array([0, 1, 3, 4])
    plots.plot_stream_weights(weights, labels, weights[labels], ODD_NAMES, tmp_path / "w.png")
    for name in ("m", "f", "w"):
        assert min(shape_of(tmp_path / f"{name}.png")) > 150


def test_hundred_classes_get_columns_instead_of_one_endless_strip(tmp_path):
    names = [f"class number {index}" for index in range(101)]
    plots.plot_per_class({"rgb": np.linspace(0, 1, 101)}, names, tmp_path / "f.png")
    width, height = shape_of(tmp_path / "f.png")
    assert width > height
    assert height < 1400


def test_matrix_grows_with_the_classes_so_that_labels_do_not_overlap(tmp_path):
    sizes = {}
    for count in (9, 21, 50):
        plots.plot_confusion_matrices(
            {"flow": np.eye(count, dtype=np.int64)},
            [f"c{index}" for index in range(count)],
            tmp_path / "m.png",
        )
        sizes[count] = shape_of(tmp_path / "m.png")[1]
        assert sizes[count] / count > 12  # pixels a class, for letters of about 10
    assert sizes[9] < sizes[21] < sizes[50]


def test_pyplot_is_not_touched(tmp_path):
    plots.plot_per_class({"rgb": np.array([0.1, 0.2])}, ("a", "b"), tmp_path / "f.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def write_history(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_history_merges_rows_of_an_epoch_and_keeps_blanks(tmp_path):
    path = write_history(
        tmp_path / "metrics.csv",
        epoch=[0, 0, 1],
        train_loss=[2.0, None, 1.0],
        val_loss=[None, 3.0, None],
    )
    table = plots.read_history(path)
    assert table.index.tolist() == [0, 1]
    assert table["train_loss"].tolist() == [2.0, 1.0]
    assert table["val_loss"].iloc[0] == 3.0
    assert np.isnan(table["val_loss"].iloc[1])


@pytest.mark.parametrize(
    "columns",
    [
        {"train_loss": [2.0, 1.0]},
        {"val_top1": [None, 0.5]},
        {
            "train_loss": [2.0, 1.0],
            "val_loss": [None, None],
            "val_top1_rgb": [0.1, 0.2],
            "train_top1_flow": [0, 1],
        },
    ],
)
def test_curves_are_drawn_from_what_is_there(tmp_path, columns):
    history = plots.read_history(write_history(tmp_path / "metrics.csv", epoch=[0, 1], lr=[1, 1], **columns))
    assert plots.has_curves(history)
    plots.plot_curves(history, tmp_path / "c.png", best_epoch=1)
    assert min(shape_of(tmp_path / "c.png")) > 300


def test_history_without_curves(tmp_path):
    history = plots.read_history(write_history(tmp_path / "metrics.csv", epoch=[0], lr=[1], val_loss=[None]))
    assert not plots.has_curves(history)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such history"),
        ("", "cannot be read as CSV"),
        ("a,b\n1,2\n", "expected a column 'epoch', got a, b"),
    ],
)
def test_unusable_history_is_refused(tmp_path, text, message):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        plots.read_history(path)


def test_the_fusions_own_loss_stands_in_place_of_the_joint_one(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train_loss,train_loss_rgb,train_loss_fused,val_loss\n1,5.0,2.0,1.5,4.0\n")
    history = plots.read_history(path)
    assert history.loc[1].to_dict() == {"train_loss": 1.5, "train_loss_rgb": 2.0, "val_loss": 4.0}
