"""Videos worth a look: which are chosen, and that what is shown is what the network computes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from twostream import evaluate, load_checkpoint
from twostream.data.module import data_of
from twostream.evaluation.examples import choose_examples
from twostream.evaluation.predictions import find_examples
from twostream.evaluation.results import Evaluation, Protocol
from twostream.inference.attention import look
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream


def evaluation_of(
    labels: list[int], fused: list[tuple[int, float]], rgb: list[int], flow: list[int]
) -> Evaluation:
    """Three classes; what each output said of each video, the fused with its confidence."""

    def one_hot(said: list[int], confidence: list[float]) -> np.ndarray:
        rest = (1 - np.array(confidence)) / 2
        values = np.tile(rest[:, None], (1, 3))
        values[np.arange(len(said)), said] = confidence
        return values.astype(np.float32)

    ones = [0.9] * len(labels)
    protocol = Protocol(
        dataset="films", split="split 1", side="test", num_train=9, num_videos=len(labels), clips_per_video=1,
        streams=("rgb", "flow"), checkpoint="best.ckpt", epoch=1, flow="TV-L1", groups="none", seed=0, command="",
    )  # fmt: skip
    return Evaluation(
        protocol=protocol,
        classes=("a", "b", "c"),
        videos=tuple(f"{number}.avi" for number in range(len(labels))),
        groups=tuple(map(str, range(len(labels)))),
        labels=np.array(labels),
        probabilities={
            "fused": one_hot([said for said, _ in fused], [confidence for _, confidence in fused]),
            "rgb": one_hot(rgb, ones),
            "flow": one_hot(flow, ones),
        },
    )


def test_errors_come_by_confidence_and_each_confusion_once() -> None:
    labels = [0, 0, 0, 1, 2]
    fused = [(1, 0.6), (1, 0.8), (2, 0.5), (0, 0.7), (2, 0.9)]
    evaluation = evaluation_of(labels, fused, [0] * 5, [0] * 5)
    assert choose_examples(evaluation, 6) == (1, 3, 2, 4)
    assert choose_examples(evaluation, 2) == (1, 4)


def test_right_answers_come_first_where_both_streams_are_wrong() -> None:
    labels = [0, 1, 2, 2]
    fused = [(0, 0.9), (1, 0.5), (2, 0.6), (2, 0.7)]
    evaluation = evaluation_of(labels, fused, [0, 0, 2, 2], [0, 0, 0, 2])
    assert choose_examples(evaluation) == (1, 2, 0)


@pytest.mark.parametrize("spatial", ["attention", "average"])
def test_weights_are_those_of_the_network(spatial: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="mobilenet_v3_small", weights="none", hidden=8, spatial=spatial)
    model = TwoStream(config, 3, 2, 20.0).eval()
    clip = {
        "rgb": torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (4, 4, 64, 96), dtype=torch.uint8),
        "rgb_valid": torch.tensor([True, True, True, False]),
        "flow_valid": torch.tensor([True, True, True, True]),
        "label": 1,
        "index": 0,
    }
    looks = look(model, clip)
    with torch.inference_mode():
        output = model({key: value[None] for key, value in clip.items() if isinstance(value, torch.Tensor)})
    for name, seen in looks.items():
        expected = output.streams[name]
        np.testing.assert_allclose(seen.steps, expected.attention[0].numpy(), atol=1e-5)
        assert seen.steps.sum() == pytest.approx(1, abs=1e-5)
        assert seen.pictures.shape == (4, 64, 96, 3)
        assert seen.steps[seen.step] == seen.steps.max()
        if spatial == "average":
            assert seen.places is None
        else:
            np.testing.assert_allclose(seen.places, expected.spatial[0].numpy(), atol=1e-5)
            np.testing.assert_allclose(seen.places.sum(axis=(1, 2)), 1, atol=1e-5)
    assert looks["rgb"].steps[3] == 0
    np.testing.assert_array_equal(looks["rgb"].pictures, clip["rgb"].permute(0, 2, 3, 1).numpy())


def test_a_still_clip_is_white() -> None:
    config = ModelConfig(streams=("flow",), backbone="mobilenet_v3_small", weights="none", hidden=8)
    model = TwoStream(config, 3, 2, 20.0).eval()
    clip = {
        "flow": torch.full((2, 4, 64, 64), 128, dtype=torch.uint8),
        "flow_valid": torch.ones(2, dtype=torch.bool),
    }
    assert (look(model, clip)["flow"].pictures >= 254).all()


def test_examples_of_a_run(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / "checkpoints" / "best.ckpt")
    data = data_of(checkpoint.card.data_config(), checkpoint.card.model)
    evaluation = evaluate(checkpoint, data, device="cpu")
    examples = find_examples(checkpoint, data, evaluation, "cpu")
    assert [example.video for example in examples] == list(choose_examples(evaluation))
    alone = find_examples(checkpoint, data, dataclasses.replace(evaluation), "cpu", count=1)
    np.testing.assert_allclose(alone[0].looks["rgb"].steps, examples[0].looks["rgb"].steps, atol=1e-5)
    assert (tiny_run / "evaluation" / "examples.png").stat().st_size > 10_000
    assert "(examples.png)" in (tiny_run / "evaluation" / "report.md").read_text()
