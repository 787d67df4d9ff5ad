#!/usr/bin/env bash
# Makes sure that libtorch is where `cargo` will look for it. Quick when there is nothing to do.
#
#   LIBTORCH or LIBTORCH_USE_PYTORCH set   that libtorch is used as it is, after a look at its version
#   otherwise                              the PyPI wheel goes into a per-user cache, once, and the link
#                                          `libtorch` in this checkout points at it
#
# Safe to interrupt and to run again: the wheel is installed beside its place and moved there when whole.
set -euo pipefail

readonly VERSION=2.11.0
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PATCHMIX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/patchmix}
readonly checkout cache
readonly link=$checkout/libtorch installed=$cache/torch-$VERSION

say() { printf 'libtorch: %s\n' "$*" >&2; }
fail() {
    printf 'libtorch: error: %s\n' "$*" >&2
    exit 1
}

# Prints the version of the libtorch in folder $1; fails when there is none.
version_of() {
    if [ -f "$1/version.py" ]; then
        sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$1/version.py"
    elif [ -f "$1/build-version" ]; then
        sed 's/[^0-9.].*//' "$1/build-version"
    else
        return 1
    fi
}

# Ends with one line unless folder $1, known to the user as $2, holds the libtorch that tch was made for.
check_version() {
    local found
    found=$(version_of "$1") || fail "$2 holds no libtorch; name the folder that has lib/ and include/ in it"
    [ -e "$1/lib/libtorch_cpu.so" ] || [ -e "$1/lib/libtorch_cpu.dylib" ] ||
        fail "$2 has no lib/libtorch_cpu; install libtorch $VERSION there, or unset the variable"
    [ "$found" = "$VERSION" ] || [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] ||
        fail "$2 is libtorch $found, and this crate needs $VERSION; install that one, or unset the variable"
}

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing; $2"; }

need cargo "install Rust from https://rustup.rs"
need "${CXX:-c++}" "install a C++ compiler, for example the package g++"

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    need python3 "LIBTORCH_USE_PYTORCH looks for PyTorch through it"
    folder=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null) ||
        fail "LIBTORCH_USE_PYTORCH is set, but python3 cannot import torch; run: python3 -m pip install torch==$VERSION"
    check_version "$folder" "the PyTorch of python3"
    say "using the PyTorch of python3, $folder"
    exit 0
fi
if [ -n "${LIBTORCH:-}" ]; then
    check_version "$LIBTORCH" "LIBTORCH=$LIBTORCH"
    say "using LIBTORCH=$LIBTORCH"
    exit 0
fi

if [ "$(version_of "$link" 2>/dev/null || true)" = "$VERSION" ]; then
    exit 0
fi
[ ! -e "$link" ] || [ -L "$link" ] || fail "$link is in the way; move it elsewhere and run this again"

if [ ! -d "$installed" ]; then
    need python3 "install Python 3, or set LIBTORCH to a libtorch $VERSION"
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "python3 has no pip; install it (for example the package python3-pip), or set LIBTORCH to a libtorch $VERSION"
    mkdir -p "$cache"
    # Two set-ups at once would write over each other; the second waits here and then finds the work done.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$cache/lock"
        flock 9
    fi
fi
if [ ! -d "$installed" ]; then
    free_gib=$(($(df -Pk "$cache" | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free_gib" -ge 12 ] ||
        fail "$cache has $free_gib GiB free and the download needs 12; free some space, or set PATCHMIX_CACHE to another folder"
    say "fetching the PyPI wheel torch $VERSION into $cache (about 5 GB with its CUDA parts, a few minutes, once)"
    partial=$installed.partial
    rm -rf "$partial"
    mkdir -p "$partial/tmp"
    # pip unpacks in TMPDIR before it moves things in place; the default is often too small for this.
    TMPDIR=$partial/tmp python3 -m pip install --quiet --progress-bar on --disable-pip-version-check --no-warn-conflicts \
        --target "$partial/site" "torch==$VERSION" >&2 ||
        fail "pip could not install torch $VERSION (its own words are above); run this again to go on"
    rm -rf "$partial/tmp"
    mv "$partial/site" "$installed"
    rmdir "$partial"
    say "installed in $installed"
fi

check_version "$installed/torch" "$installed/torch"
ln -sfn "$installed/torch" "$link"
say "linked $link -> $installed/torch"
