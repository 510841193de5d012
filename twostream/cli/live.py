"""`twostream-predict --camera`: decisions on live pictures, on one line of the terminal."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from flow_cache import print_line
from twostream.inference.live import LiveStatus, open_source, run_live
from twostream.inference.prediction_file import best_classes
from twostream.inference.window_file import WindowFile, window_record

if TYPE_CHECKING:
    from twostream.inference.predictor import Predictor
    from twostream.inference.windows import Decision


def watch_camera(
    program: str, source: str, predictor: Predictor, file: WindowFile | None, top: int, as_json: bool
) -> int:
    """Decide on live pictures until they end; returns the exit status.

    On a terminal one line is written over and over; elsewhere there is a line for each decision.
    """
    classes = predictor.card.classes
    images = open_source(source)
    live = sys.stdout.isatty() and not as_json
    print(
        f"{program}: {source}: a decision every {predictor.windows.every} frames over {predictor.length}",
        file=sys.stderr,
    )

    def report(decision: Decision, status: LiveStatus) -> None:
        record = window_record(source, decision, classes, top, None)
        if file is not None:
            file.append(record)
        if as_json:
            kept_up = {"rate": status.rate, "latency": status.latency, "dropped": status.dropped}
            print(json.dumps({**record, **kept_up}), flush=True)
            return
        name, confidence = best_classes(decision.smoothed, classes, 1)[0]
        line = f"{name} {100 * confidence:.1f} % ({status})"
        if live:
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            print_line(line)
            sys.stdout.flush()

    try:
        summary = run_live(images, predictor.classifier(), predictor.framing, report)
    finally:
        if live:
            print()
    if summary.count:
        decision = next(iter(summary.probabilities().values()))
        shown = ", ".join(f"{name} {100 * p:.1f} %" for name, p in best_classes(decision, classes, top))
        print(f"{program}: {source}: mean of {summary.count} decisions: {shown}", file=sys.stderr)
    else:
        print(
            f"{program}: {source}: ended before {predictor.length} frames, the first decision",
            file=sys.stderr,
        )
    return 0
