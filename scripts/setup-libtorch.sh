#!/usr/bin/env bash
# Puts libtorch where `cargo` looks for it. Returns at once if there is nothing to do.
#
#   LIBTORCH or LIBTORCH_USE_PYTORCH set   uses that libtorch, after checking its version
#   otherwise                              installs the PyPI wheel into a per-user cache, once, and links it as
#                                          `libtorch` in this checkout
#
# Without an NVIDIA driver, only what the CPU needs is fetched and kept. PATCHMIX_LIBTORCH=cpu or =cuda overrides the
# choice. The version is that of the tch in Cargo.lock. Its wheels are those whose SHA-256 is in libtorch-hashes.txt;
# of other versions, which only check-tch.sh uses, the package index is trusted.
#
# Safe to interrupt and to repeat: the wheel is installed in a temporary folder and moved into place when complete.
set -euo pipefail
umask 022 # what is installed is trusted only if nobody else can write to it

readonly OLDEST_PYTHON=10 # minor version of Python 3; there is no wheel for older ones
checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly checkout
readonly link=$checkout/libtorch hashes=$checkout/scripts/libtorch-hashes.txt

say() { printf 'libtorch: %s\n' "$*" >&2; }
fail() {
    printf 'libtorch: error: %s\n' "$*" >&2
    exit 1
}

# Prints the version of libtorch that the locked tch is made for.
version_wanted() {
    local tch
    tch=$(awk '/^name = "torch-sys"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' "$checkout/Cargo.lock")
    case $tch in
    0.24.*) echo 2.11.0 ;;
    0.26.*) echo 2.13.0 ;;
    *) fail "no libtorch is known for tch ${tch:-(none in Cargo.lock)}; add it to version_wanted in this script" ;;
    esac
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

# Prints the folder of the cache. Never one that several users share: its libraries are loaded because of their names.
cache_folder() {
    if [ -n "${PATCHMIX_CACHE:-}" ]; then
        echo "$PATCHMIX_CACHE"
    elif [ -n "${XDG_CACHE_HOME:-}" ]; then
        echo "$XDG_CACHE_HOME/patchmix"
    elif [ -n "${HOME:-}" ]; then
        echo "$HOME/.cache/patchmix"
    else
        fail "HOME is not set; set it, or name a folder of yours for libtorch in PATCHMIX_CACHE"
    fi
}

# Creates the cache for this user alone. Fails if another user could change what is in it.
check_cache() {
    (umask 077 && mkdir -p "$cache") || fail "the cache folder $cache cannot be created; name another in PATCHMIX_CACHE"
    # A link is its owner's to change, and so is the folder.
    [ -n "$(find "$cache" -maxdepth 0 -user "$(id -u)")" ] && [ -O "$cache" ] ||
        fail "the cache folder $cache belongs to another user; name one of yours in PATCHMIX_CACHE"
    [ -z "$(find "$cache/" -maxdepth 0 '(' -perm -020 -o -perm -002 ')')" ] ||
        fail "others can write to the cache folder $cache; empty it and run: chmod 700 $cache"
}

# Waits until no other set-up works on the cache: two at once would overwrite each other. The lock is that of the open
# file, which ends with this script, however it ends. macOS has no program flock, but Python, which pip needs, has it.
lock_cache() {
    exec 9>"$cache/lock"
    python3 - <<'PYTHON' || fail "the cache folder $cache cannot be locked; name another in PATCHMIX_CACHE"
import fcntl, signal, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    try:
        fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("libtorch: waiting for another set-up to finish", file=sys.stderr, flush=True)
        fcntl.flock(9, fcntl.LOCK_EX)
except OSError as error:
    sys.exit(f"libtorch: {error}")
PYTHON
}

# Whether folder $1 has the libraries.
has_libraries() { [ -e "$1/lib/libtorch_cpu.so" ] || [ -e "$1/lib/libtorch_cpu.dylib" ]; }

# Prints cpu or cuda, the kind of libtorch linked in this checkout; nothing if none of the wanted version is.
linked_kind() {
    if [ "$(version_of "$link" 2>/dev/null || true)" = "$VERSION" ] && has_libraries "$link"; then
        if [ -e "$link/lib/libtorch_cuda.so" ]; then echo cuda; else echo cpu; fi
    fi
}

# Fails if another user than root could change the libtorch in folder $1, or put another in its place. $2 is its name.
check_owner() {
    local folder theirs
    folder=$(CDPATH='' cd -P -- "$1" && pwd)
    theirs=$(find "${folder%/*}/" "$folder/" "$folder/lib/" -maxdepth 0 \
        '(' ! -user "$(id -u)" ! -user 0 -o -perm -020 -o -perm -002 ')' | tr '\n' ' ')
    [ -z "$theirs" ] ||
        fail "$2 is not trusted: others own or can write to ${theirs% }; remove it, or make it yours alone" \
            "(chmod go-w), and run this again"
}

# Fails unless folder $1 holds the libtorch that tch needs. $2 is its name in the message, $3 is what to do.
check_version() {
    local found
    found=$(version_of "$1") || fail "$2 is not a libtorch (a folder with lib/ and include/); $3"
    has_libraries "$1" || fail "$2 has no lib/libtorch_cpu; $3"
    [ "$found" = "$VERSION" ] || [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] ||
        fail "$2 is libtorch $found, but this crate needs $VERSION; $3"
}

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing; $2"; }

# Whether this machine has an NVIDIA driver, also that of Windows seen from WSL 2.
has_driver() { [ -e /proc/driver/nvidia/version ] || [ -e /usr/lib/wsl/lib/libcuda.so.1 ]; }

# Fails unless this script can install libtorch here.
check_machine() {
    local system minor
    system="$(uname -s) $(uname -m)"
    case $system in
    "Linux x86_64" | "Linux aarch64" | "Darwin arm64") ;;
    *) fail "there is no wheel of torch $VERSION for $system; set LIBTORCH to a libtorch $VERSION" ;;
    esac
    need python3 "install Python 3, or set LIBTORCH to a libtorch $VERSION"
    minor=$(python3 -c 'import sys; print(sys.version_info[1])')
    [ "$minor" -ge "$OLDEST_PYTHON" ] ||
        fail "python3 is 3.$minor, but the wheel needs 3.$OLDEST_PYTHON;" \
            "install that, or set LIBTORCH to a libtorch $VERSION"
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "python3 has no pip; install it (for example the package python3-pip)," \
            "or set LIBTORCH to a libtorch $VERSION"
}

# Installs packages into $partial/site. Arguments are those of pip.
pip_install() {
    # pip unpacks in TMPDIR first; the default is often too small for this. What is installed is the cache: another copy
    # in pip's would double the space.
    TMPDIR=$partial/tmp python3 -m pip install --disable-pip-version-check --no-cache-dir --no-warn-conflicts \
        --root-user-action ignore --only-binary :all: --target "$partial/site" "$@" >&2 || {
        rm -rf "$partial"
        fail "pip could not install torch $VERSION; see its messages above, then run this again"
    }
}

# Installs torch and what it needs: what its libraries link to and, with CUDA, what `import torch` and torchrun need.
install_packages() {
    if grep -q "^torch==$VERSION " "$hashes"; then
        sed "$([ "$kind" = cuda ] || echo '/^# with CUDA/,$d')" "$hashes" >"$partial/requirements.txt"
        pip_install --require-hashes --no-deps --requirement "$partial/requirements.txt"
        return
    fi
    say "no hashes are known for torch $VERSION: the package index is trusted"
    pip_install --no-deps "torch==$VERSION"
    requirements >"$partial/requirements.txt"
    pip_install --requirement "$partial/requirements.txt"
}

# Prints the packages that the installed torch requires, of the same choice.
requirements() {
    python3 - "$partial/site" "$kind" <<'PYTHON'
import importlib.metadata, re, sys

folder, kind = sys.argv[1:]
(torch,) = importlib.metadata.distributions(name="torch", path=[folder])
for requirement in torch.requires or []:
    name = re.match(r"[\w-]+", requirement)[0]
    if kind == "cuda" and "extra ==" not in requirement and name not in ("cuda-bindings", "triton"):
        print(requirement)
    elif kind == "cpu" and name == "cuda-toolkit":
        # libtorch_cpu.so links to these two, but uses them only on a GPU.
        print(re.sub(r"\[.*?\]", "[cudart,cupti]", requirement))
PYTHON
}

# Removes from $partial/site what needs CUDA or is for Python alone.
keep_cpu_only() {
    local torch=$partial/site/torch
    # On Arm, torch.libs may hold libraries that libtorch_cpu.so links to.
    find "$partial/site" -mindepth 1 -maxdepth 1 ! -name torch ! -name torch.libs ! -name nvidia ! -name '*.dist-info' \
        -exec rm -rf {} +
    find "$torch" -mindepth 1 -maxdepth 1 ! -name lib ! -name include ! -name share ! -name version.py \
        -exec rm -rf {} +
    [ ! -d "$partial/site/nvidia" ] ||
        find "$partial/site/nvidia" -type f ! -name 'libcudart.so.*' ! -name 'libcupti.so.*' -delete
    (
        cd "$torch/lib"
        rm -rf libshm* libtorch_python.* libtorch_global_deps.* libc10_cuda.* libcaffe2_nvrtc.* libtorch_nvshmem.*
        if [ -e libtorch_cuda.so ]; then
            rm -f libtorch_cuda.so libtorch_cuda_linalg.so
            ln -sf libtorch_cpu.so libtorch.so # the original, a stub, links to libtorch_cuda.so too
        fi
    )
}

need cargo "install Rust from https://rustup.rs"
compiler=${CXX:-c++}
need "${compiler%% *}" "install a C++ compiler, for example the package g++"
# shellcheck disable=SC2086 # CXX may contain options
$compiler -std=c++20 -x c++ -fsyntax-only /dev/null 2>/dev/null ||
    fail "$compiler does not know C++20; install a newer compiler, for example GCC 12, or name one in CXX"
VERSION=$(version_wanted)
readonly VERSION

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

kind=${PATCHMIX_LIBTORCH:-}
case $kind in
'') if has_driver; then kind=cuda; else kind=cpu; fi ;;
cpu | cuda) ;;
*) fail "PATCHMIX_LIBTORCH=$kind: choose cpu or cuda, or unset it to choose by the NVIDIA driver" ;;
esac
[ "$kind" = cpu ] || [ "$(uname -s)" = Linux ] || fail "PATCHMIX_LIBTORCH=cuda: there is no CUDA on $(uname -s)"
readonly kind

# A libtorch with CUDA also works without a GPU. One without CUDA is not replaced unasked: that takes gigabytes.
linked=$(linked_kind)
if [ -n "$linked" ] && { [ "$linked" = "$kind" ] || [ -z "${PATCHMIX_LIBTORCH:-}" ]; }; then
    check_owner "$link" "the libtorch behind the link $link"
    [ "$linked" = cuda ] || [ "$kind" = cpu ] ||
        say "this machine has an NVIDIA driver, but libtorch here has no CUDA;" \
            "to fetch one that has it, run: PATCHMIX_LIBTORCH=cuda make libtorch"
    exit 0
fi
cache=$(cache_folder)
readonly cache
[ "${cache#/}" != "$cache" ] || fail "the cache folder $cache must be an absolute path"
[ ! -e "$link" ] || [ -L "$link" ] || fail "$link exists and is not a link; move it away and run this again"

check_cache

readonly installed=$cache/torch-$VERSION-$kind partial=$cache/torch-$VERSION-$kind.partial
if [ ! -d "$installed" ]; then
    check_machine
    lock_cache # after a wait, the work is done
fi
if [ ! -d "$installed" ]; then
    rm -rf "$partial" # left by an interrupted set-up
    case $kind in
    cpu) needed_gib=3 size="about 0.5 GB, without CUDA" ;;
    cuda) needed_gib=8 size="about 2.5 GB with its CUDA parts" ;;
    esac
    free_gib=$(($(df -Pk "$cache" | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free_gib" -ge "$needed_gib" ] ||
        fail "$cache has $free_gib GiB free, but the set-up needs $needed_gib;" \
            "free some space, or set PATCHMIX_CACHE to another folder"
    say "downloading the PyPI wheel torch $VERSION into $cache ($size, once)"
    mkdir -p "$partial/tmp"
    install_packages
    [ "$kind" = cuda ] || keep_cpu_only
    mv "$partial/site" "$installed"
    rm -rf "$partial"
    say "installed in $installed"
fi

check_version "$installed/torch" "$installed/torch" "it is damaged; remove $installed and run this again"
check_owner "$installed/torch" "$installed"
if [ "$(readlink "$link" || true)" != "$installed/torch" ] && [ -d "${CARGO_TARGET_DIR:-$checkout/target}" ]; then
    # cargo sees the same LIBTORCH and would keep what it has built and linked for another libtorch.
    for profile in dev release; do
        (cd "$checkout" && cargo clean --quiet --profile "$profile" --package torch-sys --package patchmix)
    done
fi
ln -sfn "$installed/torch" "$link"
say "linked $link -> $installed/torch"
