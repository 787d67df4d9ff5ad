#!/usr/bin/env bash
# Runs the tests of this checkout with another version of tch, in a copy of it below `target`.
#
#   scripts/check-tch.sh 0.26                     all tests, also those of process groups
#   scripts/check-tch.sh 0.26 --test mix          only what these arguments of `cargo test` select
#
# The copy keeps its build, so that the next run is quick. libtorch is fetched like that of the checkout.
set -euo pipefail

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly checkout

fail() {
    printf 'check-tch.sh: %s\n' "$*" >&2
    exit 1
}

[[ ${1:-} =~ ^0\.[0-9]+$ ]] || fail "name a version of tch, for example 0.26"
readonly version=$1 copy=$checkout/target/tch-$1
shift

# Without what an earlier copy has and the checkout no longer has.
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name target ! -name libtorch -exec rm -rf {} +
cd "$checkout"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | tar --create --null --files-from - | tar --extract --directory "$copy"

cd "$copy"
cargo update --quiet --precise "$version.0" tch
unset LIBTORCH LIBTORCH_USE_PYTORCH CARGO_TARGET_DIR
scripts/setup-libtorch.sh
grep -A 1 -E '^name = "(tch|torch-sys)"' Cargo.lock | grep version
if [ $# -gt 0 ]; then
    exec cargo test "$@"
fi
cargo test --no-fail-fast --features distributed
