"""The variants of `tools/ablate.py`: what each changes, which output decides, and what is trained anew for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from twostream.config import TrainConfig
from twostream.errors import ConfigError
from twostream.models.settings import StreamConfig
from twostream.settings import STREAMS, StreamName, from_plain

Output = Literal["rgb", "flow", "fused", "product", "mean", "weighted"]
RULES: tuple[Output, ...] = ("product", "mean", "weighted")
"""Fusions that every evaluation of two streams has in its summary; nothing is run for them."""

NOTE = (
    "Attention over space that is learned (`model.rgb.spatial=attention`) is not among the variants: the features that"
    " are kept on disk are pooled already, so it would take the whole CNN in every epoch."
)


@dataclass(frozen=True)
class Variant:
    """One line of the table.

    Attributes:
        name: what it is called, and the name of its folder.
        output: row of `summary.csv` that decides. A stream's variants train that stream alone, with the settings that
            the staged recipe has for it.
        changes: settings that differ from the base, by dotted name.
        trains: streams that are trained anew; a fused variant takes the others from the runs of the base.
        cache: name of the flow cache that it needs in place of the base's.
        headline: run on three splits with two seeds, where nothing else is asked for.
    """

    name: str
    output: Output
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    trains: tuple[StreamName, ...] = ()
    cache: str | None = None
    headline: bool = False

    @property
    def base(self) -> str:
        """Name of the variant that this one is compared with."""
        return "fused" if self.output in RULES else self.output

    @property
    def splits(self) -> tuple[int, ...]:
        """Splits that it is run on by default."""
        return (1, 2, 3) if self.headline else (1,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that it is run with by default: one where a CNN is fine-tuned for it."""
        return (0, 1) if self.headline or "flow" not in self.trains else (0,)

    @property
    def text(self) -> str:
        """The changes in one line."""
        changes = [f"{name}={value}" for name, value in self.changes.items()]
        return (
            ", ".join(changes) if changes else "read from the runs of fused" if self.output in RULES else ""
        )


def _rgb(name: str, **changes: Any) -> Variant:
    return Variant(name, "rgb", {f"model.rgb.{key}": value for key, value in changes.items()}, ("rgb",))


def _rgb_training(name: str, **changes: Any) -> Variant:
    return Variant(name, "rgb", {key.replace("__", "."): value for key, value in changes.items()}, ("rgb",))


def _flow(name: str, cache: str | None = None, **changes: Any) -> Variant:
    return Variant(
        name, "flow", {key.replace("__", "."): value for key, value in changes.items()}, ("flow",), cache
    )


def _fused(name: str, headline: bool = False, **changes: Any) -> Variant:
    return Variant(
        name, "fused", {key.replace("__", "."): value for key, value in changes.items()}, headline=headline
    )


VARIANTS = (
    # the base: first the streams, which the fused runs are put together from
    Variant("rgb", "rgb", trains=("rgb",), headline=True),
    Variant("flow", "flow", trains=("flow",), headline=True),
    Variant("fused", "fused", headline=True),
    # parts of the RGB stream; the joint module needs two LSTMs
    _rgb("levels-local", levels="local", joint="none"),
    _rgb("levels-semantic", levels="semantic", joint="none"),
    _rgb("recurrence-none", recurrence="none", joint="none"),
    _rgb("unidirectional", bidirectional=False),
    _rgb("bidirectional", bidirectional=True),
    _rgb("temporal-average", temporal="average"),
    _rgb("temporal-additive", temporal="additive"),
    _rgb("temporal-multihead", temporal="multihead"),
    _rgb("joint-none", joint="none"),
    _rgb("joint-gated", joint="gated"),
    _rgb("joint-bilinear", joint="bilinear"),
    _rgb("joint-cross-attention", joint="cross_attention"),
    _rgb("level-losses-0", level_loss_weight=0.0),
    _rgb("level-losses-0.3", level_loss_weight=0.3),
    _rgb("spatial-average", spatial="average"),
    _rgb("spatial-motion", spatial="motion"),
    _rgb("plain-cnn", levels="semantic", joint="none", spatial="average", recurrence="none", temporal="average"),
    _rgb_training("rgb-ema", trainer__ema=0.999),
    _rgb_training("rgb-mixup", trainer__mixup=0.2),
    _rgb_training("rgb-balance", data__balance=True),
    # the flow stream, and how its flow is made and stored
    _flow("stack-1", data__stack=1),
    _flow("stack-5", data__stack=5),
    _flow("stack-10", data__stack=10),
    _flow("flow-frozen", model__flow__freeze_backbone=True),
    _flow("flow-farneback", "farneback"),
    _flow("flow-raft", "raft"),
    _flow("flow-lossless", "lossless"),
    _flow("flow-1-level", "1-level"),
    _flow("flow-3-levels", "3-levels"),
    _flow("flow-jpeg", "jpeg"),
    _flow("flow-ema", trainer__ema=0.999),
    _flow("flow-mixup", trainer__mixup=0.2),
    _flow("flow-balance", data__balance=True),
    # fusions and views
    *(Variant(f"fusion-{rule}", rule, headline=True) for rule in RULES),
    _fused("fusion-calibrated", headline=True, model__fusion="calibrated"),
    # attention merges clip by clip, so that both streams must see as many
    _fused("fusion-attention", model__fusion="attention", data__rgb__eval_clips=3, data__flow__eval_clips=3),
    _fused(
        "fusion-cross-attention", model__fusion="cross_attention", data__rgb__eval_clips=3, data__flow__eval_clips=3
    ),
    *(_fused(f"views-{views}", data__rgb__views=views, data__flow__views=views) for views in (1, 2, 10)),
)  # fmt: skip
NAMES = {variant.name: variant for variant in VARIANTS}


def settings_of(
    variant: Variant, base: TrainConfig, split: int, seed: int, caches: Mapping[str, str]
) -> TrainConfig:
    """Return the settings of a variant's run, all but its folder.

    Raises:
        ConfigError: the cache that it needs is not given, or the base cannot be changed in this way.
    """
    changes = {**variant.changes, split_setting(base, split): split, "seed": seed}
    if variant.cache is not None:
        if variant.cache not in caches:
            raise ConfigError(f"needs another flow cache: give --cache {variant.cache}=PATH")
        changes |= {"data.cache": caches[variant.cache], "flow.precompute": False}
    plain = asdict(base)
    for name, value in changes.items():
        *path, last = name.split(".")
        part = plain
        for key in path:
            part = part[key]
        part[last] = value
    config = from_plain(TrainConfig, plain).spelled_out()
    if variant.output not in STREAMS:
        return replace(config, recipe="staged")
    config = config.stage(variant.output)
    for name, value in changes.items():
        found: Any = asdict(config)
        for key in name.split("."):
            found = found[key]
        if found != value:
            raise ConfigError(
                f"stages.{variant.output} of the base sets {name} to {found}, so {value} has no effect"
            )
    return config


def split_setting(base: TrainConfig, split: int) -> str:
    """Name the setting that holds the number of a split.

    Raises:
        ConfigError: the base knows one split only, and this is another.
    """
    kind = base.data.split.kind
    if kind == "kfold":
        return "data.split.fold"
    if split != 1 and (kind == "group" or (kind == "auto" and base.data.lists is None)):
        raise ConfigError(f"there is no split {split}: a split by source group is one; give --splits 1")
    return "data.split.number"


def same_result(one: TrainConfig, other: TrainConfig) -> bool:
    """Tell whether two runs with these settings come to the same, wherever the settings are said."""
    return _essence(one) == _essence(other)


def _essence(config: TrainConfig) -> dict[str, Any]:
    """Return what matters to a run's result, wherever it is said."""
    plain = asdict(config)
    for part in ("flow", "storage"):  # they fill a cache; what counts is what the cache holds
        del plain[part]
    for name in [*STREAMS, *(entry.name for entry in fields(StreamConfig))]:
        del plain["model"][name]
    return {**plain, "made of": {name: asdict(config.model.stream(name)) for name in config.model.streams}}
