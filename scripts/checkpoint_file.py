"""Reads the tensors of checkpoints, and says in one line what else a file is. Executes nothing in it."""

import argparse
import os
import re
import signal
import stat
import sys
import unicodedata
import warnings
import zipfile

# Checkpoints of PyTorch are programs for its unpickler. `weights_only=True` lets older ones write outside their memory
# (before 2.10) or execute code (before 2.6).
OLDEST_SAFE_TORCH = "2.10"
MAX_DEPTH = 16  # dictionaries in dictionaries; one that contains itself has no end
MAX_ENTRIES = 200_000  # in all of them; a dictionary that is in many others can count as billions
MAX_NAME = 200  # characters of a name that are printed

# The beginnings of files that are taken for checkpoints.
OTHER_FILES = {
    b"\x89PNG": "is a PNG image; name a .pth or .safetensors file",
    b"\xff\xd8\xff": "is a JPEG image; name a .pth or .safetensors file",
    b"\x89HDF": "is an HDF5 file; load it where it was made, and save the weights with torch.save",
    b"\x93NUMPY": "is an array of NumPy; name a .pth or .safetensors file",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
    b"BZh": "is a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "is an xz archive; unpack it first",
    b"(\xb5/\xfd": "is a zstd archive; unpack it first",
    b"<": "is a web page, not the file it is about; download the file itself",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file with git lfs pull",
}


def printable(text):
    """Text from outside, with escapes for what controls a terminal, and cut where no name is that long."""
    escape = lambda character: character.encode("unicode_escape").decode("ascii")
    steers = lambda character: unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    text = str(text)
    shown = text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."
    return "".join(escape(character) if steers(character) else character for character in shown)


class Refused(Exception):
    """Why a file is not taken, in words that follow its name."""


def stop(message):
    """Ends the program with an error in one line."""
    sys.exit(f"error: {message}")


def end_on_signals():
    """Lets Ctrl-C and SIGTERM end the program with a line and clean up, also while torch is imported."""

    def end(number, _):
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


end_on_signals()
try:
    import safetensors.torch
    import torch
except (ImportError, OSError) as error:
    stop(f"{printable(error)}; pip install torch numpy safetensors")


def is_safetensors(path):
    """Whether the first bytes are those of a safetensors file; refuses those of files that are no checkpoint."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise Refused("is a folder; name the checkpoint in it" if stat.S_ISDIR(mode) else "is no regular file")
    with open(path, "rb") as file:
        beginning = file.read(32)
    if not beginning:
        raise Refused("is empty; download it again")
    if beginning[8:9] == b"{":  # after the length of the header
        return True
    for start, problem in OTHER_FILES.items():
        if beginning.lstrip().startswith(start):
            raise Refused(problem)
    if beginning.startswith(b"PK"):
        check_archive(path)
    return False


def check_archive(path):
    """Refuses a zip archive that `torch.save` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # of many kinds
        raise Refused("is a damaged archive, perhaps cut off; download it again") from None
    names = {os.path.basename(entry.filename) for entry in entries}
    if "constants.pkl" in names:
        raise Refused("is a program (TorchScript), not weights; save the state_dict of the model with torch.save")
    if "data.pkl" not in names:
        raise Refused("is a zip archive that torch.save did not write; if a checkpoint is in it, unpack it")
    unpacked, size = sum(entry.file_size for entry in entries), os.path.getsize(path)
    if unpacked > size:  # torch.save does not compress
        raise Refused(f"has {size} bytes and unpacks to {unpacked}, which no file of torch.save does")


def check_torch():
    """Refuses pickles if this torch does not read them safely."""
    if torch.__version__ < OLDEST_SAFE_TORCH:
        raise Refused(
            f"torch {torch.__version__} does not read such a file safely if a stranger made it; install torch "
            f"{OLDEST_SAFE_TORCH} or newer, or name a .safetensors file"
        )


def read(path):
    """The content of the file, read without executing any of it."""
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        check_torch()
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused("no such file") from None
    except OSError as error:
        raise Refused(f"cannot be read ({printable(error.strerror or error)})") from None
    except Exception as error:  # of many kinds; the file decides
        raise Refused(problem_of(str(error) or type(error).__name__)) from None


def problem_of(error):
    """What torch or safetensors says of a file that they cannot read, in our words."""
    code = re.search(r"GLOBAL (\S+)", error)
    if code:
        return (
            f"needs {printable(code[1])}, which is code, not weights; if you trust the file, load it where that code "
            "is, and save its state_dict alone"
        )
    # torch's own message begins with the advice to execute the file.
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", error) or re.search("(.+)", error)
    reason = reason[1].split(". ")[0] if reason else ""
    return f"is no checkpoint of PyTorch, or is damaged ({printable(reason)}); download it again"


def tensors_in(content):
    """The tensors in nested dictionaries, by their keys joined with dots. A key that is no string is in brackets."""
    found, left, entries = {}, [((), content)], 0
    while left:
        keys, value = left.pop()
        if isinstance(value, torch.Tensor) and keys:
            name = ".".join(keys)
            if name in found:
                raise Refused(f"has two tensors of the name {printable(name)}")
            found[name] = value
        if not isinstance(value, dict):
            continue
        entries += len(value)
        if len(keys) >= MAX_DEPTH or entries > MAX_ENTRIES:
            limit = f"{MAX_DEPTH} levels of dictionaries or {MAX_ENTRIES} entries"
            raise Refused(f"has more than {limit}; name a checkpoint, or the state_dict of a model")
        left.extend(reversed([((*keys, name_of(key)), inner) for key, inner in value.items()]))
    return found


def name_of(key):
    """A key of a dictionary as part of a name. What would take long to print is named by its type."""
    if isinstance(key, str) and len(key) <= MAX_NAME:
        return key
    is_short = isinstance(key, (int, float)) and abs(key) < 1e18
    return f"[{key}]" if is_short else f"[a long {type(key).__name__}]"
