"""Compares a run that was stopped and resumed with one that was not.

    compare.py NAME close|exact STRAIGHT STOPPED

`close`: losses agree to a thousandth, since sums on a GPU vary between runs. `exact`: the same numbers in
`metrics.csv`, and the same bits in the newest checkpoint.
"""

import csv
import hashlib
import json
import sys
from pathlib import Path

CLOSE = 1e-3
LOSSES = ["loss", "origin_to_origin", "mix_to_origin", "mix_to_mix"]
TIMINGS = ["images_per_second", "data_wait_share"]


def rows(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def tensors(run):
    """Data type, shape and checksum of every tensor in the newest checkpoint."""
    folder = run / "checkpoints"
    newest = json.loads((folder / "manifest.json").read_text())["checkpoints"][0]["file"]
    data = (folder / newest).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:begin])
    entries.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], hashlib.sha256(data[begin + first : begin + last]).hexdigest())
        for name, entry in entries.items()
        for first, last in [entry["data_offsets"]]
    }


def largest_difference(straight, stopped):
    """The largest relative difference of a loss, and where it is."""
    return max(
        (abs(float(one[name]) - float(other[name])) / abs(float(one[name])), f"{name} of epoch {one['epoch']}")
        for one, other in zip(straight, stopped, strict=True)
        for name in LOSSES
    )


def main(name, how, straight, stopped):
    straight, stopped = Path(straight), Path(stopped)
    one, other = rows(straight), rows(stopped)
    difference, where = largest_difference(one, other)
    knn = " and ".join(run[-1]["knn_top1"] or "none" for run in (one, other))
    print(f"{name}: largest relative difference of a loss {difference:.1e} ({where}), kNN {knn}")
    if how == "close":
        return difference <= CLOSE
    differing = [
        f"{column} of epoch {row['epoch']}"
        for row, twin in zip(one, other, strict=True)
        for column in row
        if column not in TIMINGS and row[column] != twin[column]
    ]
    before, after = tensors(straight), tensors(stopped)
    unequal = [tensor for tensor in {**before, **after} if before.get(tensor) != after.get(tensor)]
    print(f"{name}: {len(differing)} numbers differ {differing[:4]}")
    print(f"{name}: {len(unequal)} of {len(before)} tensors differ {unequal[:4]}")
    return not differing and not unequal


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
