import os
import subprocess
import sys
from pathlib import Path

import pytest

from flow_cache.runtime import available_cores, existing_working_folder


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("first", ["", "import cv2; "])
def test_opencv_is_silent_also_where_it_was_imported_before(first: str, tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_text("no video")
    code = (
        f"{first}from flow_cache.runtime import opencv; cv2 = opencv();"
        "print(cv2.VideoCapture('a.avi', cv2.CAP_FFMPEG).isOpened(), cv2.imread('none.png'))"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=quiet, capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("False None\n", "")


def test_opencv_is_silent_in_every_command() -> None:
    code = (
        "from flow_cache import run_program\n"
        "def command():\n"
        "    import cv2\n"
        "    return cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT\n"
        "assert run_program('test', command) == 1"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that somebody works in")
def test_a_deleted_working_folder_is_left_and_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with existing_working_folder():
        assert Path.cwd() == place
    place.rmdir()
    with existing_working_folder():
        assert Path.cwd() == Path("/")
    with pytest.raises(FileNotFoundError):
        Path.cwd()
