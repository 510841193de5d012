"""The page in a real browser: a video goes in, the answer comes out, and nothing stays or leaves this machine."""

import importlib.util
import os
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from twostream import ConfigError, Predictor, load_checkpoint
from twostream.app.limits import Limits
from twostream.cli.app import main
from twostream.inference.video_file import write_video

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio (the extra app)"
)
connections: list[object] = []
listening = False
SECONDS = 60


def watch(event: str, details: tuple[object, ...]) -> None:
    if listening and event in {"socket.connect", "socket.getaddrinfo"}:
        connections.append(details[1] if event == "socket.connect" else details[0])


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), device="cpu")


@pytest.fixture(scope="module")
def page(predictor: Predictor) -> Iterator[str]:
    """The address of a page whose server notes whom this process connects to."""
    global listening
    from twostream.app.page import serve

    sys.addaudithook(watch)
    listening = True
    with serve(predictor, Limits(megabytes=1, seconds=2)) as url:
        yield url
    listening = False


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    pytest.importorskip("selenium", reason="needs selenium")
    from browser import set_size, start_browser

    driver = start_browser(tmp_path_factory.mktemp("profile"))
    set_size(driver, 1280)
    yield driver
    driver.quit()


def write_clip(path: Path, frames: int) -> Path:
    """A bright square that moves to the right, 25 frames a second."""
    pictures = np.full((frames, 48, 64, 3), 60, np.uint8)
    for number, picture in enumerate(pictures):
        picture[10:30, number % 40 : number % 40 + 20] = 220
    write_video(iter(pictures), 25, path)
    return path


def classify(browser, url: str, video: Path) -> None:
    """Load the page, give it a video and press the button."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(url)
    wait = WebDriverWait(browser, SECONDS)
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#video input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#video input[type=file]").send_keys(str(video))
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#video video") or complaints(b))
    browser.find_element(By.ID, "classify").click()


def complaints(browser) -> str:
    """Return what the page says of a file that it does not take, on top or in place of an answer."""
    from selenium.webdriver.common.by import By

    found = browser.find_elements(By.CSS_SELECTOR, ".toast-body, #answer [role=alert]")
    return " ".join(element.text for element in found)


def files_of_the_server() -> list[Path]:
    folders = Path(tempfile.gettempdir()).glob("twostream-app-*")
    mine = [folder for folder in folders if str(folder) == os.environ.get("GRADIO_TEMP_DIR")]
    assert len(mine) == 1
    return [path for path in mine[0].rglob("*") if path.is_file()]


@needs_gradio
def test_a_video_is_answered_and_nothing_stays_or_leaves(
    browser, page: str, predictor: Predictor, tmp_path: Path
) -> None:
    from browser import console, requests
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    video = write_clip(tmp_path / "moving square.mp4", 20)
    classify(browser, page, video)
    wait = WebDriverWait(browser, SECONDS)
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#picture img"))
    prediction = predictor(video)
    for name in predictor.outputs:
        text = browser.find_element(By.ID, f"answer-{name}").text
        said = [line for line in text.splitlines() if "shirt" in line]
        best = int(prediction.probabilities[name].argmax())
        assert predictor.card.classes[best] in said[0]
        assert len(said) == 5
        assert f"{100 * prediction.probabilities[name][best]:.1f} %" in text
    ready = "return document.querySelector('#answer video').readyState"
    wait.until(lambda b: b.execute_script(ready) >= 2)  # it can be played
    width = "return document.querySelector('#picture img').naturalWidth"
    assert browser.execute_script(width) > 500
    if folder := os.environ.get("PAGE_SHOTS"):
        browser.save_screenshot(f"{folder}/page.png")
    assert files_of_the_server() == []
    assert not [line for line in console(browser) if line.startswith("SEVERE")]
    asked = [
        address for address in requests(browser) if not address.startswith(("blob:", "chrome:", "about:"))
    ]
    assert asked
    assert [address for address in asked if not address.startswith(page)] == []
    hosts = {address[0] if isinstance(address, tuple) else address for address in connections}
    assert hosts <= {"127.0.0.1", "localhost", "::1"}


@needs_gradio
@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [(60, 0, "is longer than 2 s"), (20, 1_200_000, "maximum"), (2, 0, "too few")],
    ids=["long", "large", "short"],
)
def test_what_is_too_much_or_too_little_is_refused_in_words(
    browser, page: str, tmp_path: Path, frames: int, size: int, message: str
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    video = write_clip(tmp_path / "a.mp4", frames)
    with video.open("ab") as file:
        file.write(bytes(size))
    classify(browser, page, video)
    WebDriverWait(browser, SECONDS).until(lambda b: message in complaints(b))
    assert str(tempfile.gettempdir()) not in complaints(browser)
    if folder := os.environ.get("PAGE_SHOTS"):
        browser.save_screenshot(f"{folder}/{frames}.png")
    assert files_of_the_server() == []


@needs_gradio
def test_the_page_listens_here_only_and_says_so_to_browsers(page: str) -> None:
    port = int(page.rstrip("/").rpartition(":")[2])
    with urllib.request.urlopen(page) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        text = answer.read().decode()
    assert "fonts.googleapis.com" not in text
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
            pass


@needs_gradio
def test_a_port_in_use_is_named(page: str, predictor: Predictor) -> None:
    from twostream.app.page import serve

    port = int(page.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port}"), serve(predictor, Limits(), port=port):
        pass


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="gradio is installed")
def test_without_the_extra_it_is_named(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_run / "checkpoints" / "best.ckpt")]) == 2
    assert "pip install 'twostream[app]'" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--max-megabytes=0", "--max-seconds=-1"])
def test_limits_are_positive(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best.ckpt", argument]) == 2
    assert "must be more than 0" in capsys.readouterr().err
