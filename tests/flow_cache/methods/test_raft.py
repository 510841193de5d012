"""RAFT with random weights, against torchvision's network called directly."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from torchvision.models.optical_flow import raft_large, raft_small

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods.registry import get_method


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(raft_small().state_dict(), path)
    return str(path)


def raw(weights, first, second):
    """Call the network on grey frames (N, H, W) as they are."""
    model = raft_small().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    pair = [
        torch.from_numpy(frames.astype(np.float32) / 127.5 - 1)[:, None].repeat(1, 3, 1, 1)
        for frames in (first, second)
    ]
    with torch.inference_mode():
        return model(*pair, num_flow_updates=2)[-1].numpy()


def make(weights, **parameters):
    return get_method("raft", preset="small", weights=weights, updates=2, **parameters)


def test_is_torchvisions_network(weights, stack):
    frames = stack(3, 136, 144, 1.0, 0.5)
    flow = make(weights)(frames)
    assert flow.shape == (2, 2, 136, 144)
    assert flow.dtype == np.float32
    assert np.allclose(flow, raw(weights, frames[:-1], frames[1:]), atol=1e-4)
    assert np.abs(flow).mean() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(129, 150), (60, 200), (8, 9)])
def test_frames_of_any_size_are_padded_and_cut_back(weights, stack, height, width):
    frames = stack(2, height, width, 0.5, 0.25)
    padding = []
    for side in (height, width):
        missing = max(-(-side // 8) * 8, 128) - side
        padding.append((missing // 2, missing - missing // 2))
    padded = np.pad(frames, ((0, 0), *padding), mode="edge")
    (top, _), (left, _) = padding
    expected = raw(weights, padded[:1], padded[1:])[:, :, top : top + height, left : left + width]
    flow = make(weights)(frames)
    assert flow.shape == (1, 2, height, width)
    assert np.allclose(flow, expected, atol=1e-4)


def test_pairs_steps_floats_and_threads_agree(weights, stack):
    frames = stack(4, 128, 128, 0.5, 0.25)
    cores = torch.get_num_threads()
    flow = make(weights)(frames, step=2)
    assert flow.shape == (2, 2, 128, 128)
    assert np.array_equal(flow, make(weights).pairs(frames[:2], frames[2:]))
    assert np.array_equal(flow, make(weights)(frames.astype(np.float32), step=2))
    assert np.allclose(flow, make(weights, threads=2)(frames, step=2), atol=1e-4)
    assert np.array_equal(flow[1:], make(weights)(frames[1:], step=2))
    assert torch.get_num_threads() == cores


def test_parameters_name_the_file_by_its_checksum(weights):
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    parameters = make(weights).parameters.as_dict()
    assert parameters == {"model": "small", "weights": weights, "weights_sha256": digest, "updates": 2}
    assert get_method("raft", **parameters).parameters.as_dict() == parameters
    with pytest.raises(ArgumentError, match=f"its SHA-256 is {digest}, expected 00ff"):
        make(weights, weights_sha256="00ff")


def test_a_name_is_resolved_and_downloaded(monkeypatch):
    asked = []

    def load(url, **_):
        asked.append(url)
        return raft_large().state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", load)
    method = get_method("raft")
    assert method.parameters.as_dict()["weights"] == "C_T_SKHT_V2"
    assert "raft_large_C_T_SKHT_V2" in asked[0]


def test_without_a_network_a_name_is_refused(monkeypatch):
    def load(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", load)
    with pytest.raises(ArgumentError, match=r"C_T_V2 cannot be downloaded from https://.*name the file"):
        get_method("raft", weights="C_T_V2")


def test_unusable_weights_are_refused(weights, tmp_path):
    with pytest.raises(ArgumentError, match=r"weights must be one of C_T_V1.* or a file, got 'best'"):
        make("best")
    with pytest.raises(ArgumentError, match=r"small.pth holds no weights of raft large"):
        get_method("raft", weights=weights)
    other = tmp_path / "other.pth"
    torch.save([1, 2], other)
    with pytest.raises(ArgumentError, match=r"other.pth holds no weights of raft small"):
        make(str(other))
    other.write_bytes(b"no such thing")
    with pytest.raises(ArgumentError, match=r"other.pth is not a state dict that torch can load"):
        make(str(other))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "huge"}, "model must be large or small, got 'huge'"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"weights": 3}, "weights must be a string, got 3"),
        ({"preset": "opencv"}, "unknown preset 'opencv'; choose one of large, small"),
    ],
)
def test_unusable_parameters_are_refused(parameters, message):
    with pytest.raises(ArgumentError, match=message):
        get_method("raft", **parameters)


def test_a_gpu_that_is_not_there_is_refused(weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' needs an NVIDIA GPU"):
        make(weights, device="cuda")
    assert make(weights, device="auto").backend == "torch-cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"there is no cuda:2; torch sees 2 device\(s\)"):
        make(weights, device="cuda:2")
    assert make(weights, device="auto").backend == "torch-cuda"


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(weights, stack):
    if not torch.cuda.is_available():
        (pytest.fail if os.environ.get("FLOW_CACHE_REQUIRE_GPU") else pytest.skip)("needs a GPU")
    frames = stack(3, 136, 144, 1.0, 0.5)
    difference = make(weights, device="cuda")(frames) - make(weights)(frames)
    assert np.abs(difference).max() < 0.05


def test_other_methods_do_without_torch():
    code = (
        "import sys; from flow_cache import get_method; get_method('tvl1'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
