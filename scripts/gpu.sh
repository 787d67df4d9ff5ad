#!/usr/bin/env bash
# Tests and measures this crate on a GPU machine that has PyTorch 2.11 for Python 3 but no Rust.
#
#   scripts/gpu.sh pack [FOLDER]    on this machine: builds and packs the programs into FOLDER (target/gpu-pack)
#   scripts/gpu.sh run [PART ...]   on the GPU machine, also as FOLDER/gpu.sh: runs these parts, or all; prints a table
#
# Environment of run:
#   OUT                  folder for the logs and the table (gpu-results)
#   PATCHMIX_PACK        the packed FOLDER
#   PATCHMIX_WORK        folder for the unpacked programs, runs and compiled kernels (patchmix-gpu in TMPDIR)
#   CIFAR                folder with the .bin files of CIFAR-10, for the parts loop and long (default: built-in images)
#   COMPILE              0: no compiled PyTorch; all: for all rows of step and growth (bfloat16 rows of step)
#   LONG_SECONDS, LONG_EPOCHS   time limit of the part long (300) and its number of epochs (20)
#   PATCHMIX_REHEARSE=1  the same on the CPU, with tiny sizes; implied if there is no GPU
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here

# Compiling all takes longer, and so does measuring it.
more() { [ "${COMPILE:-}" = all ] && echo "$2" || echo "$1"; }

# The parts in the order they run: name, time limit in seconds, log.
# `compile` runs in parallel with the checks and ends before anything is timed.
read -r -d '' PARTS <<END || true
environment  20  checks
compile      $(more 150 300)  checks
tests        90  checks
run          80  checks
nccl         40  checks
mix          40  bench
losses       40  bench
memory       30  bench
views        50  bench
step         $(more 170 300)  bench
growth       $(more 60 120)  bench
knobs        70  bench
issue        40  bench
trace        70  bench
loop         60  bench
long  ${LONG_SECONDS:-300}  long
END
export PARTS

fail() {
    printf 'gpu.sh: %s\n' "$*" >&2
    exit 1
}

case ${1:-} in
pack)
    # shellcheck source=scripts/gpu/pack.sh
    source "$here/gpu/pack.sh"
    pack "${2:-$here/../target/gpu-pack}"
    ;;
run)
    shift
    # shellcheck source=scripts/gpu/run.sh
    source "$here/gpu/run.sh"
    run_all "$@"
    ;;
part) # used by run: every part is a process of its own
    # shellcheck source=scripts/gpu/parts.sh
    source "$here/gpu/parts.sh"
    "part_$2"
    ;;
*)
    sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
