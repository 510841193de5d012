"""What planning asks of the file system."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from flow_cache.pipeline.inputs import Inputs
from flow_cache.pipeline.plan import make_plan
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig

ASKED: Counter[str] = Counter()


class CountingPath(type(Path())):  # type: ignore[misc]
    """A path that counts how often the status of each name is asked for."""

    def stat(self, **options: bool):
        ASKED[self.name] += 1
        return super().stat(**options)


def test_each_video_is_looked_at_once(config: PrecomputeConfig, videos: Path, tmp_path: Path) -> None:
    (videos / "hard.avi").hardlink_to(videos / "c.avi")
    (videos / "soft.avi").symlink_to(videos / "walk" / "a.avi")
    (videos / "clip").mkdir()
    for number in range(3):
        cv2.imwrite(str(videos / "clip" / f"{number}.bmp"), np.full((16, 20), number, np.uint8))
    (videos / "linked clip").symlink_to(videos / "clip")
    names = ["c.avi", "clip", "hard.avi", "linked clip", "soft.avi", "walk/a.avi", "walk/b.mp4"]
    ASKED.clear()
    template = FlowSettings(method="farneback").template(config.storage)
    plan = make_plan(template, Inputs(CountingPath(videos), names), tmp_path / "cache")
    assert {name: ASKED[Path(name).name] for name in names} == dict.fromkeys(names, 1)
    assert [job.video for job in plan.jobs] == ["c.avi", "clip", "soft.avi", "walk/b.mp4"]
    assert {copy.job.video: copy.of for copy in plan.copies} == {
        "hard.avi": "c.avi",
        "linked clip": "clip",
        "walk/a.avi": "soft.avi",
    }
    assert all(plan.stamps.values())
