"""Fail unless the demo's report shows what the demo is there to show: only both streams together are right."""

import csv
import sys
from pathlib import Path

LEAST_FUSED = 0.90
LEAST_GAIN = 0.15

with Path(sys.argv[1]).open(newline="") as file:
    top1 = {
        row["output"]: float(row["top1"]) for row in csv.DictReader(file) if row.get("subset", "all") == "all"
    }
gain = top1["fused"] - max(top1["rgb"], top1["flow"])
print(f"top-1: {top1}, gain over the better stream {gain:.3f}")
if top1["fused"] < LEAST_FUSED or gain < LEAST_GAIN:
    sys.exit(f"expected fused top-1 of at least {LEAST_FUSED} and a gain of at least {LEAST_GAIN}")
