"""`twostream-app`: a page in the browser to try a trained model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import fields

import jsonargparse

from flow_cache import FlowSettings, print_line
from twostream.app.limits import Limits
from twostream.cli.errors import run_command
from twostream.cli.parser import command_parser
from twostream.errors import ConfigError

PROGRAM = "twostream-app"
DESCRIPTION = """Serve a page to try a checkpoint: drop in a video or use the camera, see the best classes of each
stream and of the fusion, and where each stream looked. It answers this machine only, and keeps nothing. Ctrl-C ends it.

Needs the extra app: python3 -m pip install 'twostream[app]'"""
_HERE = ("127.0.0.1", "localhost", "::1")


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the parser."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    parser.add_argument("checkpoint", type=str, help="A .ckpt file written by twostream-train.")
    parser.add_argument(
        "--host",
        type=str,
        default=_HERE[0],
        help="Address to listen at. 0.0.0.0 lets every machine that reaches this one use the page.",
    )
    parser.add_argument(
        "--port", type=int, default=None, help="Port; default: the first that is free from 7860 on."
    )
    parser.add_argument(
        "--max-megabytes", type=int, default=Limits.megabytes, help="The largest file that is taken."
    )
    parser.add_argument(
        "--max-seconds", type=float, default=Limits.seconds, help="The longest video that is taken."
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    others = {field.name for field in fields(FlowSettings)} - {"device"}
    parser.add_class_arguments(FlowSettings, "flow", skip=others, instantiate=False)
    return parser


def run(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C."""
    arguments = make_parser().parse_args(list(argv))
    for name in ("max_megabytes", "max_seconds"):
        if not arguments[name] > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be more than 0, got {arguments[name]}")
    # torch and gradio, which take seconds, once the arguments are right
    from twostream.app.page import import_gradio, serve
    from twostream.checkpoints import load_checkpoint
    from twostream.inference.predictor import Predictor

    import_gradio()
    predictor = Predictor(load_checkpoint(arguments.checkpoint), arguments.device, arguments.flow.device)
    _ = predictor.estimator  # a device or weights that are missing are so for every video
    limits = Limits(arguments.max_megabytes, arguments.max_seconds)
    with serve(predictor, limits, arguments.host, arguments.port) as url:
        print_line(f"{PROGRAM}: open {url} in a browser; Ctrl-C ends it")
        if arguments.host not in _HERE:
            print_line(f"{PROGRAM}: every machine that reaches {arguments.host} can use it", file=sys.stderr)
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped") from None
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
