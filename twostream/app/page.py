"""The page itself, and its server: it answers this machine only, keeps nothing, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import html
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from flow_cache import FlowCacheError, one_line
from twostream.app.answers import Answer, answer_video
from twostream.app.limits import Limits
from twostream.errors import ConfigError, TwoStreamError
from twostream.inference.predictor import Predictor
from twostream.reports.outputs import COLOURS, NAMES

LOCALHOST = "127.0.0.1"

# A browser then refuses whatever a page asks of another machine: fonts, scripts, analytics.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
_FORGOTTEN = 600  # seconds after which a file that was given, and never asked about, is removed
_WAITING = 8  # videos that may wait for their turn
_PAPER = "background: white; color: black; padding: 0.5em"  # pictures and their colours are made for white
_FONTS = ["system-ui", "sans-serif"]  # of the reader's machine; gradio's own come from a server
_TEXT = """# What does the model see?

Drop in a video of up to {seconds:g} s and {megabytes} MB, or record one, and press *Classify*. The network answers
with its best classes, and shows where each stream looked: places that do not speak for the answer are dark (Grad-CAM).
The bars are the weights of the steps. Nothing is kept: the file is removed as soon as it is answered."""


@contextlib.contextmanager
def serve(
    predictor: Predictor, limits: Limits, host: str = LOCALHOST, port: int | None = None
) -> Iterator[str]:
    """Serve the page until the context ends.

    Args:
        predictor: the model.
        limits: of the videos.
        host: address to listen at; anything but this machine's own lets others use the page.
        port: None for the first that is free from 7860 on.

    Yields:
        The address of the page.

    Raises:
        ConfigError: gradio is not installed, or the address cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="twostream-app-") as folder, _environment(folder):
        gradio = import_gradio()
        page = make_page(gradio, predictor, limits, Path(folder))
        page.queue(default_concurrency_limit=1, max_size=_WAITING)
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=limits.megabytes * 10**6,
                theme=gradio.themes.Default(font=_FONTS, font_mono=["monospace"]),
                app_kwargs={"middleware": [(_OwnFilesOnly, (), {})]},
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {host}, port {port or 'any of 7860 to 7959'}: {one_line(error)}; give another --port"
            ) from error
        try:
            yield str(url)
        finally:
            page.close(verbose=False)


def import_gradio() -> Any:
    """Import gradio.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            f"twostream-app needs gradio ({error}); install it with: python3 -m pip install 'twostream[app]'"
        ) from error
    return gradio


def make_page(gradio: Any, predictor: Predictor, limits: Limits, folder: Path) -> Any:
    """Build the page, a `gradio.Blocks`.

    Args:
        gradio: the library.
        predictor: the model.
        limits: of the videos.
        folder: where gradio puts what is uploaded.
    """

    def classify(path: str | None) -> tuple[None, str, str]:
        """Answer a file, and empty the place for the next one: the answer, and the picture below it, as HTML."""
        if path is None:
            return None, _refusal("There is no video yet: drop one in, or record one."), ""
        video = Path(path)
        try:
            answer = answer_video(predictor, video, limits)
        except (FlowCacheError, TwoStreamError) as error:
            # who gave a file knows its name, not where it lies here
            return None, _refusal(one_line(error).replace(str(video), video.name)), ""
        finally:
            _remove(video, folder)
        return None, _best(answer) + _film(answer), _picture(answer)

    with gradio.Blocks(title="twostream", analytics_enabled=False, delete_cache=(60, _FORGOTTEN)) as page:
        gradio.Markdown(_TEXT.format(seconds=limits.seconds, megabytes=limits.megabytes))
        with gradio.Row():
            with gradio.Column(scale=2):
                video = gradio.Video(
                    sources=["upload", "webcam"],
                    webcam_options=gradio.WebcamOptions(mirror=False),
                    label="Video",
                    height=300,
                    elem_id="video",
                )
                button = gradio.Button("Classify", variant="primary", elem_id="classify")
            with gradio.Column(scale=3):
                answer = gradio.HTML(elem_id="answer")
        picture = gradio.HTML(elem_id="picture")
        button.click(classify, video, [video, answer, picture], api_visibility="private")
    return page


def _refusal(reason: str) -> str:
    return f'<p role="alert" style="color: #B00020; font-size: 1.1em">{html.escape(reason)}</p>'


def _best(answer: Answer) -> str:
    """Write the best classes of each output, with bars in the colours of all reports."""
    columns = []
    for output, best in answer.best.items():
        rows = [
            f"<div style='display: flex; justify-content: space-between; gap: 0.5em'><span>{html.escape(name)}</span>"
            f"<span style='white-space: nowrap'>{100 * value:.1f} %</span></div>"
            f"<div style='background: {COLOURS[output]}; height: 5px; width: {100 * value:.1f}%'></div>"
            for name, value in best.items()
        ]
        head = f"<b style='color: {COLOURS[output]}'>{NAMES[output]}</b>"
        columns.append(
            f"<div id='answer-{output}' style='flex: 1 1 11em; overflow-wrap: anywhere'>{head}{''.join(rows)}</div>"
        )
    return f"<div style='display: flex; flex-wrap: wrap; gap: 1.5em; {_PAPER}'>{''.join(columns)}</div>"


# The answer is written into the page itself, so that the server has no files of it.


def _film(answer: Answer) -> str:
    data = base64.b64encode(answer.video).decode()
    return (
        f'<video controls autoplay loop muted style="max-width: 100%" src="data:video/mp4;base64,{data}">'
        "</video>"
    )


def _picture(answer: Answer) -> str:
    data = base64.b64encode(answer.picture).decode()
    return f'<img alt="what each stream saw" style="max-width: 100%; {_PAPER}" src="data:image/png;base64,{data}">'


def _remove(video: Path, folder: Path) -> None:
    """Remove an uploaded file and the folder that gradio made for it."""
    if folder.resolve() in video.resolve().parents:
        video.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            video.parent.rmdir()


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Tell gradio by its variables where uploads go, and that nobody is to be told about them."""
    wanted = {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class _OwnFilesOnly:
    """Add the policy to every answer of an ASGI application."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_policy)
