# shellcheck shell=bash disable=SC2154 # gpu.sh sets `here`
# Runs the parts, each within its time limit and in a process of its own, and prints their results.

# A CPU is slower: a rehearsal multiplies the time limits by this.
readonly REHEARSAL_PATIENCE=20

run_all() {
    local name seconds log pending=
    OUT=${OUT:-gpu-results}
    mkdir -p "$OUT"
    OUT=$(CDPATH='' cd -- "$OUT" && pwd)
    export OUT
    local wanted=" ${*:-$(cut -d' ' -f1 <<<"$PARTS" | tr '\n' ' ')} "
    for name in $wanted; do
        grep -q "^$name " <<<"$PARTS" || fail "no part $name; the parts are: $(cut -d' ' -f1 <<<"$PARTS" | tr '\n' ' ')"
    done
    unpack
    settle
    rm -f "$OUT"/{checks,bench,long}.log "$WORK/compile.log"
    : >"$OUT/table.txt"
    printf '%-12s %-12s %8s  %s\n' part result seconds 'key line' >>"$OUT/table.txt"

    # In the background, since it takes long and the checks are not timed.
    if [[ $wanted == *' compile '* ]]; then
        run_part compile "$(bound compile)" "$WORK/compile.log" &
        pending=$!
    fi
    while read -r name seconds log; do
        [[ $name != compile && $wanted == *" $name "* ]] || continue
        if [[ $log != checks && -n $pending ]]; then
            wait_for_compile "$pending"
            pending=
        fi
        run_part "$name" "$(bound "$name")" "$OUT/$log.log"
    done <<<"$PARTS"
    [ -z "$pending" ] || wait_for_compile "$pending"

    echo
    cat "$OUT/table.txt"
    ! grep -qE '^[a-z]+ +(FAILED|OUT OF TIME)' "$OUT/table.txt"
}

# Prints the time limit of part $1 in seconds.
bound() {
    local seconds
    seconds=$(awk -v name="$1" '$1 == name { print $2 }' <<<"$PARTS")
    [ "$DEVICE" = cuda ] || seconds=$((seconds * REHEARSAL_PATIENCE))
    echo "$seconds"
}

wait_for_compile() {
    wait "$1" || true
    cat "$WORK/compile.log" >>"$OUT/checks.log"
}

# Runs part $1 for at most $2 seconds; appends its output to log $3 and a line to the table.
run_part() {
    local start end status=0 result key lines=0
    start=$(date +%s)
    [ -f "$3" ] && lines=$(wc -l <"$3")
    printf '\n===== %s\n' "$1" >>"$3"
    timeout --kill-after=10 "$2" bash "$here/gpu.sh" part "$1" </dev/null >>"$3" 2>&1 || status=$?
    end=$(date +%s)
    case $status in
    0) result=ok ;;
    124 | 137) result='OUT OF TIME' ;;
    *) result=FAILED ;;
    esac
    # The last line that begins with "> ", or else the last line.
    key=$(tail -n +$((lines + 1)) "$3" | tr '\r' '\n' |
        awk '/^> / { key = substr($0, 3) } NF { last = $0 } END { print key == "" ? last : key }')
    printf '%-12s %-12s %8d  %s\n' "$1" "$result" "$((end - start))" "${key:0:200}" | tee -a "$OUT/table.txt"
}

# Unpacks the programs unless that is done, and links them where they look for their files.
unpack() {
    local pack=${PATCHMIX_PACK:-$here}
    [ -e "$pack/pack.tar.xz" ] || pack=$here/../target/gpu-pack
    [ -e "$pack/pack.tar.xz" ] ||
        fail "no pack.tar.xz in $pack; make one with scripts/gpu.sh pack, or name its folder in PATCHMIX_PACK"
    WORK=${PATCHMIX_WORK:-${TMPDIR:-/tmp}/patchmix-gpu}
    mkdir -p "$WORK"
    WORK=$(CDPATH='' cd -- "$WORK" && pwd)
    export WORK
    local sum place
    sum=$(sha256sum <"$pack/pack.tar.xz")
    if [ "$(cat "$WORK/unpacked" 2>/dev/null)" != "$sum" ]; then
        rm -rf "$WORK/pack"
        mkdir "$WORK/pack"
        python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="tar")' \
            "$pack/pack.tar.xz" "$WORK/pack" # not every machine has xz
        printf '%s\n' "$sum" >"$WORK/unpacked"
    fi
    place=$(cat "$WORK/pack/checkout")
    if [ ! -e "$place" ]; then
        rm -f "$place" # a stale link
        { mkdir -p "$(dirname "$place")" && ln -s "$WORK/pack" "$place"; } ||
            fail "cannot make the link $place; the programs look for their files there"
    fi
}

# Uses the files of CIFAR-10 as they are, or unpacks them if each is compressed.
unpack_cifar() {
    if [ ! -e "$CIFAR/test_batch.bin" ]; then
        python3 - "$CIFAR" "$WORK/cifar" <<'PYTHON'
import lzma, shutil, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder, unpacked = map(Path, sys.argv[1:])
unpacked.mkdir(exist_ok=True)


def unpack(path):
    if not (unpacked / path.stem).exists():
        with lzma.open(path) as source, open(unpacked / (path.stem + ".partial"), "wb") as target:
            shutil.copyfileobj(source, target)
        (unpacked / (path.stem + ".partial")).rename(unpacked / path.stem)


list(ThreadPoolExecutor().map(unpack, folder.glob("*.xz")))
PYTHON
        CIFAR=$WORK/cifar
    fi
    [ -e "$CIFAR/test_batch.bin" ] || fail "CIFAR must name a folder with the .bin or .bin.xz files of CIFAR-10"
}

# Sets the paths of libtorch and the programs, and the device.
settle() {
    local torch
    torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null) ||
        fail "python3 cannot import torch; install torch 2.11, or name its folder in PYTHONPATH"
    export BIN=$WORK/pack/bin
    # Prepended: the driver's own folder has to stay.
    export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PEER_PYTHONPATH=${PYTHONPATH:-}
    export TORCHINDUCTOR_CACHE_DIR=$WORK/compiled TRITON_CACHE_DIR=$WORK/compiled/triton
    export PRETRAIN_CIFAR=$BIN/pretrain_cifar
    if [ -n "${CIFAR:-}" ]; then
        unpack_cifar
        export CIFAR DATA=$CIFAR
    fi
    DEVICE=cuda
    if [ "${PATCHMIX_REHEARSE:-}" = 1 ] || ! nvidia-smi -L >/dev/null 2>&1; then
        DEVICE=cpu
        export PATCHMIX_REHEARSE=1 OMP_NUM_THREADS=1 # parallel runs would compete for the cores
        echo "rehearsal on the CPU with tiny sizes: ignore its times"
    fi
    export DEVICE
}
