#!/usr/bin/env bash
# Puts libtorch where `cargo` looks for it. Returns at once if there is nothing to do.
#
#   LIBTORCH or LIBTORCH_USE_PYTORCH set   uses that libtorch, after checking its version
#   otherwise                              installs the PyPI wheel into a per-user cache, once, and links it as
#                                          `libtorch` in this checkout
#
# Safe to interrupt and to repeat: the wheel is installed in a temporary folder and moved into place when complete.
set -euo pipefail

readonly VERSION=2.11.0
readonly OLDEST_PYTHON=10 # minor version of Python 3; there is no wheel for older ones
checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PATCHMIX_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/patchmix}
readonly checkout cache
readonly link=$checkout/libtorch installed=$cache/torch-$VERSION

say() { printf 'libtorch: %s\n' "$*" >&2; }
fail() {
    printf 'libtorch: error: %s\n' "$*" >&2
    exit 1
}

# Prints the version of the libtorch in folder $1; fails if there is none.
version_of() {
    if [ -f "$1/version.py" ]; then
        sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$1/version.py"
    elif [ -f "$1/build-version" ]; then
        sed 's/[^0-9.].*//' "$1/build-version"
    else
        return 1
    fi
}

# Whether folder $1 has the libraries.
has_libraries() { [ -e "$1/lib/libtorch_cpu.so" ] || [ -e "$1/lib/libtorch_cpu.dylib" ]; }

# Fails unless folder $1 holds the libtorch that tch needs. $2 is its name in the message, $3 is what to do.
check_version() {
    local found
    found=$(version_of "$1") || fail "$2 is not a libtorch (a folder with lib/ and include/); $3"
    has_libraries "$1" || fail "$2 has no lib/libtorch_cpu; $3"
    [ "$found" = "$VERSION" ] || [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] ||
        fail "$2 is libtorch $found, but this crate needs $VERSION; $3"
}

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing; $2"; }

need cargo "install Rust from https://rustup.rs"
compiler=${CXX:-c++}
need "${compiler%% *}" "install a C++ compiler, for example the package g++"

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    need python3 "LIBTORCH_USE_PYTORCH needs it to find PyTorch"
    folder=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null) ||
        fail "LIBTORCH_USE_PYTORCH is set, but python3 cannot import torch; run: python3 -m pip install torch==$VERSION"
    check_version "$folder" "the PyTorch of python3" "run: python3 -m pip install torch==$VERSION"
    say "using the PyTorch of python3, $folder"
    exit 0
fi
if [ -n "${LIBTORCH:-}" ]; then
    [ "${LIBTORCH#/}" != "$LIBTORCH" ] || fail "LIBTORCH=$LIBTORCH: must be an absolute path"
    check_version "$LIBTORCH" "LIBTORCH=$LIBTORCH" "name another folder, or unset LIBTORCH to download it"
    say "using LIBTORCH=$LIBTORCH"
    exit 0
fi

# An empty variable is unset for this script but set for cargo.
[ -z "${LIBTORCH+set}" ] || fail "LIBTORCH is set but empty; unset it, or name a folder"
[ -z "${LIBTORCH_USE_PYTORCH+set}" ] || fail "LIBTORCH_USE_PYTORCH is set but empty; unset it, or set it to 1"

if [ "$(version_of "$link" 2>/dev/null || true)" = "$VERSION" ] && has_libraries "$link"; then
    exit 0
fi
[ "${cache#/}" != "$cache" ] || fail "the cache folder $cache must be an absolute path"
[ ! -e "$link" ] || [ -L "$link" ] || fail "$link exists and is not a link; move it away and run this again"

if [ ! -d "$installed" ]; then
    need python3 "install Python 3, or set LIBTORCH to a libtorch $VERSION"
    minor=$(python3 -c 'import sys; print(sys.version_info[1])')
    [ "$minor" -ge "$OLDEST_PYTHON" ] ||
        fail "python3 is 3.$minor, but the wheel needs 3.$OLDEST_PYTHON;" \
            "install that, or set LIBTORCH to a libtorch $VERSION"
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "python3 has no pip; install it (for example the package python3-pip)," \
            "or set LIBTORCH to a libtorch $VERSION"
    mkdir -p "$cache"
    # Two set-ups at once would overwrite each other; the second waits here and then finds the work done.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$cache/lock"
        flock --nonblock 9 || { say "waiting for another set-up to finish" && flock 9; }
    fi
fi
if [ ! -d "$installed" ]; then
    partial=$installed.partial
    rm -rf "$partial" # left by an interrupted set-up
    free_gib=$(($(df -Pk "$cache" | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free_gib" -ge 12 ] ||
        fail "$cache has $free_gib GiB free, but the download needs 12;" \
            "free some space, or set PATCHMIX_CACHE to another folder"
    say "downloading the PyPI wheel torch $VERSION into $cache (about 5 GB with its CUDA parts, a few minutes, once)"
    mkdir -p "$partial/tmp"
    # pip unpacks in TMPDIR first; the default is often too small for this.
    TMPDIR=$partial/tmp python3 -m pip install --disable-pip-version-check --no-warn-conflicts \
        --root-user-action ignore --target "$partial/site" "torch==$VERSION" >&2 || {
        rm -rf "$partial"
        fail "pip could not install torch $VERSION; see its messages above, then run this again"
    }
    rm -rf "$partial/tmp"
    mv "$partial/site" "$installed"
    rmdir "$partial"
    say "installed in $installed"
fi

check_version "$installed/torch" "$installed/torch" "it is damaged; remove $installed and run this again"
ln -sfn "$installed/torch" "$link"
say "linked $link -> $installed/torch"
