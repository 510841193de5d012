#!/usr/bin/env bash
# Check the CUDA engine on this machine's GPU: the `gpu` tests, compute-sanitizer where it exists, a short benchmark.
#
#     tools/gpu_check.sh [OUTPUT]
#
# Takes less than eight minutes; writes tests.txt, flow_cuda.csv and flow_cuda.md into OUTPUT (default: gpu_check) and
# prints a short table last. Exit status: 0 all well, 1 a check failed, 2 there is no usable GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:-gpu_check}
python=${PYTHON:-python3}
mkdir -p "$output"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

if ! reason=$("$python" -c 'from flow_cache.device import open_device; open_device("cuda")' 2>&1); then
  tail -n 1 <<< "$reason" >&2
  exit 2
fi

echo "== tests [$SECONDS s]"
FLOW_CACHE_REQUIRE_GPU=1 timeout 200 "$python" -m pytest -q -m gpu tests/flow_cache/cuda 2>&1 | tee "$output/tests.txt" | tail -n 15
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1

echo "== compute-sanitizer [$SECONDS s]"
if command -v compute-sanitizer > /dev/null; then
  small='
import numpy as np
from flow_cache.methods import get_method
frames = (np.random.default_rng(0).random((3, 40, 72)) * 255).astype(np.uint8)
for name in ("tvl1", "farneback"):
    get_method(name, "cuda")(frames)
get_method("tvl1", "cuda", preset="fast").quantized(frames, 20.0)
'
  for tool in memcheck racecheck; do
    CUPY_CACHE_IN_MEMORY=1 timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$python" -c "$small" > "$output/$tool.txt" 2>&1
    case $? in
      0) echo "$tool: no errors" ;;
      124) echo "$tool: not done within 60 s" ;;
      *) echo "$tool: errors, see $output/$tool.txt"; failed=1 ;;
    esac
  done
else
  echo "not installed"
fi

echo "== benchmark [$SECONDS s]"
timeout 130 "$python" tools/benchmark_cuda.py --out "$output" --sizes 340x256 --batches 1 64 256 \
  --repeats 5 --tune || failed=1
[ "$SECONDS" -gt 400 ] || timeout $((460 - SECONDS)) "$python" tools/benchmark_cuda.py \
  --out "$output/large" --sizes 1920x1080 --batches 1 8 --repeats 5 || failed=1

echo "== $([ $failed -eq 0 ] && echo all well || echo FAILED) [$SECONDS s]"
tail -n 1 "$output/tests.txt"
for table in "$output/flow_cuda.md" "$output/large/flow_cuda.md"; do
  [ -f "$table" ] && grep '^|' "$table"
done
exit $failed
