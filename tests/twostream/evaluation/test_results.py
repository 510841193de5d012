"""The values an evaluation is made of: what they accept, what they refuse, what they say."""

import dataclasses

import numpy as np
import pytest

from twostream.errors import DataError
from twostream.evaluation.results import Evaluation, Protocol


def make_protocol(**changes):
    values = {
        "dataset": "JHMDB",
        "split": "split 1",
        "side": "test",
        "num_train": 650,
        "num_videos": 3,
        "clips_per_video": 5,
        "streams": ("rgb", "flow"),
        "checkpoint": "best.ckpt",
        "epoch": 12,
        "flow": "TV-L1, bound 20 px, step 1",
        "groups": "the film named at the start of the file name",
        "seed": 3,
        "command": "twostream-train",
    }
    return Protocol(**values | changes)


def make_evaluation(**changes):
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    values = {
        "protocol": make_protocol(),
        "classes": ("run", "walk"),
        "videos": ("a.avi", "b.avi", "c.avi"),
        "groups": ("g1", "g1", "g2"),
        "labels": np.array([0, 1, 1]),
        "probabilities": {"rgb": probabilities, "flow": probabilities, "fused": probabilities},
    }
    return Evaluation(**values | changes)


def streams_of(first):
    """Outputs of two classes that all give the first class these probabilities."""
    first = np.asarray(first, dtype=np.float64)
    values = np.stack([first, 1 - first], axis=1)
    return {"rgb": values, "flow": values, "fused": values}


def test_line_names_every_condition_in_one_line():
    line = make_protocol(dataset="my\ndata").line()
    assert "\n" not in line
    assert line == (
        "Protocol: data set my data; split 1; test side of 3 videos (trained on 650); 5 clips per video, "
        "probabilities averaged; video level; streams rgb + flow fused; checkpoint best.ckpt (epoch 12); "
        "flow TV-L1, bound 20 px, step 1; groups the film named at the start of the file name; seed 3."
    )


def test_line_names_clips_and_views():
    same = make_protocol(clips_per_video=250, sampling={"rgb": "25x10", "flow": "25x10"}).line()
    assert "; 250 clips per video (25x10: clips x views), probabilities averaged; " in same
    own = make_protocol(clips_per_video=20, sampling={"rgb": "1x2", "flow": "10x2"}).line()
    assert "; 20 clips per video (clips x views: rgb 1x2, flow 10x2), probabilities averaged; " in own


def test_line_of_a_single_stream_and_clip():
    line = make_protocol(streams=("rgb",), clips_per_video=1, epoch=None, flow="", groups="").line()
    assert "1 clip per video; video level; streams rgb alone; checkpoint best.ckpt; seed 3." in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "frame"}, "level: expected 'video' or 'clip', got 'frame'"),
        ({"streams": ()}, "streams: expected"),
        ({"streams": ("depth",)}, "streams: expected"),
        ({"num_videos": 0}, "num_videos must be at least 1, got 0"),
        ({"num_validation": -1}, "num_validation must be at least 0, got -1"),
        ({"clips_per_video": 0}, "clips_per_video must be at least 1, got 0"),
    ],
)
def test_protocol_refuses(changes, message):
    with pytest.raises(DataError, match=message):
        make_protocol(**changes)


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_evaluation().classes = ()


def test_outputs_are_ordered_with_the_decision_first():
    evaluation = make_evaluation()
    assert evaluation.outputs == ("fused", "rgb", "flow")
    assert evaluation.decision == "fused"
    assert evaluation.streams == ("rgb", "flow")


def test_single_stream_decides():
    evaluation = make_evaluation(probabilities={"flow": np.full((3, 2), 0.5)})
    assert evaluation.decision == "flow"
    assert evaluation.streams == ("flow",)
    assert evaluation.predictions().tolist() == [0, 0, 0]  # ties go to the lowest index


def test_arrays_get_their_documented_types():
    evaluation = make_evaluation(
        labels=np.array([0, 1, 1], dtype=np.int32),
        stream_weights=np.full((3, 2), 0.5, dtype=np.float64),
        shared_source=[True, False, False],
    )
    assert evaluation.labels.dtype == np.int64
    assert evaluation.probabilities["rgb"].dtype == np.float32
    assert evaluation.stream_weights.dtype == np.float32
    assert evaluation.shared_source.dtype == np.bool_


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1])}, r"labels: expected shape \(3,\), got \(2,\)"),
        ({"labels": np.array([0, 1, 2])}, r"labels: expected values in \[0, 2\), got 0 to 2"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, "labels: expected int64, got float64"),
        ({"groups": ("g",)}, r"groups: expected shape \(3,\), got \(1,\)"),
        ({"classes": ("run", "run")}, "classes: expected two or more unique names"),
        ({"classes": ("run",)}, "classes: expected two or more unique names"),
        ({"videos": ("a.avi", "a.avi", "c.avi")}, "each video once"),
        ({"videos": ()}, "at least one video"),
        ({"videos": ("a.avi", "b.avi")}, r"num_videos: expected shape \(3,\), got \(2,\)"),
        ({"probabilities": {}}, "probabilities: expected"),
        ({"probabilities": {"fused": np.full((3, 2), 0.5)}}, "probabilities: expected"),
        ({"probabilities": {"rgb": np.full((3, 3), 1 / 3)}}, r"expected shape \(3, 2\), got \(3, 3\)"),
        ({"probabilities": {"rgb": np.full((3, 2), 3.0)}}, "sum off by 5"),
        ({"probabilities": {"rgb": np.array([[1.5, -0.5]] * 3)}}, "least value of -0.5"),
        ({"probabilities": {"rgb": np.full((3, 2), np.nan)}}, "expected finite values"),
        ({"stream_weights": np.ones((3, 3))}, r"stream_weights: expected shape \(3, 2\), got \(3, 3\)"),
        ({"stream_weights": -np.ones((3, 2))}, "stream_weights: expected finite values of at least 0"),
        ({"shared_source": np.ones(2, bool)}, r"shared_source: expected shape \(3,\), got \(2,\)"),
        ({"validation_labels": np.array([0])}, "expected both or neither, got one"),
        (
            {"validation_labels": np.array([], int), "validation_probabilities": streams_of([])},
            "validation_labels: expected at least one video",
        ),
        (
            {"validation_labels": np.array([2]), "validation_probabilities": streams_of([0.5])},
            r"validation_labels: expected values in \[0, 2\), got 2 to 2",
        ),
        (
            {"validation_labels": np.array([0]), "validation_probabilities": streams_of([0.5, 0.6])},
            r"validation_probabilities\['fused'\]: expected shape \(1, 2\), got \(2, 2\)",
        ),
        (
            {"validation_labels": np.array([0]), "validation_probabilities": {"rgb": np.full((1, 2), 0.5)}},
            r"validation_probabilities: expected the outputs .*, got \['rgb'\]",
        ),
        (
            {
                "protocol": make_protocol(num_validation=2),
                "validation_labels": np.array([0]),
                "validation_probabilities": streams_of([0.5]),
            },
            r"num_validation: expected shape \(2,\), got \(1,\)",
        ),
    ],
)
def test_evaluation_refuses(changes, message):
    with pytest.raises(DataError, match=message):
        make_evaluation(**changes)


def test_clips_of_one_video_may_repeat_its_name_at_clip_level():
    evaluation = make_evaluation(
        protocol=make_protocol(level="clip", num_videos=2), videos=("a.avi", "a.avi", "c.avi")
    )
    assert len(evaluation.videos) == 3


def test_baselines_are_computed_from_the_two_streams():
    outputs = {
        "fused": np.array([[0.1, 0.9]] * 3),
        "rgb": np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]),
        "flow": np.array([[0.7, 0.3], [0.4, 0.6], [0.6, 0.4]]),
    }
    evaluation = make_evaluation(probabilities=outputs)
    found = evaluation.baselines()
    assert list(found) == ["product", "mean"]
    assert found["product"][:, 0] == pytest.approx([0.7, 0.36 / 0.42, 0.12 / 0.44])
    assert found["mean"][:, 0] == pytest.approx([0.6, 0.65, 0.4])
    assert evaluation.weighted_fusion is None
    assert evaluation.outputs == ("fused", "rgb", "flow")


def test_weighted_baseline_is_fitted_on_validation_alone():
    """RGB is right there and flow guesses; on the evaluated videos it is the other way round."""
    labels = np.tile([0, 1], 20)
    right = np.where(labels == 0, 0.8, 0.2)
    right[::8] = 1 - right[::8]
    guess = np.where(np.arange(40) % 4 < 2, 0.8, 0.2)
    validation = {**streams_of(right), "flow": streams_of(guess)["flow"]}
    truth = np.array([0.1, 0.9, 0.9])
    evaluation = make_evaluation(
        protocol=make_protocol(num_validation=40),
        labels=np.array([1, 0, 0]),
        probabilities={**streams_of(truth), "rgb": streams_of(1 - truth)["rgb"]},
        validation_labels=labels.astype(np.int32),
        validation_probabilities=validation,
    )
    fitted = evaluation.weighted_fusion
    assert fitted is not None
    assert fitted.num_videos == 40
    assert fitted.rgb_weight > 0.9
    found = evaluation.baselines()
    assert list(found) == ["product", "mean", "weighted"]
    assert found["weighted"].argmax(axis=1).tolist() == evaluation.predictions("rgb").tolist()
    assert evaluation.validation_labels.dtype == np.int64
    assert evaluation.validation_probabilities["flow"].dtype == np.float32


def test_a_single_stream_has_no_baselines():
    alone = {"flow": np.full((3, 2), 0.5)}
    assert make_evaluation(probabilities=alone).baselines() == {}
    validated = make_evaluation(
        probabilities=alone,
        validation_labels=np.array([1]),
        validation_probabilities={"flow": np.full((1, 2), 0.5)},
    )
    assert validated.weighted_fusion is None
