import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twostream.data.sampling import (
    even_starts,
    middle_frames,
    random_starts,
    runs_inside,
    stack_fields,
    window_frames,
    without_repeats,
)
from twostream.data.settings import ClipShape
from twostream.errors import DataError

shapes = st.builds(ClipShape, st.integers(1, 16), st.integers(1, 10))
dense = st.builds(ClipShape, st.integers(1, 16), st.integers(1, 10), st.just("dense"), st.integers(1, 6))
uniform = st.builds(ClipShape, st.integers(1, 16), st.integers(1, 10), st.just("uniform"))


def videos_of(shapes):
    """Clips, and numbers of fields that are enough for a stack."""
    return st.tuples(shapes, st.integers(0, 80)).map(lambda drawn: (drawn[0], drawn[0].stack + drawn[1]))


videos = videos_of(shapes)


@given(videos_of(shapes | dense | uniform), st.integers(0, 2**32), st.integers(1, 10), st.integers(1, 4))
def test_every_index_exists_and_steps_follow_in_time(video, seed, clips, step):
    shape, fields = video
    for starts in (
        random_starts(fields, shape, np.random.default_rng(seed)),
        *even_starts(fields, shape, clips),
    ):
        assert starts.shape == (shape.steps,)
        assert starts.dtype == np.int64
        assert np.all(np.diff(starts) >= 0)
        stacks = stack_fields(starts, shape)
        assert stacks.shape == (shape.steps, shape.stack)
        assert stacks.min() >= 0
        assert stacks.max() < fields
        assert np.all(np.diff(stacks, axis=1) == 1)
        frames = middle_frames(starts, shape, step)
        assert np.all(frames >= stacks[:, 0])
        assert np.all(frames <= stacks[:, -1] + step)  # the frames that the stack covers


@given(videos, st.integers(0, 2**32))
def test_each_step_stays_in_its_segment(video, seed):
    shape, fields = video
    places = fields - shape.stack + 1
    steps = np.arange(shape.steps)
    for starts in (random_starts(fields, shape, np.random.default_rng(seed)), even_starts(fields, shape)[0]):
        assert np.all(starts >= steps * places // shape.steps)
        assert np.all(starts <= (steps + 1) * places // shape.steps)
        if places >= shape.steps:
            assert len(set(starts.tolist())) == shape.steps


@given(videos_of(shapes | uniform), st.integers(1, 12))
def test_evaluation_clips_are_ordered_and_symmetric_in_time(video, clips):
    shape, fields = video
    starts = even_starts(fields, shape, clips)
    assert starts.shape == (clips, shape.steps)
    assert np.all(np.diff(starts, axis=0) >= 0)
    # Played backwards, the video gives the same clips backwards, up to rounding.
    backwards = fields - shape.stack - starts[::-1, ::-1]
    assert np.all(np.abs(starts - backwards) <= 1)


@given(videos_of(shapes | dense | uniform))
def test_an_odd_number_of_clips_contains_the_centre_clip(video):
    shape, fields = video
    np.testing.assert_array_equal(even_starts(fields, shape, 3)[1], even_starts(fields, shape)[0])


@given(
    shapes | dense | uniform,
    st.lists(st.integers(0, 14), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.integers(1, 4),
)
def test_no_stack_reaches_across_a_gap(shape, lengths, seed, clips):
    """Runs of fields with one number left out between them, as step 1 leaves it; runs may be empty."""
    ends = np.cumsum([length + 1 for length in lengths]).tolist()
    runs = [range(end - 1 - length, end - 1) for end, length in zip(ends, lengths, strict=True)]
    allowed = {start for run in runs for start in run if start + shape.stack - 1 in run}
    if not allowed:
        with pytest.raises(DataError, match=f"stack of {shape.stack} .* video of {sum(lengths)} fields"):
            even_starts(runs, shape)
        return
    for starts in (
        random_starts(runs, shape, np.random.default_rng(seed)),
        *even_starts(runs, shape, clips),
    ):
        assert set(starts.tolist()) <= allowed
        assert np.all(np.diff(starts) >= 0)
    if shape.sampling != "dense":
        assert even_starts(runs, shape, len(allowed))[:, 0].min() == min(allowed)


@given(videos_of(shapes | dense | uniform), st.integers(0, 2**32))
def test_a_video_of_one_run_is_sampled_as_by_its_number_of_fields(video, seed):
    shape, fields = video
    by_runs, by_number = (
        (random_starts(given, shape, np.random.default_rng(seed)), even_starts(given, shape, 3))
        for given in ((range(fields),), fields)
    )
    for one, other in zip(by_runs, by_number, strict=True):
        np.testing.assert_array_equal(one, other)


@given(videos_of(dense), st.integers(0, 2**32), st.integers(1, 10))
def test_a_dense_window_has_its_stride_and_as_many_steps_as_fit(video, seed, clips):
    shape, fields = video
    places = fields - shape.stack + 1
    starts = np.vstack(
        [random_starts(fields, shape, np.random.default_rng(seed)), even_starts(fields, shape, clips)]
    )
    packed, valid = without_repeats(starts)
    expected = min(shape.steps, 1 + (places - 1) // shape.stride)
    for row, counts in zip(packed, valid, strict=True):
        assert counts.sum() == expected
        assert np.all(np.diff(row[counts]) == shape.stride)


@given(videos_of(dense), st.integers(2, 10))
def test_dense_windows_reach_from_the_first_place_to_the_last(video, clips):
    shape, fields = video
    starts = even_starts(fields, shape, clips)
    assert starts[0, 0] == 0
    assert starts[-1, -1] == fields - shape.stack if len(set(starts[:, 0])) > 1 else starts[-1, 0] == 0
    assert np.ptp(np.diff(starts[:, 0])) <= 1
    middle = even_starts(fields, shape)[0]
    before, after = middle[0], fields - shape.stack - middle[-1]
    assert 0 <= after - before <= 1 or before == 0


@given(dense, st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 2**32), st.integers(1, 5))
def test_a_dense_window_lies_inside_one_run(shape, lengths, seed, clips):
    ends = np.cumsum([length + 1 for length in lengths]).tolist()
    runs = [range(end - 1 - length, end - 1) for end, length in zip(ends, lengths, strict=True)]
    if max(lengths) < shape.stack:
        return
    most = min(shape.steps, 1 + (max(lengths) - shape.stack) // shape.stride)
    for starts in (random_starts(runs, shape, np.random.default_rng(seed)), *even_starts(runs, shape, clips)):
        assert any(starts[0] in run and starts[-1] + shape.stack - 1 in run for run in runs)
        assert len(set(starts.tolist())) == most


def test_many_draws_reach_every_dense_window():
    shape, rng = ClipShape(3, 2, "dense", 2), np.random.default_rng(0)
    drawn = {tuple(random_starts(12, shape, rng).tolist()) for _ in range(200)}
    assert drawn == {(start, start + 2, start + 4) for start in range(7)}


@given(videos_of(uniform), st.integers(0, 2**32))
def test_uniform_steps_are_equally_far_apart_and_cover_the_video(video, seed):
    shape, fields = video
    places = fields - shape.stack + 1
    starts = random_starts(fields, shape, np.random.default_rng(seed))
    if shape.steps > 1:
        assert np.ptp(np.diff(starts)) <= 1
    assert starts[0] * shape.steps <= places
    assert (places - starts[-1]) * shape.steps <= places + shape.steps
    others = even_starts(fields, ClipShape(shape.steps, shape.stack), 3)
    np.testing.assert_array_equal(even_starts(fields, shape, 3), others)


def test_the_windows_of_the_module():
    shape = ClipShape(steps=3, stack=3, sampling="dense")
    assert even_starts(11, shape, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert even_starts(11, shape).tolist() == [[3, 4, 5]]


def test_a_short_video_has_the_steps_of_a_dense_window_that_fit():
    shape = ClipShape(steps=5, stack=3, sampling="dense", stride=2)
    packed, valid = without_repeats(even_starts(8, shape, 2))
    assert packed.tolist() == [[0, 2, 4, 4, 4], [1, 3, 5, 5, 5]]
    assert valid.tolist() == [[True, True, True, False, False]] * 2


def test_many_draws_reach_every_start():
    shape, rng = ClipShape(steps=3, stack=2), np.random.default_rng(0)
    drawn = {int(start) for _ in range(300) for start in random_starts(12, shape, rng)}
    assert drawn == set(range(11))


class Ones:
    """A generator at the upper end of its range."""

    def random(self, count):
        return np.full(count, np.nextafter(1, 0))

    def integers(self, low, high):
        return high - 1


@given(videos)
def test_rounding_never_leaves_the_video(video):
    shape, fields = video
    assert random_starts(fields, shape, Ones()).max() <= fields - shape.stack


def test_the_diagram_of_the_module():
    shape = ClipShape(steps=3, stack=3)
    starts = even_starts(11, shape)[0]
    assert starts.tolist() == [1, 4, 7]
    assert stack_fields(starts, shape).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert middle_frames(starts, shape).tolist() == [2, 5, 8]


@settings(max_examples=20)
@given(shapes, st.integers(0, 9))
def test_too_few_fields_are_refused(shape, fields):
    if fields < shape.stack:
        for sample in (lambda: even_starts(fields, shape), lambda: random_starts(fields, shape, Ones())):
            with pytest.raises(DataError, match=f"stack of {shape.stack} .* video of {fields} fields"):
                sample()


@pytest.mark.parametrize(("steps", "stack"), [(0, 1), (1, 0), (-1, 5)])
def test_clips_have_steps_and_stacks(steps, stack):
    name, value = ("steps", steps) if steps < 1 else ("stack", stack)
    with pytest.raises(DataError, match=f"clip {name} must be at least 1, got {value}$"):
        ClipShape(steps, stack)


def test_at_least_one_clip():
    with pytest.raises(DataError, match="got 0 clips"):
        even_starts(9, ClipShape(), 0)


def test_windows_stay_inside_a_run_of_frames():
    runs = (range(4), range(6, 12))  # frames 0 to 4, and 6 to 12
    windows = window_frames(np.array([[0, 3], [7, 12]]), 5, runs)
    assert windows.tolist() == [[[0, 0, 0, 1, 2], [1, 2, 3, 4, 4]], [[6, 6, 7, 8, 9], [10, 11, 12, 12, 12]]]
    assert window_frames(np.array([3]), 4, (range(9),)).tolist() == [[2, 3, 4, 5]]


@given(videos_of(shapes | dense | uniform), st.integers(0, 2**32))
def test_each_place_is_left_once_and_the_rest_pads(video, seed):
    shape, fields = video
    drawn = random_starts(fields, shape, np.random.default_rng(seed))[None]
    packed, valid = without_repeats(drawn)
    assert packed.shape == valid.shape == drawn.shape
    assert packed[valid].tolist() == sorted(set(drawn[0].tolist()))
    assert valid[0].tolist() == sorted(valid[0].tolist(), reverse=True)
    assert (packed[~valid] == packed[valid][-1]).all()


def test_runs_end_at_the_borders_of_the_spans():
    runs = (range(20), range(21, 30))
    assert runs_inside(runs, ()) == runs
    assert runs_inside(runs, ((0, 4), (6, 25), (40, 50))) == (range(4), range(6, 20), range(21, 25))
    assert runs_inside(runs, ((0, 4), (6, 25)), step=3) == (range(2), range(6, 20), range(21, 23))


@given(videos, st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60), st.integers(1, 3))
def test_no_frame_of_a_clip_lies_outside_a_span(video, seed, first, length, step):
    shape, fields = video
    span = (first, first + length)
    runs = runs_inside([range(fields)], [span], step)
    if max(map(len, runs), default=0) < shape.stack:
        with pytest.raises(DataError):
            even_starts(runs, shape)
        return
    for starts in (random_starts(runs, shape, np.random.default_rng(seed)), *even_starts(runs, shape, 3)):
        assert starts.min() >= span[0]
        assert stack_fields(starts, shape).max() + step <= span[1]
        windows = window_frames(middle_frames(starts, shape, step), 9, runs, step)
        assert windows.min() >= span[0]
        assert windows.max() <= span[1]
