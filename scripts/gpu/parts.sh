# shellcheck shell=bash disable=SC2154 # gpu.sh sets `here`
# The parts. The table shows the last line of a part that begins with "> ".

rehearse() { [ "$DEVICE" = cpu ]; }

part_environment() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm --format=csv || true
    python3 -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)'
    python3 -c 'import torchvision; print("torchvision", torchvision.__version__)'
    echo "$(getconf _NPROCESSORS_ONLN) cores, $(awk '/MemTotal/ { print int($2 / 1048576) }' /proc/meminfo) GiB"
    local missing
    missing=$(ldd "$BIN"/* | grep 'not found' | sort -u || true)
    [ -z "$missing" ] || { echo "$missing" && echo "> libraries not found" && return 1; }
    echo "> $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo CPU)," \
        "$(getconf _NPROCESSORS_ONLN) cores"
}

part_compile() { "$BIN/against_pytorch" compile; }

part_tests() {
    # Comparisons with the CPU need float32; cuDNN's convolutions use TF32 by default.
    local status=0
    PATCHMIX_TEST_DEVICE=$DEVICE NVIDIA_TF32_OVERRIDE=0 "$BIN/device" --test-threads=1 2>&1 | tee "$WORK/tests.log" ||
        status=$?
    echo "> $(grep '^test result' "$WORK/tests.log" || echo 'no result')"
    return "$status"
}

# Trains into folder $1.
train() {
    local folder=$1
    shift
    "$BIN/pretrain_cifar" --out "$folder" --device "$DEVICE" "$@"
}

# Trains run $1 straight through and again with a stop after $2 steps; compares them as $3 says.
resumed() {
    local name=$1 stop=$2 how=$3 straight
    shift 3
    train "$WORK/runs/$name-straight" "$@" >"$WORK/runs/$name-straight.log" 2>&1 &
    straight=$!
    train "$WORK/runs/$name-stopped" --stop-after "$stop" "$@" >"$WORK/runs/$name-stopped.log" 2>&1 || true
    train "$WORK/runs/$name-stopped" --resume >>"$WORK/runs/$name-stopped.log" 2>&1 || true
    wait "$straight" || true
    tail -n 3 "$WORK/runs/$name-straight.log"
    python3 "$here/gpu/compare.py" "$name" "$how" "$WORK/runs/$name-straight" "$WORK/runs/$name-stopped" || {
        tail -n 5 "$WORK/runs/$name-straight.log" "$WORK/runs/$name-stopped.log"
        return 1
    }
}

part_run() {
    rm -rf "$WORK/runs"
    mkdir -p "$WORK/runs"
    local images=4096 stop=96 few_images=1024 few_stop=24 # stops after one and a half epochs
    local tiny_images=2048 tiny_batch=128 tiny_stop=24
    if rehearse; then
        images=256 stop=6 few_images=256 few_stop=6 tiny_images=16 tiny_batch=4 tiny_stop=6
    fi
    local quick=(--recipe quick --dataset builtin --epochs 2 --knn-images 1024)
    local tiny=(--recipe vit-tiny --dataset builtin --limit "$tiny_images" --batch-size "$tiny_batch" --epochs 2
        --warmup-epochs 1 --knn-every 2 --knn-images 512 --deterministic)
    # In parallel: they are compared, not timed. Sums whose order varies drive two runs apart, by 7e-3 in the losses
    # after 128 steps; a short run tells that from a wrong resume.
    local pids=() pid failed=0
    resumed quick "$few_stop" close "${quick[@]}" --limit "$few_images" --precision f32-strict &
    pids+=($!)
    resumed quick-deterministic "$stop" exact "${quick[@]}" --limit "$images" --deterministic &
    pids+=($!)
    resumed vit-tiny-deterministic "$tiny_stop" exact "${tiny[@]}" &
    pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid" || failed=$((failed + 1)); done
    "$BIN/evaluate" knn --checkpoint "$WORK/runs/quick-straight" --device "$DEVICE" --limit 1024
    echo "> $((3 - failed)) of 3 stopped runs resumed correctly"
    [ "$failed" = 0 ]
}

part_nccl() {
    rm -rf "$WORK/nccl"
    mkdir -p "$WORK/nccl"
    local options=(--recipe quick --dataset builtin --epochs 1 --limit 1024 --knn-images 512
        --precision f32-strict --timeout 30) alone
    train "$WORK/nccl/alone" "${options[@]}" >"$WORK/nccl/alone.log" 2>&1 &
    alone=$!
    WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29517 NCCL_DEBUG=VERSION \
        train "$WORK/nccl/rank" "${options[@]}"
    wait "$alone"
    echo "> $(python3 "$here/gpu/compare.py" 'one rank beside none' close "$WORK/nccl/alone" "$WORK/nccl/rank")"
}

bench() { "$BIN/against_pytorch" "$@"; }

part_mix() { bench mix; }
part_losses() { bench losses; }
part_memory() { bench memory; }
part_views() { bench views; }
part_step() { bench step; }
part_growth() { bench growth; }
part_issue() { bench issue; }
part_trace() { bench trace; }
part_loop() { bench loop; }

part_knobs() {
    bench knobs
    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True bench knobs
}

# Runs the published recipe on real images within the time limit, then the linear probe if time is left.
part_long() {
    local run=$WORK/long epochs=${LONG_EPOCHS:-20} seconds=${LONG_SECONDS:-300} reserve=30 started=$SECONDS
    local left status=0 probe=()
    local options=(--recipe vit-tiny --precision bf16)
    if [ -n "${CIFAR:-}" ]; then
        options+=(--dataset cifar10 --data "$CIFAR")
    else
        options+=(--dataset builtin)
    fi
    if rehearse; then
        epochs=${LONG_EPOCHS:-3} probe=(--batch-size 16 --epochs 10)
        options+=(--limit 32 --batch-size 8 --knn-images 32 --patch-size 8)
    fi
    rm -rf "$run"
    # On SIGINT the run saves what it has; the part's own time-out would kill it.
    timeout --foreground --signal=INT --kill-after=20 $((seconds - reserve)) "$BIN/pretrain_cifar" --out "$run" \
        --device "$DEVICE" --epochs "$epochs" --warmup-epochs $(((epochs + 9) / 10)) --knn-every $(((epochs + 4) / 5)) \
        "${options[@]}" || status=$?
    cp "$run"/{metrics.csv,curves.png,mix.png,summary.json} "$OUT/" || true
    echo "> $(python3 - "$run/metrics.csv" "$epochs" <<'PYTHON'
import csv, sys

*_, last = rows = list(csv.DictReader(open(sys.argv[1])))
knn = [row["knn_top1"] for row in rows if row["knn_top1"]]
rate = sorted(float(row["images_per_second"]) for row in rows)[len(rows) // 2]
loss = float(last["loss"])
print(f"{len(rows)} of {sys.argv[2]} epochs, loss {loss:.3f}, kNN {knn[-1:]}, median {rate:.0f} images/s")
PYTHON
    )"
    [ "$status" = 0 ] || [ "$status" = 124 ] || return "$status"
    left=$((seconds - 5 - (SECONDS - started)))
    [ "$left" -ge 20 ] || return 0
    timeout --foreground "$left" "$BIN/evaluate" linear --checkpoint "$run" --device "$DEVICE" "${probe[@]}" ||
        echo "no linear probe in $left s"
}
