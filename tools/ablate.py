"""Train the variants of a base configuration and tabulate what each part of it is worth.

    python tools/ablate.py --list
    python tools/ablate.py --data.workers 1 --cache farneback=cache/jhmdb-farneback --out reports/jhmdb
    python tools/ablate.py --only joint-gated temporal-average --splits 1 --seeds 0 1

`benchmarks/ablations.py` holds the variants. Settings of the base are given as to `twostream-train`. Every run is an
ordinary training in `<work>/<variant>/split<k>-seed<s>`: finished ones are not repeated, an interrupted one goes on. A
fused run is put together from the runs of its streams. Writes ablation.csv and ablation.md after every run, from all
runs that are finished. A variant that cannot run is named at the end, with its reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.ablation_report import Row, write_report
from benchmarks.ablations import NAMES, NOTE, RULES, VARIANTS, Variant, same_result, settings_of
from benchmarks.report import provenance
from flow_cache import CacheReader, FlowCacheError, as_path, format_seconds, read_index
from twostream.cli.errors import INPUT_FAILED, run_command
from twostream.cli.train import parse
from twostream.config import TrainConfig
from twostream.errors import ConfigError, TwoStreamError, first_names, one_line
from twostream.files import write_text
from twostream.settings import STREAMS

CONFIG = Path(__file__).parents[1] / "twostream" / "configs" / "jhmdb.yaml"
STATE = "ablation.json"
COLUMNS = ("variant", "changes", "output", "split", "seed", "top1", "mean_class_accuracy", "f1_macro", "num_videos",
           "epochs", "seconds", "commit")  # fmt: skip


class Job(NamedTuple):
    """One run."""

    variant: Variant
    split: int
    seed: int

    def __str__(self) -> str:
        return f"{self.variant.name}, split {self.split}, seed {self.seed}"

    def sources(self) -> list[Job]:
        """List the runs that this one takes something from."""
        if self.variant.output in RULES:
            return [self._replace(variant=NAMES["fused"])]
        if self.variant.output in STREAMS:
            return []
        return [self._replace(variant=NAMES[name]) for name in STREAMS if name not in self.variant.trains]


@dataclass
class Study:
    """The base, where its runs are, and what could not be run."""

    base: TrainConfig
    work: Path
    caches: Mapping[str, str]
    skipped: dict[Job, str] = field(default_factory=dict)

    def folder(self, job: Job) -> Path:
        """Return the directory of a run; that of `fused` for the rules, which are rows of its summary."""
        name = "fused" if job.variant.output in RULES else job.variant.name
        return self.work / name / f"split{job.split}-seed{job.seed}"

    def state(self, job: Job) -> dict[str, Any]:
        """Read what has been noted of a run: `seconds`, and more once it is finished."""
        path = self.folder(job) / STATE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def finished(self, job: Job) -> bool:
        """Tell whether a run has come to its end."""
        return "commit" in self.state(job)

    def run(self, job: Job) -> None:
        """Do what is left of a run.

        Raises:
            TwoStreamError, FlowCacheError: it cannot be run.
            KeyboardInterrupt: it was interrupted; the same call goes on.
        """
        from twostream.run import (
            train,
        )  # torch and Lightning, which take seconds, once the arguments are right
        from twostream.run_directory import claim, read_record

        if missing := [str(source) for source in job.sources() if not self.finished(source)]:
            raise ConfigError(f"needs {' and '.join(missing)}, which did not run")
        folder = self.folder(job)
        if job.variant.output in RULES:
            self.measured(job)
            return
        config = settings_of(job.variant, self.base, job.split, job.seed, self.caches)
        config = replace(config, out=str(folder))
        if self.finished(job):
            claim(folder, config)  # refuses a run with other settings
            return
        changes = job.variant.text
        if job.variant.cache is not None:
            changes = f"data.cache={job.variant.cache} ({describe_cache(self.caches[job.variant.cache])})"
        for source in job.sources():
            self._take(source, folder / "stages" / source.variant.name)
        noted, started = self.state(job), time.monotonic()
        try:
            result = train(config)
            if result.interrupted:
                raise KeyboardInterrupt
            noted |= {"changes": changes, "epochs": read_record(folder)["trained"]["epochs"]}
            noted["commit"] = provenance()["commit"]
        finally:
            noted["seconds"] = noted.get("seconds", 0.0) + time.monotonic() - started
            if folder.is_dir():
                write_text(folder / STATE, json.dumps(noted, indent=1))

    def _take(self, source: Job, stage: Path) -> None:
        """Copy a trained stream to where the staged recipe looks for it; the record comes last and completes it."""
        from twostream.checkpoints import BEST
        from twostream.run_directory import read_record, write_record

        if read_record(stage).get("trained"):
            return
        (stage / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in (f"checkpoints/{BEST}", "metrics.csv"):
            shutil.copyfile(self.folder(source) / name, stage / name)
        write_record(stage, {"trained": read_record(self.folder(source))["trained"]})

    def measured(self, job: Job) -> Row:
        """Return the row of a finished run, from the summary of its evaluation.

        Raises:
            ConfigError: the evaluation lacks the output.
        """
        path = self.folder(job) / "evaluation" / "summary.csv"
        with path.open(newline="", encoding="utf-8") as file:
            found = {row["output"]: row for row in csv.DictReader(file) if row["subset"] == "all"}
        output = job.variant.output
        if output not in found:
            raise ConfigError(f"{path} has no row {output}; it has {', '.join(found)}")
        values = {**found[output], **(state := self.state(job))}
        changes = job.variant.text if output in RULES else state["changes"]
        known = {"variant": job.variant.name, "changes": changes, "split": job.split, "seed": job.seed}
        known["seconds"] = f"{state['seconds']:.0f}"
        return {name: known.get(name, values.get(name)) for name in COLUMNS}

    def rows(self) -> list[Row]:
        """Return a row for every finished run, in the order of the variants."""
        found = []
        for variant in VARIANTS:
            folder = self.folder(Job(variant, 0, 0)).parent
            names = [path.parent.name for path in folder.glob(f"split*-seed*/{STATE}")]
            numbers = sorted(tuple(map(int, name.removeprefix("split").split("-seed"))) for name in names)
            for job in (Job(variant, split, seed) for split, seed in numbers):
                if self.finished(job) and job not in self.skipped:
                    found.append(self.measured(job))
        return found

    @cached_property
    def settings(self) -> dict[str, TrainConfig | str]:
        """Give every variant's settings on split 1 with seed 0, or why there are none, by name."""
        found: dict[str, TrainConfig | str] = {}
        for variant in VARIANTS:
            try:
                found[variant.name] = settings_of(variant, self.base, 1, 0, self.caches)
            except TwoStreamError as error:
                found[variant.name] = one_line(error)
        return found

    @cached_property
    def unchanged(self) -> list[Variant]:
        """List the variants that are the base itself."""
        found = []
        for variant in VARIANTS:
            own, base = self.settings[variant.name], self.settings[variant.base]
            compared = variant.name != variant.base and variant.output not in RULES
            if compared and not isinstance(own, str) and not isinstance(base, str) and same_result(own, base):
                found.append(variant)
        return found

    def time_left(self, jobs: Sequence[Job]) -> str:
        """Estimate how long runs take from those that train the same and are finished."""
        known: dict[object, list[float]] = {}
        for folder in self.work.glob(f"*/split*-seed*/{STATE}"):
            state = json.loads(folder.read_text(encoding="utf-8"))
            if "commit" in state and (variant := NAMES.get(folder.parts[-3])):
                known.setdefault((variant.output, variant.trains), []).append(state["seconds"])
        if not known:
            return "time left unknown"
        usual = fmean(seconds for times in known.values() for seconds in times)
        times = [known.get((job.variant.output, job.variant.trains), [usual]) for job in jobs]
        return f"about {format_seconds(sum(map(fmean, times)))} left"


def describe_cache(path: str) -> str:
    """Say what a flow cache holds, by its first file."""
    root = as_path(path)
    entries = read_index(root) if root.is_dir() else []
    if not entries:
        raise ConfigError(f"flow cache {path} does not exist or is empty; make it with flow-cache precompute")
    with CacheReader(root / entries[0].cache_file) as reader:
        meta = reader.meta
    stored = {name: value for name, value in meta.storage.as_dict().items() if value is not None}
    stored.pop("rgb_quality", None)
    return f"{meta.method}, {', '.join(f'{name} {value}' for name, value in stored.items())}"


def plan(only: Sequence[Variant], splits: Sequence[int] | None, seeds: Sequence[int] | None) -> list[Job]:
    """List the runs that are asked for, each after those that it takes something from."""
    jobs: dict[Job, None] = {}
    for variant in only:
        for split in splits or variant.splits:
            for seed in seeds or variant.seeds:
                job = Job(variant, split, seed)
                jobs |= dict.fromkeys(
                    [*(more for one in job.sources() for more in one.sources()), *job.sources(), job]
                )
    return list(jobs)


def print_list(study: Study, jobs: Sequence[Job]) -> None:
    """Print the variants, what each trains, and what is done."""
    unchanged = study.unchanged
    for variant in dict.fromkeys(job.variant for job in jobs):
        own = [job for job in jobs if job.variant == variant]
        done = sum(study.finished(job) for job in own)
        trained = f"trains {' and '.join(variant.trains)}" if variant.trains else "trains nothing"
        cache = f"data.cache={variant.cache}" if variant.cache else ""
        state = "is the base" if variant in unchanged else f"{done} of {len(own)} runs done"
        if isinstance(trouble := study.settings[variant.name], str):
            state = trouble
        print(f"{variant.name}: {variant.output}; {trained}; {variant.text or cache or 'the base'}; {state}")
    print(NOTE)


def run(argv: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default=str(CONFIG), help="the base (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/jhmdb"), help="folder of the tables (default: %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/ablation"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", action="append", default=[], metavar="NAME=PATH", help="a flow cache of a variant"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these variants, and the runs that they are made from"
    )
    parser.add_argument("--splits", nargs="+", type=int, help="in place of those that each variant has")
    parser.add_argument("--seeds", nargs="+", type=int, help="likewise")
    parser.add_argument(
        "--list", action="store_true", help="say what there is, and what is done; run nothing"
    )
    options, settings = parser.parse_known_args(argv)
    base = parse(["--config", options.config, *settings])
    split = base.data.split
    if base.data.cache is None or base.overwrite or base.seed or (split.number, split.fold) != (1, 1):
        raise ConfigError(
            "the base must name --data.cache, and leaves seed, split and --overwrite to this tool: give --splits and"
            " --seeds, and remove runs from --work that are to be done again"
        )
    needed = {variant.cache for variant in VARIANTS if variant.cache}
    caches = {name: path for name, _, path in (text.partition("=") for text in options.cache)}
    for what, known, given in (("cache", needed, caches), ("variant", set(NAMES), options.only or [])):
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"no {what} {first_names(unknown)}; known are {', '.join(sorted(known))}")
    study = Study(replace(base, out=None), options.work, caches)
    jobs = plan([NAMES[name] for name in options.only or NAMES], options.splits, options.seeds)
    if options.list:
        print_list(study, jobs)
        return 0
    return run_all(study, jobs, options.out)


def run_all(study: Study, jobs: Sequence[Job], out: Path) -> int:
    """Run what is left, write the tables after each run, and name what could not be run."""
    from twostream.run_directory import claim

    try:
        claim(study.work, study.base)
    except ConfigError as error:
        raise ConfigError(f"{str(error).partition('; choose another')[0]}; choose another --work") from error
    unchanged = study.unchanged
    jobs = [job for job in jobs if job.variant not in unchanged]
    variants = list(dict.fromkeys(job.variant for job in jobs))
    for number, job in enumerate(jobs):
        left = [one for one in jobs[number:] if one.variant.output not in RULES and not study.finished(one)]
        if not study.finished(job):
            place = f"variant {variants.index(job.variant) + 1} of {len(variants)}, run {number + 1} of {len(jobs)}"
            print(f"== {place}: {job}; {study.time_left(left)}", flush=True)
        try:
            study.run(job)
        except (TwoStreamError, FlowCacheError) as error:
            study.skipped[job] = one_line(error)
            print(f"== skipped: {job}: {one_line(error)}", flush=True)
        if rows := study.rows():
            reasons = {job.variant.name: reason for job, reason in study.skipped.items()}
            write_report(out, study.base, rows, study.unchanged, reasons)
    print(f"== {len(jobs) - len(study.skipped)} of {len(jobs)} runs are done; tables in {out}")
    for variant in unchanged:
        print(f"== {variant.name} is the base: not run")
    for job, reason in study.skipped.items():
        print(f"ablate: skipped: {job}: {reason}", file=sys.stderr)
    return INPUT_FAILED if study.skipped else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command("ablate", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
