#!/usr/bin/env bash
# Check flow on this machine's GPU in under eight minutes: tests, compute-sanitizer on a small case, benchmark.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: tools/gpu_check.sh [--help] [benchmark arguments ...]

From a checkout, on a machine with a CUDA device and this project's GPU dependencies (nothing is installed or
downloaded): runs the tests marked `gpu`, compute-sanitizer's memcheck, racecheck, synccheck and initcheck on a small
case with every tuning, where it is installed, and tools/benchmark_cuda.py, each with a time limit. A step that fails is
shown and the others still run. At the end: one page with all results, and what was not done for want of a package.
Needed: numpy, lazy-loader, cupy-cuda13x (or -cuda12x); pytest for the tests, numba for the CPU's side of comparisons;
torch and OpenCV for tests that use them, av and OpenCV to read --videos.

Writes gpu_check.md, gpu_check.csv and gpu_check.log beside the benchmark's reports into $OUT, or reports/benchmarks.
$PYTHON: the interpreter (default: python3). Arguments go to the benchmark, e.g. --videos FOLDER.
Exit status: 0 all steps passed; 1 some failed; 2 no usable GPU.
TEXT
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
out=${OUT:-reports/benchmarks}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export FLOW_CACHE_REQUIRE_GPU=1 # a test that finds no GPU fails then
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" # where compute-sanitizer often is

if ! said=$("$python" -c '
import sys
from flow_cache.methods.device import open_device
from flow_cache.errors import FlowCacheError
try:
    open_device("cuda")
except FlowCacheError as error:
    sys.exit(str(error))
' 2>&1); then
  printf 'gpu_check: %s\n' "$(tail -n 1 <<<"$said")" >&2
  exit 2
fi

# What is not there, of what some step uses; the steps themselves say what they leave out.
lacking=$("$python" -c '
from importlib.util import find_spec
uses = {"pytest": "tests", "numba": "comparisons with the CPU", "cv2": "tests, videos", "av": "videos", "torch": "tests of DLPack"}
print("; ".join(f"{name} ({use})" for name, use in uses.items() if find_spec(name) is None))
' 2>/dev/null)

mkdir -p "$out" || exit 2
log="$out/gpu_check.log"
: >"$log"
results=("step,result,seconds")
failed=0

# step NAME SECONDS COMMAND...: run with a limit, show the end of what a failing one said, note how it went.
step() {
  local name=$1 limit=$2 start=$SECONDS status result=passed
  shift 2
  printf '\n=== %s (at most %s s): %s\n' "$name" "$limit" "$*" | tee -a "$log"
  timeout --kill-after=5 "$limit" "$@" </dev/null 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  case $status in
    0) ;;
    124 | 137) result="took more than $limit s" ;;
    *) result="failed with status $status" ;;
  esac
  if [ "$status" -ne 0 ]; then failed=1; fi
  results+=("$name,$result,$((SECONDS - start))")
}

# The folders whose tests drive the device; others may need packages that a GPU machine lacks.
step tests 140 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/flow_cache/methods

for tool in memcheck racecheck synccheck initcheck; do
  if command -v compute-sanitizer >/dev/null; then
    step "$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 3 --report-api-errors no \
      "$python" tools/benchmark_cuda.py --small-case
  else
    results+=("$tool,skipped: compute-sanitizer is not installed,0")
  fi
done

# 470 seconds less what has been used, and some to write the report in.
left=$((470 - SECONDS))
step benchmark "$left" "$python" tools/benchmark_cuda.py --out "$out" --seconds "$((left - 60))" --case-seconds 5 --tune "$@"

printf '%s\n' "${results[@]}" >"$out/gpu_check.csv"
{
  printf '# Check on a GPU\n\n'
  printf '| step | result | seconds |\n|---|---|---|\n'
  for row in "${results[@]:1}"; do printf '| %s |\n' "${row//,/ | }"; done
  printf '\nPackages that are not installed: %s.\n' "${lacking:-none}"
} >"$out/gpu_check.md"

# The page: what the benchmark has found, then each step and what is lacking.
printf '\n=== Result\n'
sed -n '/^tvl1\|^farneback/p;/^real video/p;/^size  /,/^report:/p' "$log" | awk '!seen[$0]++' | grep -v '^report:'
printf 'not installed: %s\n' "${lacking:-nothing that is used}"

printf '\n%s\n' "reports: $out/gpu_check.md, $out/cuda.md"
for row in "${results[@]}"; do
  IFS=, read -r name result seconds <<<"$row"
  printf '%-10s %-48s %8s\n' "$name" "$result" "$seconds"
done
exit "$failed"
