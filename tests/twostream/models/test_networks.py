"""Backbones of timm and of torchvision's video nets, and real weights of each kind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from twostream.errors import CheckpointError, ConfigError
from twostream.models.backbone import Backbone
from twostream.models.convolutions import BATCH_NORM
from twostream.models.networks import find_network

WEIGHTS = Path(__file__).parents[4] / "shared" / "data" / "weights"


def weights_file(name: str) -> Path:
    path = WEIGHTS / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def read(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto", "densenet121"]
)
@pytest.mark.parametrize(("height", "width"), [(96, 64), (128, 160)])
def test_timm_models_give_levels_at_strides_16_and_32(name: str, height: int, width: int) -> None:
    backbone = Backbone(f"timm:{name}", in_channels=10).eval()
    with torch.no_grad():
        local, semantic = backbone(torch.rand(1, 10, height, width))
    assert local.shape == (1, backbone.local_dim, height // 16, width // 16)
    assert semantic.shape == (1, backbone.semantic_dim, height // 32, width // 32)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_timm_semantic_level_is_what_the_model_pools(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(name).eval()
    torch.save(reference.state_dict(), tmp_path / "whole.pth")
    backbone = Backbone(f"timm:{name}", weights=str(tmp_path / "whole.pth")).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images)[1], reference.forward_features(images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "tf_efficientnet_lite0"])
def test_every_parameter_of_a_timm_backbone_is_trained(name: str) -> None:
    """Layers after the last features (head convolutions behind the pooling, classifiers) are not there."""
    backbone = Backbone(f"timm:{name}").train()
    sum(level.sum() for level in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_a_file_needs_no_layers_that_the_features_do_not_use(tmp_path: Path) -> None:
    state = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    torch.save(state, tmp_path / "other_head.pth")
    torch.save(
        {k: v for k, v in state.items() if k.startswith(("conv_stem", "bn1", "blocks"))},
        tmp_path / "trunk.pth",
    )
    for file in ("other_head.pth", "trunk.pth"):
        backbone = Backbone("timm:mobilenetv3_small_050", weights=str(tmp_path / file))
        torch.testing.assert_close(
            backbone.state_dict()["network.conv_stem.weight"], state["conv_stem.weight"]
        )
    del state["blocks.0.0.conv_dw.weight"]
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(
        CheckpointError, match=r"timm's mobilenetv3_small_050: missing blocks\.0\.0\.conv_dw\.weight;"
    ):
        Backbone("timm:mobilenetv3_small_050", weights=str(tmp_path / "damaged.pth"))


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:resnetv2_50", "timm:densenet121"])
def test_frozen_batch_norm_of_timm_stays(name: str) -> None:
    """Folded with its activation where that is safe, else held."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    backbone = Backbone(name, freeze_batch_norm=True).train()
    held = {
        key: value.clone()
        for prefix, module in backbone.named_modules()
        if isinstance(module, BATCH_NORM)
        for key, value in module.state_dict(prefix=f"{prefix}.").items()
    }
    before = backbone(images)[1]
    sum(level.mean() for level in backbone(images)).backward()
    torch.testing.assert_close(backbone(images)[1], before)
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-3).step()
    for key, value in held.items():
        assert torch.equal(backbone.state_dict()[key], value)


def test_timm_names_and_tags() -> None:
    assert Backbone("timm:tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)
    assert find_network("timm:tf_efficientnet_b0.ap_in1k").statistics("DEFAULT")[0] == [0.5, 0.5, 0.5]
    with pytest.raises(ConfigError, match=r"unknown backbone 'timm:resnt18'.*did you mean timm:resnet18"):
        Backbone("timm:resnt18")
    with pytest.raises(
        ConfigError, match=r"timm's resnet18 has no weights 'a1_in2k'.*did you mean .*a1_in1k"
    ):
        Backbone("timm:resnet18.a1_in2k")
    with pytest.raises(
        ConfigError, match=r"neither a file nor known for resnet18; expected 'none', 'imagenet'"
    ):
        Backbone("timm:resnet18", weights="in99k")


def test_weights_that_expect_another_input_are_named_with_the_backbone() -> None:
    """A checkpoint is used again by the backbone's name, without the name of the weights it started from."""
    with pytest.raises(ConfigError, match=r"another input.*timm:tf_efficientnet_b0\.ap_in1k"):
        Backbone("timm:tf_efficientnet_b0", weights="ap_in1k")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_models_without_both_levels_are_refused(name: str) -> None:
    network = find_network(f"timm:{name}")
    whole = timm.create_model(name)
    whole.feature_info = [level for level in whole.feature_info if level["reduction"] != 32]
    with pytest.raises(ConfigError, match="no features at strides 16 and 32"):
        network.load("none", build=lambda _, __: whole)


def test_models_of_one_image_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not take images of 3x96x96"):
        Backbone("timm:swin_tiny_patch4_window7_224")


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("timm:resnet18", "imagenet", "DEFAULT"),
        ("timm:resnet18", "a1_in1k", "a1_in1k"),
        ("mc3_18", "kinetics", "DEFAULT"),
    ],
)
def test_a_failed_download_says_what_to_do(name: str, weights: str, expected: str) -> None:
    def refuse(_: str, tag: str | None) -> nn.Module:
        assert tag == expected
        raise RuntimeError("no\nconnection")

    with pytest.raises(
        CheckpointError, match=r"could not download .*\(no connection\).*--model\.weights PATH"
    ):
        find_network(name).load(weights, build=refuse)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("r3d_18", (8, 16)), ("mc3_18", (8, 16)), ("r2plus1d_18", (8, 16)), ("s3d", (16, 32))],
)
def test_video_nets_give_maps_of_a_window(name: str, strides: tuple[int, int]) -> None:
    backbone = Backbone(name, in_channels=24).eval()
    assert backbone.mean == (0.43216, 0.394666, 0.37645)
    with torch.no_grad():
        levels = backbone(torch.rand(2, 24, 64, 96))
    for level, stride, dim in zip(levels, strides, (backbone.local_dim, backbone.semantic_dim), strict=True):
        assert level.shape == (2, dim, 64 // stride, 96 // stride)


def pooled_input(network: nn.Module, layer: str, run: Callable[[], object]) -> Tensor:
    """Return what a layer of a network is given."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["r3d_18", "s3d"])
def test_frames_of_a_window_keep_their_order(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "whole.pth")
    backbone = Backbone(name, in_channels=24, weights=str(tmp_path / "whole.pth")).eval()
    frames = torch.rand(1, 8, 3, 64, 64)
    video = frames.transpose(1, 2)
    if name == "s3d":
        with torch.no_grad():
            expected = reference.features(video)
    else:
        expected = pooled_input(reference, "avgpool", lambda: reference(video))
    with torch.no_grad():
        semantic = backbone(frames.flatten(1, 2))[1]
    torch.testing.assert_close(semantic, expected.mean(dim=2), rtol=1e-4, atol=1e-5)


def test_video_nets_take_whole_rgb_frames_and_long_enough_windows() -> None:
    with pytest.raises(
        ConfigError, match=r"mc3_18 takes windows of RGB frames, 3 channels each, got 10 channels"
    ):
        Backbone("mc3_18", in_channels=10)
    with pytest.raises(ConfigError, match=r"s3d does not take images of 6x32x32 .* take longer windows"):
        Backbone("s3d", in_channels=6)
    with pytest.raises(ConfigError, match="expected 'none', 'kinetics', KINETICS400_V1"):
        Backbone("mc3_18", weights="imagenet")


def test_importing_the_models_does_not_import_timm() -> None:
    code = "import sys, twostream.models.two_stream; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


@pytest.mark.real_data
def test_real_lite2_answers_like_the_whole_model() -> None:
    path = weights_file("tf_efficientnet_lite2_fp16.pth")
    reference = timm.create_model("tf_efficientnet_lite2").eval()
    reference.load_state_dict(read(path))
    backbone = Backbone("timm:tf_efficientnet_lite2", weights=str(path)).eval()
    assert backbone.semantic_dim == 1280
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        semantic = backbone(images)[1]
        logits = reference.classifier(semantic.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.real_data
def test_real_mobilenet_answers_like_the_whole_network() -> None:
    path = weights_file("mobilenet_v2_imagenet.pth")
    reference = torchvision.models.mobilenet_v2(weights=None).eval()
    reference.load_state_dict(read(path))
    backbone = Backbone("mobilenet_v2", weights=str(path)).eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        logits = reference.classifier(backbone(images)[1].mean(dim=(2, 3)))
        torch.testing.assert_close(logits, reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.real_data
def test_real_video_net_answers_like_the_whole_network() -> None:
    path = weights_file("mc3_18_features_fp16.pth")
    reference = torchvision.models.video.mc3_18(weights=None).eval()
    assert {*reference.load_state_dict(read(path), strict=False).missing_keys} == {"fc.weight", "fc.bias"}
    backbone = Backbone("mc3_18", in_channels=12, weights=str(path)).eval()
    frames = torch.rand(1, 4, 3, 64, 64)
    expected = pooled_input(reference, "avgpool", lambda: reference(frames.transpose(1, 2)))
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(frames.flatten(1, 2))[1], expected.mean(dim=2), rtol=1e-4, atol=1e-4
        )


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "channels", "file"),
    [
        ("timm:tf_efficientnet_lite2", 3, "tf_efficientnet_lite2_fp16.pth"),
        ("mobilenet_v2", 10, "mobilenet_v2_imagenet.pth"),
        ("mc3_18", 12, "mc3_18_features_fp16.pth"),
    ],
)
def test_real_weights_are_folded_faithfully_and_stay_frozen(name: str, channels: int, file: str) -> None:
    path = str(weights_file(file))
    images = torch.rand(2, channels, 64, 96)
    plain = Backbone(name, channels, path).eval()
    frozen = Backbone(name, channels, path, frozen=True).train()
    assert not [module for module in frozen.modules() if isinstance(module, BATCH_NORM)]
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    head = nn.Linear(frozen.semantic_dim, 2)
    optimizer = torch.optim.SGD([*frozen.parameters(), *head.parameters()], lr=0.1, weight_decay=0.1)
    head(frozen(images)[1].mean(dim=(2, 3))).sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    with torch.no_grad():
        for found, expected in zip(frozen(images), plain(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
