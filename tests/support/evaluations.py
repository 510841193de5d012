"""Evaluations of made-up models that know something: for tests of reports and of comparisons."""

import numpy as np

from twostream.evaluation.results import Evaluation, Protocol

CLASSES = ("brush_hair", "catch", "clap", "golf", "jump", "pick", "run")


def softmax(values):
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def made_up_scores(labels, classes, skill, generator):
    """Return probabilities of a model that gives the label `skill` more than the noise."""
    return softmax(generator.normal(size=(len(labels), classes)) + skill * np.eye(classes)[labels])


def made_up_evaluation(
    seed=0,
    *,
    rows=84,
    groups=14,
    classes=CLASSES,
    data_seed=0,
    split="split 1",
    validation=40,
    streams=("rgb", "flow"),
):
    """Make an evaluation; `data_seed` and `split` say which videos it is of, `seed` what the model answers."""
    videos = np.random.default_rng(data_seed)
    labels = np.concatenate([np.arange(len(classes)), videos.integers(0, len(classes), rows - len(classes))])
    group = np.sort(videos.integers(0, groups, rows))
    names = [
        f"{classes[label]}/film{number:02d}_{row:03d}.avi"
        for row, (label, number) in enumerate(zip(labels, group, strict=True))
    ]
    generator = np.random.default_rng((seed, data_seed))
    skills = {"rgb": 1.2, "flow": 1.0, "fused": 2.0}
    outputs = ("fused", *streams) if len(streams) > 1 else streams
    weights = generator.random((rows, 1)) if len(streams) > 1 else None
    known = generator.integers(0, len(classes), validation)
    two = len(streams) > 1
    return Evaluation(
        protocol=Protocol(
            dataset="films",
            split=split,
            side="test",
            num_train=200,
            num_videos=rows,
            clips_per_video=2,
            streams=streams,
            checkpoint="best.ckpt",
            epoch=3,
            flow="tvl1",
            groups="the film",
            seed=seed,
            command="twostream-train",
            notes=("Videos are made up.",),
            num_validation=validation if two else None,
        ),
        classes=tuple(classes),
        videos=tuple(names if split == "split 1" else [f"{split[-1]}/{name}" for name in names]),
        groups=tuple(f"film{number:02d}" for number in group),
        labels=labels,
        probabilities={
            name: made_up_scores(labels, len(classes), skills[name], generator) for name in outputs
        },
        stream_weights=np.hstack([weights, 1 - weights]) if two else None,
        shared_source=videos.random(rows) < 0.25,
        validation_labels=known if two else None,
        validation_probabilities={
            name: made_up_scores(known, len(classes), skills[name], generator) for name in outputs
        }
        if two
        else None,
    )
