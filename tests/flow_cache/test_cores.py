import os

from flow_cache.cores import available_cores


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
