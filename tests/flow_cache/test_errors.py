import pickle

import pytest

from flow_cache.errors import CacheFileError, CacheWriteError, FlowCacheError, StorageError, VideoError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (VideoError("a/b.avi", "no such file"), "a/b.avi: no such file"),
        (VideoError("b.avi", "broken", 7), "b.avi, frame 7: broken"),
        (
            CacheFileError("c.flow.zip", "damaged", "flow/00001.jls"),
            "c.flow.zip, member flow/00001.jls: damaged",
        ),
        (
            CacheWriteError.from_os_error("out", OSError(28, "No space left")),
            "cannot write out: No space left",
        ),
        (StorageError("s3://bucket/a", "refused"), "s3://bucket/a: refused"),
    ],
)
def test_errors_name_the_file_in_one_line_and_survive_pickling(error: FlowCacheError, text: str) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert str(error) == str(copy) == text
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
