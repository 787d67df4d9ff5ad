"""Reads the tensors of checkpoints, and says in one line what else a file is. Executes nothing in it."""

import argparse
import os
import re
import sys
import warnings
import zipfile

# The beginnings of files that are taken for checkpoints.
OTHER_FILES = {
    b"\x89PNG": "is a PNG image; name a .pth or .safetensors file",
    b"\xff\xd8\xff": "is a JPEG image; name a .pth or .safetensors file",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
    b"<": "is a web page, not the file it is about; download the file itself",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file with git lfs pull",
}


def stop(message):
    sys.exit(" ".join(f"error: {message}".split()))  # one line, whatever the file's names hold


try:
    import safetensors.torch
    import torch
except ImportError as error:
    stop(f"{error}; pip install torch numpy safetensors")


def check_beginning(path):
    """Stops if the first bytes show that the file is no checkpoint; returns whether it is a safetensors file."""
    if not os.path.exists(path):
        stop(f"{path}: no such file")
    if not os.path.isfile(path):
        stop(f"{path}: is a folder; name the checkpoint in it")
    with open(path, "rb") as file:
        beginning = file.read(32)
    if not beginning:
        stop(f"{path}: is empty; download it again")
    if beginning[8:9] == b"{":  # after the length of the header
        return True
    for start, problem in OTHER_FILES.items():
        if beginning.lstrip().startswith(start):
            stop(f"{path}: {problem}")
    if beginning.startswith(b"PK"):
        check_archive(path)
    return False


def check_archive(path):
    """Stops unless a zip archive is one that `torch.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {os.path.basename(name) for name in archive.namelist()}
    except Exception:
        stop(f"{path}: is a damaged archive, perhaps cut off; download it again")
    if "constants.pkl" in names:
        stop(f"{path}: is a program (TorchScript), not weights; save the state_dict of the model with torch.save")
    if "data.pkl" not in names:
        stop(f"{path}: is a zip archive that torch.save did not write; if a checkpoint is in it, unpack it")


def read(path):
    """The content of the file, read without executing any of it."""
    try:
        if check_beginning(path):
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            stop(
                f"{path}: needs {code[1]}, which is code, not weights; if you trust the file, load it where that code "
                "is, and save its state_dict alone"
            )
        # torch's own message begins with the advice to execute the file.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error)) or re.search("(.+)", str(error))
        reason = reason[1].split(". ")[0] if reason else type(error).__name__
        stop(f"{path}: is no checkpoint of PyTorch, or is damaged ({reason}); download it again")


def tensors_in(value, path="", depth=4):
    """The tensors in nested dictionaries, by their keys joined with dots."""
    if isinstance(value, torch.Tensor) and path:
        return {path: value}
    found = {}
    if isinstance(value, dict) and depth > 0:
        for key, inner in value.items():
            found |= tensors_in(inner, f"{path}.{key}" if path else str(key), depth - 1)
    return found
