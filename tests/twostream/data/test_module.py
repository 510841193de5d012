import csv
import shutil
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from upath import UPath

from flow_cache import CacheFileError
from twostream.data.loading import load_data
from twostream.data.module import ActionDataModule
from twostream.data.settings import AugmentConfig, DataConfig, SplitConfig, StreamClips
from twostream.errors import DataError, DataWarning
from twostream.settings import STREAMS

from .conftest import VIDEOS, write_cache_file


@pytest.fixture
def root(tmp_path):
    """The folder of the videos; their content does not matter here."""
    for video in VIDEOS:
        path = tmp_path / "videos" / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "videos"


@pytest.fixture
def config(root, make_cache):
    return DataConfig(
        root=str(root),
        cache=str(make_cache()),
        steps=3,
        stack=2,
        size=16,
        batch_size=4,
        workers=0,
        eval_clips=2,
    )


def test_everything_that_a_run_needs_to_know(config):
    data = load_data(config)
    assert data.name == "videos"
    assert data.classes == ("fly", "run", "sit")
    assert [len(part) for part in (data.split.train, data.split.validation, data.split.test)] == [6, 3, 3]
    assert (data.bound, data.step, data.short_side, data.method) == (20.0, 1, 24, "farneback")
    assert data.flow == {
        "method": "farneback",
        "parameters": {"winsize": 15},
        "bound": 20.0,
        "step": 1,
        "short_side": None,
        "size": None,
        "codec": {"codec": "png", "max_error": 1, "quality": 95, "rgb_quality": 95},
    }
    assert data.notes == ()
    assert set(data.entries) == set(VIDEOS)
    assert load_data(replace(config, name="tiny")).name == "tiny"


def test_videos_and_cache_may_be_urls(config):
    url = f"memory://{uuid.uuid4().hex}"
    for name, folder in (("videos", config.root), ("cache", config.cache)):
        for path in Path(folder).rglob("*"):
            if path.is_file():
                target = UPath(f"{url}/{name}") / path.relative_to(folder).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    remote = replace(config, root=f"{url}/videos", cache=f"{url}/cache")
    ours, theirs = load_data(remote), load_data(config)
    assert replace(ours, cache=theirs.cache) == theirs
    for batch, same in zip(
        ActionDataModule(remote, seed=1).train_dataloader(),
        ActionDataModule(config, seed=1).train_dataloader(),
        strict=True,
    ):
        assert all(torch.equal(batch[key], same[key]) for key in same)
    with pytest.raises(DataError, match="memory://none does not exist"):
        load_data(replace(config, cache="memory://none"))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: shutil.copyfile(path.with_name("v_run_g03_c01.flow.zip"), path),
    ],
    ids=["missing", "truncated", "another video"],
)
def test_a_cache_file_that_is_not_what_the_index_says_is_named_at_the_start(config, change):
    change(Path(config.cache) / "run" / "v_run_g02_c01.flow.zip")
    with pytest.raises((DataError, CacheFileError), match="v_run_g02_c01"):
        load_data(config)


def test_batches_of_all_parts(config):
    module = ActionDataModule(config)
    assert module.has_validation
    train = list(module.train_dataloader())
    assert [tuple(batch["flow"].shape) for batch in train] == [(4, 3, 4, 16, 16), (2, 3, 4, 16, 16)]
    assert [tuple(batch["rgb"].shape) for batch in train] == [(4, 3, 3, 16, 16), (2, 3, 3, 16, 16)]
    assert sorted(torch.cat([batch["index"] for batch in train]).tolist()) == list(range(6))
    (validation,) = module.val_dataloader()
    assert tuple(validation["rgb"].shape) == (3, 3, 3, 16, 16)
    test = list(module.test_dataloader())
    assert [tuple(batch["rgb"].shape) for batch in test] == [(2, 2, 3, 3, 16, 16), (1, 2, 3, 3, 16, 16)]
    labels = torch.cat([batch["label"] for batch in test]).tolist()
    assert labels == [video.label for video in module.split.test]
    again = module.evaluation_dataloader("train", clips=5)
    assert next(iter(again))["flow"].shape[:2] == (1, 5)


def test_without_validation_there_is_no_loader(config):
    module = ActionDataModule(replace(config, split=SplitConfig(val_fraction=0)), streams=("flow",))
    assert not module.has_validation
    assert module.val_dataloader() == []
    assert "rgb" not in next(iter(module.train_dataloader()))


def test_the_cache_alone_is_enough(config, root):
    whole = load_data(config)
    for video in VIDEOS:
        (root / video).unlink()
    assert load_data(config).split == whole.split
    alone = load_data(replace(config, root=None))
    assert alone.split == whole.split
    assert alone.name == "cache"


def test_missing_videos_are_counted_and_explained(config, root, make_cache, tmp_path):
    cache = make_cache({v: n for v, n in VIDEOS.items() if "g03" not in v}, name="part")
    with (cache / "failures.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["video", "reason"], ["run/v_run_g03_c01.avi", "no frame decoded"], ["x", "y"]])
    partial = replace(config, cache=str(cache))
    with pytest.raises(DataError) as caught:
        load_data(partial)
    message = str(caught.value)
    assert "lacks 3 of 12 videos, such as " in message
    assert "(1 failed in the precomputation: run/v_run_g03_c01.avi: no frame decoded)" in message
    assert f"flow-cache precompute {root} --out {cache}" in message
    data = load_data(replace(partial, missing_videos="skip"))
    assert len(data.entries) == 9
    assert data.notes[-1].startswith(
        "3 videos left out: 3 not in the flow cache, 0 with fewer than 2 flow fields"
    )
    (cache / "failures.csv").unlink()
    with pytest.raises(DataError, match="lacks 3 of 12 videos"):
        load_data(partial)


def test_short_videos_are_named_or_left_out(config):
    with pytest.raises(
        DataError, match=r"3 of 12 videos have fewer flow fields than data.stack=7: .*c01\.avi \(6\)"
    ):
        load_data(replace(config, stack=7))
    data = load_data(replace(config, stack=7, short_videos="skip"))
    assert len(data.entries) == 9
    assert data.notes[-1].startswith(
        "3 videos left out: 0 not in the flow cache, 3 with fewer than 7 flow fields ("
    )
    with pytest.raises(DataError, match="12 of 12 videos have fewer"):
        load_data(replace(config, stack=50, short_videos="skip"))


def test_videos_that_are_there_only_in_part_are_named(config, make_cache):
    cache = make_cache(dict.fromkeys(VIDEOS, 9), name="gaps", gap=4)
    data = load_data(replace(config, cache=str(cache), stack=4))
    assert data.notes[-1].startswith(
        "12 videos are damaged and in the flow cache only in part: fly/v_fly_g01_c01.avi"
    )
    with pytest.raises(DataError, match=r"12 of 12 videos have fewer flow fields than data.stack=6: .*\(5\)"):
        load_data(replace(config, cache=str(cache), stack=6))


def test_leaving_out_must_not_empty_a_class(config, make_cache):
    cache = make_cache({v: 4 if v.startswith("run") else 9 for v in VIDEOS}, name="short")
    with pytest.raises(
        DataError, match=r"leaving out 0 missing and 4 short videos leaves no training videos for run"
    ):
        load_data(replace(config, cache=str(cache), stack=6, short_videos="skip"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bound": 10.0}, r"differ in bound: 10.0, 20.0"),
        ({"step": 2}, r"differ in step: 1, 2"),
        ({"method": "tvl1"}, r"differ in method: farneback, tvl1"),
        ({"height": 20}, r"differ in short side: 20, 24"),
    ],
)
def test_one_run_has_one_kind_of_flow(config, settings, message):
    write_cache_file(Path(config.cache), "run/v_run_g02_c01.avi", 9, **settings)
    with pytest.raises(DataError, match=message):
        load_data(config)


def test_widths_may_differ(config):
    write_cache_file(Path(config.cache), "run/v_run_g02_c01.avi", 9, width=40)
    assert len(list(ActionDataModule(config).test_dataloader())) == 2


def test_rgb_must_be_in_the_cache(config, make_cache):
    flow_only = replace(config, cache=str(make_cache(name="flow", rgb=False)))
    with pytest.raises(DataError, match=r"12 of 12 cached videos have no RGB frames.*--rgb"):
        load_data(flow_only)
    assert len(load_data(flow_only, ("flow",)).entries) == 12


def test_wrong_paths_are_refused(config, tmp_path):
    (tmp_path / "empty").mkdir()
    empty, missing = str(tmp_path / "empty"), str(tmp_path / "missing")
    for changes, message in (
        ({"cache": None}, "data.cache is not set"),
        ({"cache": missing}, r"flow cache .*missing does not exist; make it with: flow-cache precompute"),
        ({"root": missing}, "missing is not a folder"),
        ({"root": empty, "cache": empty}, r"no videos below .*empty"),
        ({"lists": missing}, r"data.lists .*missing does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(replace(config, **changes))


def test_a_protocol_decides_over_clips_and_views_of_both_streams():
    config = DataConfig(eval_clips=3, protocol="25x10", flow=StreamClips(eval_clips=4, views=2, view="full"))
    assert {config.eval_clips_of(name) for name in STREAMS} == {25}
    assert config.views_of("rgb") == ("centre", 10)
    assert config.views_of("flow") == ("full", 10)
    assert DataConfig(protocol="1x1").eval_clips_of("flow") == 1


@pytest.mark.parametrize("text", ["", "10", "x", "0x1", "3x5", "-1x1", "3x1x1", "3 x 1", "axb"])
def test_other_names_of_protocols_are_refused(text):
    with pytest.raises(DataError, match="is clips x views, such as 10x1"):
        DataConfig(protocol=text)


def test_a_protocol_of_mirrored_views_is_refused_where_left_and_right_matter():
    with pytest.raises(DataError, match="10 evaluation views are mirrored ones too"):
        DataConfig(protocol="10x10", augment=AugmentConfig(flip=0))


@pytest.mark.parametrize("settings", [{"size": 8}, {"batch_size": 0}, {"workers": -2}, {"eval_clips": 0}])
def test_unusable_settings_are_refused(settings):
    (name,) = settings
    with pytest.raises(DataError, match=f"data.{name} must be at least"):
        DataConfig(**settings)
    with pytest.raises(DataError, match=r"^data\.steps must be at least 1, got 0$"):
        DataConfig(steps=0)
    with pytest.raises(DataError, match=r"^data\.stack must be at least 1, got -1$"):
        DataConfig(stack=-1)


def test_kth_clips_come_from_the_frames_that_show_the_action(make_cache, tmp_path):
    names = [f"person{p:02d}_{name}_d1" for name in ("boxing", "walking") for p in (2, 11, 19)]
    cache = make_cache({f"{name}_uncomp.avi": 20 for name in names}, name="kth")
    lists = tmp_path / "sequences_list.txt"
    lists.write_text("".join(f"{name}  frames  3-6, 11-15\n" for name in names))
    config = DataConfig(
        cache=str(cache), lists=str(lists), steps=3, stack=2, size=16, workers=0, eval_clips=9
    )
    module = ActionDataModule(config)
    fields = {int(u) for batch in module.test_dataloader() for u in batch["flow"][..., 0, 8, 8].flatten()}
    assert fields == {100 + first for first in (2, 3, 10, 11, 12)}
    with pytest.raises(DataError, match=r"fewer flow fields than data\.stack=5: .*_uncomp\.avi \(4\)"):
        load_data(replace(config, stack=5))


def test_what_the_lists_name_and_the_disk_lacks_is_said_and_refused_above_the_share(config, tmp_path):
    table = tmp_path / "table.csv"
    rows = [f"{video},{video[:3]},{'test' if 'g01' in video else 'train'}" for video in VIDEOS]
    table.write_text("\n".join(["path,label,split", *rows, "gone/v_gone_g01_c01.avi,gone,train"]))
    config = replace(config, lists=str(table))
    with pytest.raises(DataError, match=r"1 of 13 listed videos .* classes have no videos at all: gone"):
        load_data(config)
    with pytest.warns(DataWarning, match="1 of 13 listed videos"):
        data = load_data(replace(config, max_missing=0.1))
    assert "1 of 4 listed classes have no videos here." in data.notes


def test_every_setting_is_a_flag_and_documented():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=DataConfig)
    help_text = parser.format_help()
    arguments = [
        "--data.root=x", "--data.cache=y", "--data.split.kind=kfold", "--data.split.fold=2",
        "--data.augment.flip=0", "--data.stack=7", "--data.short_videos=skip", "--data.format=hmdb",
    ]  # fmt: skip
    config = parser.instantiate(parser.parse_args(arguments)).data
    assert config == DataConfig(
        root="x",
        cache="y",
        split=SplitConfig(kind="kfold", fold=2),
        augment=AugmentConfig(flip=0),
        stack=7,
        short_videos="skip",
        format="hmdb",
    )
    for words in (
        "consecutive flow fields",
        "share of each class's videos",
        "probability of a horizontal flip",
    ):
        assert words in " ".join(help_text.split())


class Recorder(L.LightningModule):
    """Train one number on the mean of the batches and remember which videos came."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return (self.weight - batch["rgb"].float().mean() / 255 - batch["flow"].float().std()) ** 2

    def validation_step(self, batch, _):
        self.log("val", batch["rgb"].float().mean(), batch_size=len(batch["label"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(config, folder, epochs, resume=None):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    model = Recorder()
    trainer.fit(model, datamodule=ActionDataModule(config, seed=3), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("balance", [False, True])
def test_a_resumed_run_sees_the_same_clips_as_an_uninterrupted_one(config, root, tmp_path, balance):
    if balance:
        (root / "fly/v_fly_g01_c01.avi").unlink()  # so that one class has fewer videos than the others
    config = replace(config, workers=1, balance=balance)
    whole = fit(config, tmp_path, 3)
    fit(config, tmp_path, 1)
    resumed = fit(config, tmp_path, 3, tmp_path / "1.ckpt")
    orders = {str([videos for seen, videos in whole.seen if seen == epoch]) for epoch in range(3)}
    assert len(orders) == 3
    assert resumed.seen == [item for item in whole.seen if item[0] >= 1]
    assert torch.equal(resumed.weight, whole.weight)


def test_balanced_training_has_every_class_alike_and_leaves_evaluation_alone(config, root):
    (root / "fly/v_fly_g01_c01.avi").unlink()
    data = ActionDataModule(replace(config, balance=True))
    counts = Counter(record.label for record in data.split.train)
    assert len(set(counts.values())) > 1
    loader = data.train_dataloader()
    drawn = Counter(int(label) for batch in loader for label in batch["label"])
    assert sum(drawn.values()) == len(data.split.train)
    assert max(drawn.values()) - min(drawn.values()) <= 1
    for loader, part in ((data.val_dataloader(), "validation"), (data.test_dataloader(), "test")):
        seen = [int(index) for batch in loader for index in batch["index"]]
        assert seen == list(range(len(getattr(data.split, part))))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_takes_the_same_from_torchs_generator_whether_its_workers_were_there_or_not(config, workers):
    """So that dropout is the same in a resumed run, whose workers have just started."""
    loader = ActionDataModule(replace(config, workers=workers)).train_dataloader()
    draws = []
    for _ in range(2):  # workers start in the first epoch and are kept for the second
        torch.manual_seed(0)
        for batch in loader:
            assert len(batch["label"]) > 0
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]
