#!/usr/bin/env python3
"""Compute the optical flow of a folder of videos: the same as `flow-cache precompute`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout, not installed
    from flow_cache.cli.main import main

    sys.exit(main(["precompute", *sys.argv[1:]]))
