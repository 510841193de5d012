"""Classify a video by onnxruntime, flow_cache and numpy alone: python predict_onnx.py model.onnx VIDEO."""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from flow_cache import CacheReader, FlowSettings, Job, Source, StorageSettings, as_path, cache_video, negate


def shares(old, new, area):  # how much of each old pixel is in each new one, (new, old)
    start, pixel = np.arange(new)[:, None] * old / new, np.arange(old)
    if area:
        return (np.minimum(start + old / new, pixel + 1) - np.maximum(start, pixel)).clip(0) * new / old
    return (1 - abs((start + old / new / 2 - 0.5).clip(0, old - 1) - pixel)).clip(0)


def resize(images, size, area=False):  # the last two dimensions; to less than half of a side in steps
    while (old := images.shape[-2:]) != size:
        halves = tuple(o // 2 if o > 2 * n and not area else o for o, n in zip(old, size, strict=True))
        new = size if halves == old else halves
        images = shares(old[0], new[0], area) @ images @ shares(old[1], new[1], area).T
        images = images if area else np.rint(images)
    return images


def see(images, view, whole, frame, size, area=False):  # cut a view out of images (…, H, W), and resize it
    y, x, eighths, flip = view
    sides = [side * eighths // 8 for side in (frame if whole else [min(frame)] * 2)]
    parts = []
    for side, full, place, own in zip(sides, frame, (y, x), images.shape[-2:], strict=True):
        first = min(round(int((full - side) * place) * own / full), own - 1)
        end = max(round((int((full - side) * place) + side) * own / full), first + 1)
        parts.append(slice(first, end))
    seen = resize(images[..., parts[0], parts[1]], tuple(size[::-1]), area)
    return seen[..., ::-1] if flip else seen


def make_clips(name, about, fields, frames):  # fields (N, 2, H, W), frames (N, 3, h, w)
    how, stack, step = about["clips"][name], about["stack"], about["flow"]["step"]
    steps, clips, size, whole = (how[key] for key in ("steps", "clips", "size", "whole"))
    middles = 2 * clips * np.arange(steps) + 2 * np.arange(clips)[:, None] + 1
    rows = [np.unique(row) for row in middles * (len(fields) - stack + 1) // (2 * clips * steps)]
    starts = np.stack([row[np.minimum(np.arange(steps), len(row) - 1)] for row in rows])
    valid = np.arange(steps) < np.array([[len(row)] for row in rows])
    stacks = starts[..., None] + np.arange(stack)
    middle = starts[..., None] + (stack - 1 + step) // 2
    window = (middle + np.arange(how["window"]) - (how["window"] - 1) // 2).clip(0, len(fields) - 1 + step)
    made: dict[str, list[np.ndarray]] = {
        name: [],
        f"{name}_valid": [],
        **({"motion": []} if how["motion"] else {}),
    }
    for view in how["views"]:
        images = see(fields if name == "flow" else frames, view, whole, fields.shape[2:], size).astype(
            np.uint8
        )
        if name == "flow" and view[3]:
            images[:, 0] = negate(images[:, 0])
        clip = images[stacks if name == "flow" else window]
        made[name].append(clip.reshape(*starts.shape, -1, *clip.shape[-2:]))
        made[f"{name}_valid"].append(valid)
        if how["motion"]:
            flat = np.sort(fields.reshape(*fields.shape[:2], -1), axis=2)
            still = flat[..., (flat.shape[2] - 1) // 2, None, None].astype(np.float32)
            speed = np.hypot(*np.moveaxis(fields - still, 1, 0)) * 2 * about["flow"]["bound"] / 255
            cells = [-(-side // 16) for side in size]
            motion = see(speed[stacks].mean(axis=2), view, whole, fields.shape[2:], cells, area=True)
            made["motion"].append(motion.astype(np.float32))
    return {key: np.stack(parts, axis=1).reshape(1, -1, *parts[0].shape[1:]) for key, parts in made.items()}


def predict(model, video):  # probabilities of each output, and the names of the classes
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["twostream"])
    seal = about.pop("sha256")
    if hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest() != seal:
        sys.exit(f"{model}: its classes, flow or other settings were changed after it was exported")
    meta = FlowSettings(**about["flow"]).template(StorageSettings(**about["storage"]))
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # through a file, which rounds flow and frames as in training
        file = Path(folder) / "video.flow.zip"
        cache_video(Job(as_path(video), file, replace(meta, source=Source("video"))), lambda done: None)
        with CacheReader(file) as reader:
            fields = reader.flow(range(reader.num_fields))
            frames = reader.rgb(range(reader.num_frames)).transpose(0, 3, 1, 2) if reader.has_rgb else None
    made = {k: v for name in about["clips"] for k, v in make_clips(name, about, fields, frames).items()}
    inputs = {node.name: made[node.name] for node in session.get_inputs()}
    return dict(zip(about["outputs"], session.run(about["outputs"], inputs), strict=True)), about["classes"]


if __name__ == "__main__":
    outputs, classes = predict(*sys.argv[1:])
    decision = next(iter(outputs.values()))[0]
    print(f"{sys.argv[2]}: {classes[decision.argmax()]} {100 * decision.max():.1f} %")
