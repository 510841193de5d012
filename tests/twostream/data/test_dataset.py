import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_cache import CacheFileError, CacheReader, read_index
from twostream.data.annotations import VideoRecord
from twostream.data.batches import ClipLoader, ClipSampler, Waiting
from twostream.data.dataset import ClipDataset, ClipKey
from twostream.data.settings import AugmentConfig, DataConfig
from twostream.errors import DataError, TwoStreamError

from .conftest import VIDEOS, write_cache_file


def make_dataset(cache, **settings):
    entries = {entry.video: entry for entry in read_index(cache)}
    records = [VideoRecord(path, i % 3, path) for i, path in enumerate(sorted(entries))]
    given = {
        name: settings.pop(name)
        for name in ("training", "clips", "seed", "streams", "motion", "window", "open_cache")
        if name in settings
    }
    config = DataConfig(**{"steps": 3, "stack": 2, "size": 16, **settings})
    return ClipDataset(records, cache, entries, config=config, **given)


def same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


def test_the_centre_clip_holds_the_right_fields_and_frames(make_cache):
    dataset = make_dataset(make_cache({"a/x.avi": 12}))
    clip = dataset[0]
    assert clip["flow"].shape == (3, 4, 16, 16)
    assert clip["rgb"].shape == (3, 3, 16, 16)
    assert clip["flow"].dtype == clip["rgb"].dtype == torch.uint8
    assert (clip["label"], clip["index"]) == (0, 0)
    # N = 12, L = 2: 11 starts, the middles of three segments are 1, 5 and 9; u0 v0 u1 v1.
    values = clip["flow"][:, :, 8, 8].tolist()
    assert values == [[100 + s, 200 - s, 101 + s, 199 - s] for s in (1, 5, 9)]
    frames = clip["rgb"][:, 0].float().mean(dim=(1, 2)) / 4
    assert [round(value) for value in frames.tolist()] == [2, 6, 10]


def test_a_dense_window_is_read_and_what_does_not_fit_is_padding(make_cache):
    cache = make_cache({"a/x.avi": 12, "a/y.avi": 4})
    dataset = make_dataset(cache, sampling="dense", stride=2, clips=3)
    clips, short = dataset[0], dataset[1]
    fields = clips["flow"][:, :, 0, 8, 8] - 100
    assert fields.tolist() == [[0, 2, 4], [3, 5, 7], [6, 8, 10]]  # N = 12, L = 2: 11 starts, 7 windows
    assert clips["flow_valid"].all()
    assert (short["flow"][:, :, 0, 8, 8] - 100).tolist() == [[0, 2, 2]] * 3
    assert short["rgb_valid"].tolist() == [[True, True, False]] * 3
    drawn = make_dataset(cache, sampling="dense", stride=2, training=True, augment=AugmentConfig(flip=0))[
        ClipKey(3, 0)
    ]
    first = int(drawn["flow"][0, 0, 8, 8])
    assert drawn["flow"][:, 0, 8, 8].tolist() == [first, first + 2, first + 4]


def test_clips_of_a_video_get_a_leading_dimension(make_cache):
    cache = make_cache({"a/x.avi": 12})
    three = make_dataset(cache, clips=3)[0]
    assert three["flow"].shape == (3, 3, 4, 16, 16)
    assert three["rgb"].shape == (3, 3, 3, 16, 16)
    assert make_dataset(cache, clips=1)[0]["flow"].shape == (1, 3, 4, 16, 16)
    assert torch.equal(three["flow"][1], make_dataset(cache)[0]["flow"])
    assert torch.equal(three["rgb"][1], make_dataset(cache)[0]["rgb"])


def test_clips_lie_in_the_frames_that_show_the_action(make_cache):
    cache = make_cache({"a/x.avi": 30})
    entries = {entry.video: entry for entry in read_index(cache)}
    record = VideoRecord("a/x.avi", 0, "x", spans=((10, 14), (20, 23)))
    config = DataConfig(steps=4, stack=2, size=16, augment=AugmentConfig(flip=0))
    evaluated = ClipDataset([record], cache, entries, config=config, clips=5)
    training = ClipDataset([record], cache, entries, config=config, training=True)
    clips = [evaluated[0], *(training[ClipKey(epoch, 0)] for epoch in range(20))]
    seen = {int(value) - 100 for clip in clips for value in clip["flow"].reshape(-1, 4, 16, 16)[:, 0, 8, 8]}
    assert seen == {10, 11, 12, 20, 21}  # field t and the one after it lead to frame t + 2


@pytest.mark.parametrize("step", [1, 2])
def test_no_clip_reaches_across_a_gap(make_cache, step):
    """Frames are missing before frame 6: no field leads from frame 5 to frame 6, and no stack sees both sides."""
    cache = make_cache({"a/x.avi": 12}, gap=6, step=step)
    shape = {"steps": 4, "stack": 3}
    datasets = [
        make_dataset(cache, **shape, training=True, augment=AugmentConfig(flip=0)),
        make_dataset(cache, **shape, clips=5),
    ]
    seen = set()
    for clip in (*(datasets[0][ClipKey(epoch, 0)] for epoch in range(20)), datasets[1][0]):
        for stack in clip["flow"].reshape(-1, 6, 16, 16):
            first, *others = [int(value) - 100 for value in stack[0::2, 8, 8]]
            assert others == [first + 1, first + 2]
            seen.add(first)
    assert seen == {*range(4 - step), *range(6, 10)}
    with pytest.raises(
        DataError, match=r"stack of 7 flow fields does not fit into a video of .* in 2 parts of at most 6"
    ):
        make_dataset(cache, steps=2, stack=7)[0]


def test_a_flip_negates_u_in_a_batch(make_cache):
    cache = make_cache({"a/x.avi": 12})
    plain, flipped = (
        make_dataset(
            cache, training=True, augment=AugmentConfig(crop="none", flip=flip, brightness=0, contrast=0)
        )[0]
        for flip in (0, 1)
    )
    assert torch.equal(flipped["flow"][:, 0::2].int(), 256 - plain["flow"][:, 0::2].int())
    assert torch.equal(flipped["flow"][:, 1::2], plain["flow"][:, 1::2])


def test_only_the_wanted_stream_is_read(make_cache):
    cache = make_cache()
    both = make_dataset(cache, training=True)[ClipKey(3, 5)]

    def refuse(self, indices):
        raise AssertionError("not wanted")

    for wanted, unwanted in (("flow", "rgb"), ("rgb", "flow")):
        one_sided = type("OneSidedReader", (CacheReader,), {unwanted: refuse})
        dataset = make_dataset(cache, training=True, streams=(wanted,), open_cache=one_sided)
        clip = dataset[ClipKey(3, 5)]
        assert unwanted not in clip
        assert torch.equal(clip[wanted], both[wanted])


def test_fields_are_decoded_once(make_cache):
    asked = []

    class Recorder(CacheReader):
        def flow(self, indices):
            asked.append(list(indices))
            return super().flow(indices)

    dataset = make_dataset(make_cache({"a/x.avi": 4}), clips=5, open_cache=Recorder)
    assert dataset[0]["flow"].shape == (5, 3, 4, 16, 16)
    assert asked == [[0, 1, 2, 3]]


def test_clips_depend_on_seed_epoch_and_video_alone(make_cache):
    cache = make_cache()
    dataset = make_dataset(cache, training=True)
    same(dataset[ClipKey(2, 4)], make_dataset(cache, training=True)[ClipKey(2, 4)])
    same(dataset[0], dataset[ClipKey(0, 0)])
    first = dataset[ClipKey(2, 4)]["rgb"]
    assert not torch.equal(first, dataset[ClipKey(3, 4)]["rgb"])
    assert not torch.equal(first, make_dataset(cache, training=True, seed=1)[ClipKey(2, 4)]["rgb"])
    evaluation = make_dataset(cache)
    same(evaluation[ClipKey(2, 4)], evaluation[ClipKey(3, 4)])


def batches(dataset, workers, epochs):
    loader = ClipLoader(
        dataset, ClipSampler(len(dataset), shuffle=True, seed=7), batch_size=5, workers=workers, keep=True
    )
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        yield from loader


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_batches_do_not_depend_on_the_number_of_workers(make_cache):
    dataset = make_dataset(make_cache(), training=True)
    alone = list(batches(dataset, 0, 2))
    assert [len(batch["label"]) for batch in alone] == [5, 5, 2] * 2
    assert alone[0]["flow"].shape == (5, 3, 4, 16, 16)
    assert alone[0]["label"].dtype == alone[0]["index"].dtype == torch.int64
    for workers in (1, 4):
        for expected, batch in zip(alone, batches(dataset, workers, 2), strict=True):
            same(expected, batch)
    # The epoch reached the clips: a video looks different in the second one.
    place = [batch["index"].tolist().index(0) for batch in alone if 0 in batch["index"]]
    clips = [batch["rgb"][i] for batch, i in zip((b for b in alone if 0 in b["index"]), place, strict=True)]
    assert not torch.equal(*clips)


def test_the_loop_counts_how_long_it_waits_for_batches():
    """Reading a clip takes two seconds of this clock, what the loop does with a batch seven."""

    class Slow(torch.utils.data.Dataset):
        now = 0.0

        def __len__(self):
            return 5

        def __getitem__(self, key):
            self.now += 2
            return {"index": key.video}

    dataset = Slow()
    waiting = Waiting(lambda: dataset.now)
    loader = ClipLoader(
        dataset, ClipSampler(5, shuffle=False), batch_size=2, workers=0, keep=False, waiting=waiting
    )
    for _ in loader:
        dataset.now += 7
    assert (waiting.seconds, dataset.now) == (10.0, 31.0)


def damage(path):
    data = bytearray(path.read_bytes())
    for offset in range(3000, len(data) - 2000, 50):
        data[offset] ^= 0xFF
    path.write_bytes(data)


AFTER_OPENCV = """
import sys, cv2, numpy as np
from flow_cache import as_path, read_index
from twostream.data.annotations import VideoRecord
from twostream.data.batches import ClipLoader, ClipSampler
from twostream.data.dataset import ClipDataset
cv2.setNumThreads(2)
cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (0, 0), 5)  # its pool of threads is there now
entries = {entry.video: entry for entry in read_index(sys.argv[1])}
dataset = ClipDataset([VideoRecord(video, 0, "") for video in entries], as_path(sys.argv[1]), entries)
loader = ClipLoader(dataset, ClipSampler(len(dataset), shuffle=False), batch_size=2, workers=1, keep=False)
print(sum(len(batch["label"]) for batch in loader), cv2.getNumThreads())
"""


def test_workers_start_after_opencv_has_used_its_threads(make_cache):
    command = [sys.executable, "-c", AFTER_OPENCV, str(make_cache())]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.split() == [str(len(VIDEOS)), "2"], run.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_in_one_line(make_cache, workers):
    cache = make_cache()
    dataset = make_dataset(cache)
    path = cache / "run" / "v_run_g02_c01.flow.zip"
    damage(path)
    with pytest.raises(CacheFileError) as caught:
        list(batches(dataset, workers, 1))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CacheFileError, match="v_run_g02_c01"):
        list(batches(dataset, workers, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def take_another_video(path):
    shutil.copyfile(path.with_name("v_run_g03_c01.flow.zip"), path)


def make_again(path):
    """The same video, with as many fields of other flow."""
    write_cache_file(path.parents[1], "run/v_run_g02_c01.avi", VIDEOS["run/v_run_g02_c01.avi"], bound=10.0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "no such cache file"),
        (truncate, r"v_run_g02_c01\.flow\.zip"),
        (take_another_video, r"was replaced .*video run/v_run_g03_c01.avi, expected run/v_run_g02_c01.avi"),
        (make_again, r"was replaced .*bound 10.0, expected 20.0"),
    ],
    ids=["missing", "truncated", "another video", "made again"],
)
def test_a_file_that_changes_while_a_training_runs_is_named(make_cache, workers, change, reason):
    """In the next epoch at the latest, with workers that have read the old one; no clip of the wrong flow is seen."""
    cache = make_cache()
    dataset = make_dataset(cache, training=True)
    running = batches(dataset, workers, 2)
    for _ in range(3):
        next(running)
    change(cache / "run" / "v_run_g02_c01.flow.zip")
    with pytest.raises(CacheFileError, match=reason) as caught:
        list(running)
    assert "v_run_g02_c01.flow.zip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_of_an_earlier_version_fits_its_files(make_cache):
    cache = make_cache({"a/x.avi": 9})
    (entry,) = read_index(cache)
    old = replace(entry, partial="unknown")
    dataset = ClipDataset(
        [VideoRecord("a/x.avi", 0, "")], cache, {"a/x.avi": old}, config=DataConfig(steps=3, stack=2, size=16)
    )
    same(dataset[0], make_dataset(cache)[0])


class Deadly(torch.utils.data.Dataset):
    """A data set of which one item ends the process that reads it, as the kernel does when memory is short."""

    def __len__(self):
        return 8

    def __getitem__(self, key):
        if key.video == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"index": key.video}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_killed_loader_process_is_an_error_in_one_line():
    loader = ClipLoader(Deadly(), ClipSampler(8, shuffle=False), batch_size=1, workers=2, keep=True)
    with pytest.raises(
        TwoStreamError, match=r"loader process was killed by signal 9.*data\.workers"
    ) as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_a_short_video_is_refused(make_cache):
    dataset = make_dataset(make_cache({"a/x.avi": 4}), steps=2, stack=5)
    with pytest.raises(DataError, match="stack of 5"):
        dataset[0]


def test_training_has_one_clip(make_cache):
    with pytest.raises(ValueError, match="clips=3"):
        make_dataset(make_cache({"a/x.avi": 4}), training=True, clips=3)


def test_datasets_can_be_pickled(make_cache):
    dataset = make_dataset(make_cache({"a/x.avi": 9}), training=True)
    same(dataset[0], pickle.loads(pickle.dumps(dataset))[0])


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 5), st.booleans())
def test_processes_share_the_clips_out(length, processes, epoch, shuffle):
    samplers = [
        ClipSampler(length, shuffle=shuffle, seed=1, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    drawn = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(sampler)
        assert all(key.epoch == epoch for key in keys)
        drawn.append([key.video for key in keys])
    together = sorted(video for videos in drawn for video in videos)
    assert set(together) == set(range(length))
    if shuffle:
        assert len({len(videos) for videos in drawn}) == 1
        assert len(together) < length + processes
    else:
        assert together == list(range(length))
        assert drawn[0] == list(range(0, length, processes))


def test_epochs_and_seeds_shuffle_differently():
    def order(seed, epoch):
        sampler = ClipSampler(50, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return [key.video for key in sampler]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_the_order_and_the_first_clip_have_different_generators():
    """Seeds are padded with zeros: [seed, epoch] and [seed, epoch, 0] would be one."""
    assert np.random.default_rng([3, 1]).random() == np.random.default_rng([3, 1, 0]).random()
    assert np.random.default_rng([3, 1]).random() != np.random.default_rng([3, 1, 0 + 1]).random()


def keys_of(labels, epoch, processes=1, seed=0):
    """Draw a balanced epoch; the keys of each process."""
    drawn = []
    for rank in range(processes):
        sampler = ClipSampler(
            len(labels), shuffle=True, seed=seed, rank=rank, world_size=processes, balance=labels
        )
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
        assert len(drawn[-1]) == len(sampler)
    return drawn


LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60)


@settings(max_examples=60)
@given(LABELS, st.integers(0, 5))
def test_a_balanced_epoch_has_every_class_alike_and_no_video_twice_while_another_waits(labels, epoch):
    (keys,) = keys_of(labels, epoch)
    assert len(keys) == len(labels)
    assert all(key.epoch == epoch for key in keys)
    assert len(set(keys)) == len(keys)  # a video that is drawn again is another clip
    classes = Counter(labels[key.video] for key in keys)
    times = Counter(key.video for key in keys)
    counts = [classes[label] for label in set(labels)]
    assert max(counts) - min(counts) <= 1
    for label in set(labels):
        own = [times[video] for video, other in enumerate(labels) if other == label]
        assert max(own) - min(own) <= 1
    for video, count in times.items():
        assert sorted(key.repeat for key in keys if key.video == video) == list(range(count))


@settings(max_examples=40)
@given(LABELS, st.integers(1, 5), st.integers(0, 3))
def test_processes_share_a_balanced_epoch_out(labels, processes, epoch):
    drawn = keys_of(labels, epoch, processes)
    assert len({len(keys) for keys in drawn}) == 1
    (whole,) = keys_of(labels, epoch)
    interleaved = [key for keys in zip(*drawn, strict=True) for key in keys]
    assert interleaved[: len(whole)] == whole
    assert drawn == keys_of(labels, epoch, processes)


def test_over_balanced_epochs_classes_are_equally_frequent_and_so_are_the_videos_of_each():
    labels = [0] * 17 + [1] * 5 + [2] * 3
    times = Counter(key.video for epoch in range(600) for key in keys_of(labels, epoch)[0])
    for label, size in Counter(labels).items():
        for video in (place for place, other in enumerate(labels) if other == label):
            assert times[video] / 600 == pytest.approx(len(labels) / 3 / size, rel=0.15)


def test_balanced_epochs_and_seeds_draw_differently():
    labels = [0] * 30 + [1] * 5
    drawn = {tuple(keys_of(labels, epoch, seed=seed)[0]) for epoch in range(3) for seed in range(3)}
    assert len({tuple(key.video for key in keys) for keys in drawn}) == 9


def test_a_video_that_is_drawn_again_is_another_clip(make_cache):
    cache = make_cache()
    dataset = make_dataset(cache, training=True)
    first, again = dataset[ClipKey(2, 4)], dataset[ClipKey(2, 4, 1)]
    same(first, dataset[ClipKey(2, 4, 0)])
    same(again, make_dataset(cache, training=True)[ClipKey(2, 4, 1)])
    assert again["index"] == first["index"]
    assert not torch.equal(first["rgb"], again["rgb"])


def test_ranks_must_exist():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        ClipSampler(5, shuffle=False, rank=2, world_size=2)
