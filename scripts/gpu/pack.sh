# shellcheck shell=bash disable=SC2154 # gpu.sh sets `here`
# Builds the programs and packs them with the files they read.

readonly MAX_MIB=40

# Writes pack.tar.xz and the scripts that run it into folder $1.
pack() {
    local checkout folder staging program
    checkout=$(CDPATH='' cd -- "$here/.." && pwd)
    mkdir -p "$1"
    folder=$(CDPATH='' cd -- "$1" && pwd)
    rm -rf "$folder/staging"
    staging=$folder/staging
    mkdir -p "$staging/bin" "$staging/tests" "$staging/scripts"

    [ -n "${LIBTORCH:-}${LIBTORCH_USE_PYTORCH:-}" ] || PATCHMIX_LIBTORCH=cuda "$checkout/scripts/setup-libtorch.sh"
    (cd "$checkout" && cargo build --release --features distributed --message-format=json \
        -p patchmix -p patchmix-examples \
        --test device --bench against_pytorch --example pretrain_cifar --example evaluate) >"$folder/build.json" ||
        fail "the build failed; its messages are above"
    for program in device against_pytorch pretrain_cifar evaluate; do
        copy_program "$folder/build.json" "$program" "$staging/bin/$program"
    done
    rm "$folder/build.json"

    cp -r "$checkout/tests/fixtures" "$staging/tests/"
    cp -r "$checkout/scripts/peer" "$staging/scripts/"
    rm -rf "$staging/scripts/peer/__pycache__"
    printf '%s\n' "$checkout" >"$staging/checkout" # the programs contain this path
    tar -C "$staging" -c . | xz -T0 >"$folder/partial"
    mv "$folder/partial" "$folder/pack.tar.xz"
    cp -r "$here/gpu.sh" "$here/gpu" "$folder/"

    echo "needs $(newest_version GLIBC "$staging"/bin/*), $(newest_version GLIBCXX "$staging"/bin/*)"
    (cd "$staging" && du -sh bin/* tests/fixtures scripts/peer)
    rm -rf "$staging"
    local mib
    mib=$(du -sm "$folder" | cut -f1)
    echo "$folder: $mib MiB"
    [ "$mib" -le "$MAX_MIB" ] || fail "the pack is $mib MiB, more than $MAX_MIB"
}

# Copies program $2 of cargo's build report $1 to $3, without symbols.
copy_program() {
    local path
    path=$(python3 - "$1" "$2" <<'PYTHON'
import json, sys

for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[2]:
        print(message["executable"])
PYTHON
    )
    [ -n "$path" ] || fail "cargo built no program $2"
    strip -o "$3" "$path"
}

# Prints the newest version of library $1 that the other arguments need.
newest_version() {
    local library=$1
    shift
    objdump -T "$@" | grep -o "${library}_[0-9.]*" | sort -uV | tail -1
}
