"""Read checkpoints back: the model, and the card that says what it was trained for."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow_cache import FlowSettings, StorageSettings
from twostream.data.record import SplitRecord, describe_seen
from twostream.data.settings import DataConfig
from twostream.errors import CheckpointError, DataError, first_names, one_line
from twostream.files import file_hash, replacing, write_text
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream
from twostream.models.weights import SAFETENSORS, read_safetensors, write_safetensors
from twostream.settings import STREAMS, from_plain

BEST = "best.ckpt"
LAST = "last.ckpt"
UNFINISHED = "unfinished.ckpt"
CARD_KEY = "twostream"
BATCHES_KEY = "batches"
CARD_FORMAT = 1
MODEL_PREFIX = "model."
CONFIG_FILE = "config.json"
WEIGHTS_FILE = f"model{SAFETENSORS}"
SEAL = "sha256"
_FRAME_SETTINGS = ("step", "short_side", "size")
_FLOW_SETTINGS = ("method", "parameters", "bound", *_FRAME_SETTINGS)


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of itself beside its weights: all that is needed to use the model again.

    Attributes:
        classes: class names in the order of the logits.
        model: the architecture.
        data: the data settings of the run, as plain values.
        flow: how the flow was made (method, parameters, bound, step, frame size), as plain values.
        bound: bound of the flow quantisation, in pixels.
        stack: L, flow fields a step.
        seed: the run's seed.
        split: which videos were trained, validated and tested on, with their content and source groups; None in a
            checkpoint of an earlier version.

    Example:
        >>> from twostream import load_checkpoint
        >>> card = load_checkpoint("runs/videos/checkpoints/best.ckpt").card
        >>> card.model.streams, card.flow["method"], card.bound
        (['rgb', 'flow'], 'farneback', 20.0)
    """

    classes: tuple[str, ...]
    model: ModelConfig
    data: dict[str, Any]
    flow: dict[str, Any]
    bound: float
    stack: int
    seed: int
    split: SplitRecord | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, which a checkpoint can hold and be loaded without running code; they are sealed."""
        plain = dataclasses.asdict(dataclasses.replace(self, split=None))
        split = self.split.to_plain() if self.split else None
        return sealed({"format": CARD_FORMAT, **plain, "classes": list(self.classes), "split": split})

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ModelCard:
        """Rebuild a card from plain values.

        Raises:
            CheckpointError: written by a newer version, incomplete, or changed since it was written.
        """
        if not isinstance(plain, Mapping):
            raise CheckpointError(
                f"the checkpoint's description is a {type(plain).__name__}, expected a mapping"
            )
        if plain.get("format") != CARD_FORMAT:
            raise CheckpointError(
                f"the checkpoint has format {plain.get('format')!r}, this version reads {CARD_FORMAT}; use the"
                " version of twostream that wrote it"
            )
        try:
            values = {
                field.name: plain[field.name] for field in dataclasses.fields(cls) if field.name != "split"
            }
            values["model"] = ModelConfig(**values["model"])
            if (split := plain.get("split")) is not None:
                values["split"] = SplitRecord.from_plain(split)
            card = cls(**{**values, "classes": tuple(values["classes"])})
        except (KeyError, TypeError, DataError) as error:
            raise CheckpointError(f"the checkpoint's description is incomplete ({error})") from error
        if plain.get(SEAL, (seal := seal_of(plain))) != seal:  # an earlier version wrote none
            raise CheckpointError(
                f"the checkpoint's description was changed after it was written (its SHA-256 is {seal[:12]}…, expected"
                f" {str(plain[SEAL])[:12]}…): classes, flow settings or others are not those of the training; use the"
                " file as it was written"
            )
        return card

    def data_config(self) -> DataConfig:
        """Return the data settings of the training; keys that are newer than the checkpoint take their defaults.

        Raises:
            ConfigError: the settings have keys or values that this version does not know.
        """
        return from_plain(DataConfig, self.data)

    def flow_settings(self) -> tuple[FlowSettings, StorageSettings]:
        """Return how the flow of a video is made and stored for the model."""
        flow = dict(self.flow)
        storage = StorageSettings.from_dict(flow.pop("codec"))
        size = tuple(flow.pop("size", None) or ()) or None
        rgb = storage.rgb and "rgb" in self.model.streams
        return FlowSettings(**flow, size=size), dataclasses.replace(storage, rgb=rgb)

    def build_model(self) -> TwoStream:
        """Build the network with random weights, for a checkpoint's to be loaded into."""
        # The file of weights that a training started from need not be there.
        own: dict[str, Any] = {
            name: {key: value for key, value in getattr(self.model, name).items() if key != "weights"}
            for name in STREAMS
        }
        config = dataclasses.replace(self.model, weights="none", **own)
        return TwoStream(config, len(self.classes), self.stack, self.bound)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: where it was read from.
        card: what it was trained for.
        epoch: epochs that were complete when it was written.
        state: weights of the `TwoStream`.
        batches: training batches of the next epoch that were done, too.

    Example:
        >>> from twostream import load_checkpoint
        >>> checkpoint = load_checkpoint("runs/videos/checkpoints/best.ckpt")
        >>> model = checkpoint.model()
        >>> model.names, model.training
        (('rgb', 'flow'), False)
    """

    path: Path
    card: ModelCard
    epoch: int
    state: dict[str, torch.Tensor]
    batches: int = 0

    @property
    def progress(self) -> str:
        """Say how far the training was when it was written."""
        return f"batch {self.batches} of epoch {self.epoch + 1}" if self.batches else f"epoch {self.epoch}"

    @property
    def home(self) -> Path:
        """The folder that reports of the model belong to: that of its run, or of the export."""
        folder = self.path.absolute().parent
        return folder if self.path.suffix == SAFETENSORS else folder.parent

    def model(self) -> TwoStream:
        """Build the trained model, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture that the checkpoint describes.
        """
        model = self.card.build_model()
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            reason = one_line(error)[:200]
            raise CheckpointError(
                f"{self.path}: the weights do not fit the described model ({reason})"
            ) from error
        return model.eval()

    def require_clips(self, data: DataConfig) -> None:
        """Refuse clips whose stacks of flow the network cannot take.

        Raises:
            CheckpointError: another `stack`.
        """
        if "flow" in self.card.model.streams and data.stack != self.card.stack:
            raise CheckpointError(
                f"{self.path} takes stacks of {self.card.stack} flow fields, got data.stack {data.stack};"
                " leave data.stack out, or train with it"
            )

    def resumed(self, card: ModelCard) -> ModelCard:
        """Return the card of a training that goes on from here, which has seen what this checkpoint has.

        Args:
            card: what the training is for.

        Raises:
            CheckpointError: other classes, flow made otherwise, or videos on other sides.
        """
        self.require_classes(card.classes)
        self.require_flow(card.flow)
        ours = self.card.split
        if ours is None or card.split is None:
            return card
        before, now = ours.sides(), card.split.sides()
        changed = [
            f"{path} ({before.get(path, 'no side')} -> {now.get(path, 'no side')})"
            for path in sorted({**before, **now})
            if before.get(path) != now.get(path)
        ]
        if changed:
            raise CheckpointError(
                f"{self.path} was trained on another split: {first_names(changed)}; put the run's split.csv back, or"
                " give another --out"
            )
        return dataclasses.replace(card, split=card.split.after(ours))

    def require_flow(self, flow: Mapping[str, Any]) -> None:
        """Refuse a cache whose flow was made otherwise than the one that was trained on; how it is stored is free.

        Args:
            flow: how the cache's was made, as `VideoData.flow`.

        Raises:
            CheckpointError: method, a parameter, bound, step or frame size differ.
        """
        model = self.card.model
        reads_flow = "flow" in model.streams or model.needs_motion
        # A card of an early version does not say all.
        names = [
            name for name in (_FLOW_SETTINGS if reads_flow else _FRAME_SETTINGS) if name in self.card.flow
        ]
        trained, found = (
            {name: _comparable(settings.get(name)) for name in names} for settings in (self.card.flow, flow)
        )
        for values in (trained, found):
            parameters = values.pop("parameters", {})
            if trained.get("method") == found.get("method"):  # else there is no sense in comparing them
                values.update(parameters)
        differences = [
            f"{name} {found.get(name)} (trained with: {trained.get(name)})"
            for name in {**trained, **found}
            if found.get(name) != trained.get(name)
        ]
        if differences:
            raise CheckpointError(
                f"{self.path} was trained on other flow than this cache holds: {', '.join(differences)}; give a"
                " --data.cache that was made with the checkpoint's settings"
            )

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Refuse classes other than those the checkpoint was trained on.

        Raises:
            CheckpointError: names or order differ.
        """
        ours = self.card.classes
        if ours == classes:
            return
        only_here = [name for name in ours if name not in classes]
        only_there = [name for name in classes if name not in ours]
        if only_here or only_there:
            ours_alone, theirs_alone = first_names(only_here), first_names(only_there)
            difference = f"only in the checkpoint: {ours_alone}; only in the data: {theirs_alone}"
        else:
            difference = "the same names in another order"
        raise CheckpointError(
            f"{self.path} was trained on {len(ours)} classes, the data has {len(classes)} ({difference});"
            " use the data set that the checkpoint was trained for"
        )


def _comparable(value: Any) -> Any:
    """Return a setting of flow as JSON and YAML give it back."""
    return list(value) if isinstance(value, tuple) else value


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a trained model; no code stored in the file is run.

    Args:
        path: a checkpoint that `twostream-train` wrote, the folder of a run (for its best one), or the weights that
            `twostream-export` wrote, or their folder.

    Raises:
        CheckpointError: missing, unreadable, written by something else, or changed since.

    Example:
        >>> from twostream import load_checkpoint
        >>> checkpoint = load_checkpoint("runs/videos/checkpoints/last.ckpt")
        >>> checkpoint.epoch, len(checkpoint.card.classes)
        (2, 9)
        >>> load_checkpoint("runs/videos").path.as_posix()
        'runs/videos/checkpoints/best.ckpt'
    """
    path = Path(path)
    if path.is_dir():
        candidates = (path / "checkpoints" / BEST, path / WEIGHTS_FILE)
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            raise CheckpointError(
                f"{path} is neither a run (it has no checkpoints/{BEST}) nor an export (it has no {WEIGHTS_FILE})"
            )
        path = found
    if path.suffix == SAFETENSORS:
        return _load_export(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except Exception as error:  # whatever a damaged or forged file makes the reader stumble over
        raise CheckpointError(
            f"{path} is not a readable checkpoint; expected a .ckpt file written by twostream-train"
        ) from error
    if not isinstance(content, dict) or CARD_KEY not in content or "state_dict" not in content:
        raise CheckpointError(f"{path} was not written by twostream-train (it has no {CARD_KEY!r} entry)")
    try:
        state = {
            key.removeprefix(MODEL_PREFIX): value
            for key, value in content["state_dict"].items()
            if key.startswith(MODEL_PREFIX)
        }
        batches = int(content.get(BATCHES_KEY, 0))
        epoch = int(content["epoch"]) + (0 if batches else 1)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); use another checkpoint of the run") from error
    return Checkpoint(path, _read_card(path, content[CARD_KEY]), epoch, state, batches)


def _load_export(path: Path) -> Checkpoint:
    """Read weights that `save_weights` wrote, and the settings beside them."""
    config = path.with_name(CONFIG_FILE)
    try:
        plain = json.loads(config.read_text(encoding="utf-8"))
        card, epoch, expected = plain[CARD_KEY], int(plain["epoch"]), plain["weights"][SEAL]
    except FileNotFoundError:
        raise CheckpointError(f"{config} is missing: it says what the weights {path} are of") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{config} is not the settings of an exported model ({one_line(repr(error))}); export it again"
        ) from error
    state, texts = read_safetensors(path)
    found = file_hash(path)
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that {CONFIG_FILE} was written with (its SHA-256 is {found[:12]}…, expected"
            f" {str(expected)[:12]}…); export the model again"
        )
    described = _read_card(config, card)
    if texts.get(CARD_KEY) != seal_of(card):
        raise CheckpointError(
            f"{path} belongs to another {CONFIG_FILE} than the one beside it; export the model again"
        )
    return Checkpoint(path, described, epoch, state)


def _read_card(path: Path, plain: Any) -> ModelCard:
    """Read a file's card; an error names the file."""
    try:
        return ModelCard.from_plain(plain)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def sealed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values with their own SHA-256 among them, so that a later change of one is noticed."""
    return {**plain, SEAL: seal_of(plain)}


def seal_of(plain: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values as JSON; a seal among them is left out."""
    unsealed = {key: value for key, value in plain.items() if key != SEAL}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode("ascii")).hexdigest()


def version() -> str:
    """Return the version of this package."""
    try:
        return importlib.metadata.version("twostream")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout, without being installed


def save_weights(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Write a model as `model.safetensors` and `config.json`; `load_checkpoint` reads them.

    The settings hold the whole card, sealed, and the hash of the weights; the weights hold the card's. So neither can
    be changed, or be put beside another, without notice.

    Args:
        folder: where they appear, each whole or not at all.
        checkpoint: the trained model.
    """
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    card = checkpoint.card.to_plain()
    with replacing(weights) as partial:
        write_safetensors(partial, checkpoint.state, {"format": "pt", CARD_KEY: card[SEAL]})
    plain = {
        CARD_KEY: card,
        "epoch": checkpoint.epoch,
        "weights": {"file": WEIGHTS_FILE, SEAL: file_hash(weights)},
        "written_by": f"twostream {version()}",
    }
    write_text(config, json.dumps(plain, indent=1))
    return [weights, config]


def load_streams(model: TwoStream, card: ModelCard) -> ModelCard:
    """Fill the model's streams from the trained checkpoints that its settings name.

    Args:
        model: the model to fill.
        card: what the model will be trained for.

    Returns:
        The card, which knows what these checkpoints have seen, too.

    Raises:
        CheckpointError: a checkpoint lacks the stream, has seen videos of the test side, or was made for other classes,
            another flow or another architecture.
    """
    sources = {"rgb": model.config.rgb_checkpoint, "flow": model.config.flow_checkpoint}
    for name, path in sources.items():
        if path is None:
            continue
        checkpoint = load_checkpoint(path)
        checkpoint.require_classes(card.classes)
        if name == "flow":
            checkpoint.require_flow(card.flow)
        if card.split and checkpoint.card.split:
            _require_unseen_test(checkpoint, checkpoint.card.split, card.split)
            card = dataclasses.replace(card, split=card.split.after(checkpoint.card.split))
        prefix = f"streams.{name}."
        state = {k.removeprefix(prefix): v for k, v in checkpoint.state.items() if k.startswith(prefix)}
        if not state:
            raise CheckpointError(f"{path} holds no {name} stream")
        try:
            model.streams[name].load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"the {name} stream of {path} has another architecture than model.* asks for"
                f" ({one_line(error)[:200]})"
            ) from error
    return card


def _require_unseen_test(checkpoint: Checkpoint, known: SplitRecord, split: SplitRecord) -> None:
    """Refuse a stream that was trained, or validated, on videos of the test side of a split."""
    test = split.split().test
    contents = {video.path: video.sha256 for video in split.videos}
    if seen := known.find_seen(test, contents):
        raise CheckpointError(
            f"{checkpoint.path} has seen {len(seen)} of the {len(test)} test videos of this split in its own training"
            f" ({describe_seen(seen)}); train the stream on the same split"
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file of a model that was read from elsewhere; `load_checkpoint` reads it."""
    _save(path, checkpoint.state, checkpoint.card, checkpoint.epoch)


def save_model(path: Path, model: TwoStream, card: ModelCard, epochs: int) -> None:
    """Write a checkpoint of a model that no single training made; `load_checkpoint` reads it.

    Args:
        path: where it appears, whole or not at all.
        model: the network.
        card: what it was trained for.
        epochs: epochs that are complete.
    """
    _save(path, model.state_dict(), card, epochs)


def _save(path: Path, weights: Mapping[str, torch.Tensor], card: ModelCard, epochs: int) -> None:
    state = {f"{MODEL_PREFIX}{name}": values.detach().cpu() for name, values in weights.items()}
    with replacing(path) as partial:
        torch.save({CARD_KEY: card.to_plain(), "state_dict": state, "epoch": epochs - 1}, partial)


def update_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Replace some weights of a checkpoint, by their names in `TwoStream`; all else in the file stays."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, values in weights.items():
        content["state_dict"][f"{MODEL_PREFIX}{name}"] = values.detach().cpu()
    with replacing(path) as partial:
        torch.save(content, partial)
