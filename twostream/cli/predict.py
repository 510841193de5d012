"""`twostream-predict`: the classes of videos, and how sure the model is."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from flow_cache import (
    ArgumentError,
    DeviceError,
    FlowSettings,
    Progress,
    VideoError,
    expand_videos,
    print_line,
    probe_fps,
)
from twostream.cli.errors import INPUT_FAILED, complain, run_command
from twostream.cli.parser import command_parser
from twostream.errors import ConfigError, DataError, first_names
from twostream.files import replacing
from twostream.inference.fast import describe
from twostream.inference.prediction_file import (
    PredictionFile,
    as_record,
    best_classes,
    check_suffix,
    checkpoint_hash,
)
from twostream.inference.settings import WindowSettings
from twostream.inference.window_file import WindowFile, window_record
from twostream.settings import Damaged

if TYPE_CHECKING:
    from flow_cache import RemotePath
    from twostream.inference.annotate import AnnotatedVideo
    from twostream.inference.predictor import Prediction, Predictor
    from twostream.inference.windows import Decision

PROGRAM = "twostream-predict"
DESCRIPTION = """Print the most probable classes of videos.

A video that cannot be read is named, and the others go on. Exit status: 0 all done, 1 some videos failed, 2 unusable
arguments or checkpoint, or no video at all, 130 interrupted."""
_NAMED_AT_THE_END = 10


def make_parser(*, live: bool = False) -> jsonargparse.ArgumentParser:
    """Build the parser; `live` if there is a camera, and so no videos."""
    parser = command_parser(PROGRAM, DESCRIPTION)
    parser.add_argument("checkpoint", type=str, help="A .ckpt file written by twostream-train.")
    parser.add_argument(
        "videos",
        type=str,
        nargs="*" if live else "+",
        help="Paths or URLs of video files, folders of images, folders of videos (searched recursively), lists (.txt,"
        " one path a line) or manifests (.csv with a column path or video).",
    )
    parser.add_argument(
        "--root",
        type=str,
        default=None,
        help="Folder where the paths of lists and manifests start; default: where each lies.",
    )
    parser.add_argument("--top", type=int, default=3, help="How many classes to name.")
    parser.add_argument(
        "--json", action="store_true", help="Print a JSON object per video, with every stream."
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help="Write predictions here instead of printing them: .jsonl (the objects of --json) or .csv, a line as soon"
        " as its video is done. The same command goes on after an interruption: videos in the file, known by their"
        " path, are kept, and failed ones are tried again. A file of another checkpoint is refused.",
    )
    parser.add_argument(
        "--explain",
        type=str,
        default=None,
        help="Write a picture (PNG) and a video (MP4) of each video into this folder: what each stream saw, which"
        " places speak for the answer (Grad-CAM), and how steps and streams were weighed.",
    )
    parser.add_argument(
        "--windows-out",
        type=str,
        default=None,
        help="Write the decision of each window of long videos here, .jsonl or .csv, a line as soon as it is made.",
    )
    parser.add_argument(
        "--camera",
        type=str,
        default=None,
        help="Decide on live pictures instead of videos: the number of a camera, or what FFmpeg opens, such as"
        " rtsp://… or http://…. Pictures that come too fast are left out, evenly, and counted.",
    )
    parser.add_argument(
        "--annotate",
        type=str,
        default=None,
        help="Write the video with label, confidence, flow, attention over time and a timeline of classes: a .mp4 for"
        " one video, or a folder for one file a video.",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="Begin the files of --out and --windows-out anew."
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="Compute the quickest flow that stands for the checkpoint's own; answers change a little.",
    )
    parser.add_class_arguments(WindowSettings, instantiate=False)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument(
        "--damaged",
        type=Damaged,
        default="fail",
        help="What is done with a damaged video: fail, keep-prefix (look at the frames before the damage), or"
        " skip-frames (at all good frames; no clip reaches across a gap).",
    )
    # Everything else about the flow is the checkpoint's.
    others = {field.name for field in fields(FlowSettings)} - {"device"}
    parser.add_class_arguments(FlowSettings, "flow", skip=others, instantiate=False)
    return parser


@dataclass
class Tally:
    """What has become of a run's videos.

    Attributes:
        kept: how many were in the output file before.
        predicted: how many have been predicted.
        failed: those that could not be, and arguments that name no videos.
    """

    kept: int = 0
    predicted: int = 0
    failed: list[str] = field(default_factory=list)

    def fail(self, name: object, reason: Exception | str) -> None:
        """Count and name a failure."""
        self.failed.append(str(name))
        complain(PROGRAM, reason, INPUT_FAILED)


def run(argv: Sequence[str]) -> int:
    """Predict as the arguments say; a video that fails is named, and the others go on."""
    live = any(argument.partition("=")[0] == "--camera" for argument in argv)
    arguments = make_parser(live=live).parse_args(list(argv))
    out = None if arguments.out is None else Path(arguments.out)
    if arguments.videos and arguments.camera is not None:
        raise ConfigError("name videos or a --camera, not both")
    if arguments.camera is not None and out is not None:
        raise ConfigError(
            "--out has a line a video; decisions on live pictures go to --windows-out or --json"
        )
    if arguments.top < 1:
        raise ConfigError(f"--top must be at least 1, got {arguments.top}")
    if out is not None:
        check_suffix(out)
    elif arguments.overwrite and arguments.windows_out is None:
        raise ConfigError("--overwrite needs --out or --windows-out, the file to begin anew")
    if arguments.annotate is not None:
        if arguments.camera is not None:
            raise ConfigError("--annotate takes videos, not a --camera")
        if Path(arguments.annotate).suffix.lower() == ".mp4" and len(arguments.videos) > 1:
            raise ConfigError("--annotate must be a folder for several videos, not a .mp4")
    if arguments.windows_out is not None:
        check_suffix(Path(arguments.windows_out), "--windows-out")
    windows = WindowSettings(**{name.name: arguments[name.name] for name in fields(WindowSettings)})
    tally = Tally()
    videos = [] if arguments.camera is not None else _choose(arguments.videos, arguments.root, tally)
    # torch, which takes seconds, once the arguments are right
    from twostream.checkpoints import load_checkpoint
    from twostream.inference.predictor import Predictor

    checkpoint = load_checkpoint(arguments.checkpoint)
    predictor = Predictor(
        checkpoint, arguments.device, arguments.flow.device, arguments.damaged, windows, fast=arguments.fast
    )
    made_by = checkpoint_hash(checkpoint.path)
    if arguments.fast:
        quicker = describe(predictor.flow)
        made_by += f" {quicker}"
        note = f"--fast: flow by {quicker}, trained with {describe(checkpoint.card.flow)}; answers may differ"
        print(f"{PROGRAM}: {note}", file=sys.stderr, flush=True)
    classes = checkpoint.card.classes
    explain = _explainer(predictor, arguments.explain, videos)
    with contextlib.ExitStack() as stack:
        file = None
        if out is not None:
            file = stack.enter_context(
                _open(out, predictor, classes, made_by, arguments.top, arguments.overwrite)
            )
            tally.kept = sum(str(video) in file.kept for video in videos)
            videos = [video for video in videos if str(video) not in file.kept]
        window_file = None
        if arguments.windows_out is not None:
            window_file = stack.enter_context(
                WindowFile(
                    Path(arguments.windows_out),
                    made_by,
                    None if file is None else file.kept,
                    overwrite=arguments.overwrite,
                )
            )
        if arguments.camera is not None:
            from twostream.cli.live import watch_camera

            return watch_camera(
                PROGRAM, arguments.camera, predictor, window_file, arguments.top, arguments.json
            )
        if videos:
            _ = predictor.estimator  # a device or weights that are missing are so for every video

        def report(prediction: Prediction) -> None:
            if prediction.partial is not None:
                part = f"only a part of the video was looked at: {prediction.partial}"
                print(f"{PROGRAM}: {prediction.video}: {part}", file=sys.stderr, flush=True)
            record = as_record(prediction, classes, arguments.top)
            explain(prediction)
            if file is not None:
                file.append(record)
            if arguments.json:
                print(json.dumps(record), flush=True)
            elif file is None:
                best = best_classes(prediction.decision, classes, arguments.top)
                shown = ", ".join(f"{name} {100 * p:.1f} %" for name, p in best)
                if prediction.windows:
                    shown += f" (mean of {prediction.windows} windows)"
                print_line(f"{prediction.video}: {shown}")
                sys.stdout.flush()

        def predict(video: Path | RemotePath) -> Prediction:
            if arguments.annotate is None:
                return look_at(video, None)
            from twostream.inference.annotate import AnnotatedVideo

            with (
                replacing(_annotated(Path(arguments.annotate), video, videos)) as partial,
                AnnotatedVideo(partial, classes) as drawn,
            ):
                return look_at(video, drawn)

        def look_at(video: Path | RemotePath, drawn: AnnotatedVideo | None) -> Prediction:
            if window_file is None:
                return predictor(video, None, drawn)
            fps = probe_fps(video) if isinstance(video, Path) and video.is_file() else 0.0

            def append(decision: Decision) -> None:
                seconds = (decision.last + 1) / fps if fps else None
                window_file.append(window_record(video, decision, classes, arguments.top, seconds))

            return predictor(video, append, drawn)

        return predict_all(predict, videos, report, tally, file)


def _explainer(
    predictor: Predictor, folder: str | None, videos: Sequence[Path | RemotePath]
) -> Callable[[Prediction], object]:
    """Return what explains a prediction in a folder; without a folder it does nothing."""
    if folder is None:
        return lambda prediction: None
    from twostream.reports.explanations import Explanations  # with matplotlib

    return Explanations(predictor, Path(folder), videos).add


def _choose(sources: Sequence[str], root: str | None, tally: Tally) -> list[Path | RemotePath]:
    """Find the videos that the arguments name, each once; raises ArgumentError if there are none."""
    videos: dict[str, Path | RemotePath] = {}
    unusable: list[tuple[str, ArgumentError]] = []
    for source in sources:
        try:
            videos.update({str(video): video for video in expand_videos(source, root=root)})
        except ArgumentError as error:
            unusable.append((source, error))
    last = None if videos else unusable.pop()[1]
    for source, reason in unusable:
        tally.fail(source, reason)
    if last is not None:
        raise last
    return list(videos.values())


def _annotated(out: Path, video: Path | RemotePath, videos: Sequence[Path | RemotePath]) -> Path:
    """Return where the drawn video goes: the file that was named, or one in the folder."""
    if out.suffix.lower() == ".mp4":
        return out
    stem, number = Path(video.name).stem or "video", videos.index(video)
    alone = sum((Path(other.name).stem or "video") == stem for other in videos) == 1
    return out / (f"{stem}.mp4" if alone else f"{stem}-{number}.mp4")


def _open(
    path: Path, predictor: Predictor, classes: tuple[str, ...], made_by: str, top: int, overwrite: bool
) -> PredictionFile:
    """Open the output file for records like those that the predictor is going to make."""
    import numpy as np

    from twostream.inference.predictor import Prediction

    nothing = np.zeros(len(classes), np.float32)
    weights = np.zeros(2, np.float32) if len(predictor.outputs) > 1 else None
    sample = Prediction(Path(), dict.fromkeys(predictor.outputs, nothing), weights)
    record = as_record(sample, classes, top)
    return PredictionFile(path, record, made_by, overwrite=overwrite)


def predict_all(
    predictor: Callable[[Path | RemotePath], Prediction],
    videos: Sequence[Path | RemotePath],
    report: Callable[[Prediction], None],
    tally: Tally,
    file: PredictionFile | None,
) -> int:
    """Predict one video after the other, say at the end what failed, and return the exit status.

    Args:
        predictor: predicts one video.
        videos: what is to be predicted.
        report: writes or prints a prediction.
        tally: counts; it may hold failures already.
        file: where the predictions go, for the messages; None: standard output.

    Raises:
        KeyboardInterrupt: with the message for the user.
    """
    total = tally.kept + len(videos) + len(tally.failed)
    interruption = None
    try:
        with Progress(len(videos), "videos", enabled=len(videos) > 1) as progress:
            for video in videos:
                failure: Exception | str | None = None
                try:
                    prediction = predictor(video)
                except (VideoError, DataError) as error:
                    failure = error
                except DeviceError:
                    raise  # no video is the cause
                except Exception as error:  # of a library at a damaged video: it must not end the run
                    failure = f"{video}: {type(error).__name__}: {error}"
                with progress.paused():
                    if failure is not None:
                        tally.fail(video, failure)
                    else:
                        report(prediction)
                        tally.predicted += 1
                progress.finished(failed=failure is not None)
    except KeyboardInterrupt:
        done = tally.kept + tally.predicted
        remaining = total - done - len(tally.failed)
        more = "" if file is None else f"; the same command goes on from there, {file.path} is kept"
        interruption = (
            f"interrupted: {done} videos are done, {len(tally.failed)} failed, {remaining} remain{more}"
        )
    if tally.failed and total > 1:
        names = first_names(tally.failed, _NAMED_AT_THE_END)
        complain(PROGRAM, f"{len(tally.failed)} of {total} failed: {names}", INPUT_FAILED)
    if file is not None:
        counts = f"{tally.predicted} videos predicted, {tally.kept} kept from before"
        print_line(f"{PROGRAM}: {file.path}: {counts}", file=sys.stderr)
    if interruption is not None:
        raise KeyboardInterrupt(interruption)
    return INPUT_FAILED if tally.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
