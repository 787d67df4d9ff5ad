#!/usr/bin/env python3
"""Trains the rows of an ablation on CIFAR-10 with the quick recipe, and prints them as one markdown table.

    cargo build --release --example pretrain_cifar
    python3 scripts/ablate.py --data data/cifar-10-batches-bin --out runs/ablation --limit 10000 --epochs 12

Every row differs from the first by the options that the table shows, and has the same seeds. A row that is finished is
read from its folder, and one that was interrupted resumes, so the same command goes on where it stopped. A row that was
begun with other options is an error: OUT/ROW-seed-N.options has them. Options behind `--` go to every row. The table is
also written to OUT/table.md after every run.
"""

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

UNMIXED = "mix-to-origin=0,mix-to-mix=0"
# What MoCo v3 has in common with PatchMix's loop under this recipe; see docs/ablations.md.
MOCO_V3 = (
    "--symmetric --origin-smoothing 0 --momentum-encoder 0.99 --freeze-patch-embedding "
    "--weight-decay 0.1 --weight-decay-end 0.1"
)
ROWS = {
    "patchmix": "",
    "unmixed": f"--loss-weights {UNMIXED}",
    "groups-4": "--groups 4",
    "groups-8": "--groups 8",
    "no-mix-to-mix": "--loss-weights mix-to-mix=0",
    "no-mix-to-origin": "--loss-weights mix-to-origin=0",
    "mixed-terms-alone": "--loss-weights origin-to-origin=0",
    "plan-per-batch": "--mix-plans per-batch",
    "plan-per-image": "--mix-plans per-image",
    "contiguous": "--mix-blocks contiguous",
    "blocks-8": "--mix-patch-size 8",
    "symmetric": "--symmetric",
    "no-negatives": "--negatives no",
    "momentum": "--momentum-encoder 0.99",
    "moco-v3": f"{MOCO_V3} --loss-weights origin-to-origin=0.8,{UNMIXED}",
    "moco-v3-patchmix": MOCO_V3,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the .bin files of CIFAR-10")
    parser.add_argument("--out", required=True, type=Path, help="folder for the table, and for a run per row and seed")
    parser.add_argument("--limit", type=int, default=10_000, help="the first N training images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", default="0", help="one or several, such as 0,1,2")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which rows: {', '.join(ROWS)}")
    parser.add_argument("--program", default="target/release/examples/pretrain_cifar")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="for every row")
    chosen = parser.parse_args()
    chosen.seeds = [int(seed) for seed in chosen.seeds.split(",")]
    chosen.rows = chosen.rows.split(",")
    for name in chosen.rows:
        if name not in ROWS:
            parser.error(f"--rows: there is no row {name}; choose of {', '.join(ROWS)}")
    return chosen


def read(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def result(folder, chosen):
    """kNN accuracies and seconds per epoch of a finished run; None if it is not finished."""
    config = read(folder / "config.json")
    summary = read(folder / "summary.json")
    if not config or summary.get("knn_trained") is None:
        return None
    with open(folder / "metrics.csv") as file:
        epochs = list(csv.DictReader(file))
    images = int(epochs[-1]["step"]) / chosen.epochs * config["batch_size"]
    # An epoch that was stopped at its last batch, and one whose row was recovered, have no speed.
    speeds = [float(epoch["images_per_second"] or 0) for epoch in epochs]
    seconds = [images / speed for speed in speeds if speed > 0]
    return summary["knn_trained"], summary.get("knn_momentum"), statistics.median(seconds) if seconds else None


def common_options(chosen):
    options = ["--recipe", "quick", "--dataset", "cifar10", "--limit", str(chosen.limit)]
    return options + ["--epochs", str(chosen.epochs), "--knn-every", str(chosen.epochs)]


def options_of_run(name, seed, chosen):
    """All that decides what a run computes."""
    options = common_options(chosen) + ["--data", chosen.data, "--seed", str(seed)]
    return shlex.join(options + shlex.split(ROWS[name]) + chosen.options)


def check_begun(folder, options):
    """Ends the script if the run has begun with other options; else notes them beside its folder."""
    note = folder.with_name(f"{folder.name}.options")
    if not (folder / "config.json").exists():
        note.write_text(f"{options}\n")
        return
    begun = note.read_text().strip() if note.exists() else f"options that {note.name} should have"
    if begun != options:
        sys.exit(f"{folder}: was begun with {begun}, not with {options}; choose another --out")


def train(name, seed, folder, chosen):
    command = [chosen.program, *shlex.split(options_of_run(name, seed, chosen))]
    command += ["--out", str(folder), "--resume-if-begun"]
    print(f"{name}, seed {seed}: {shlex.join(command)}", file=sys.stderr)
    try:
        ended = subprocess.run(command, stdout=subprocess.DEVNULL)
    except OSError as error:
        build = "cargo build --release --example pretrain_cifar"
        sys.exit(f"{chosen.program}: {error.strerror}; `{build}` makes it, and --program names another place")
    if ended.returncode != 0:
        sys.exit(f"{name}, seed {seed}: exit code {ended.returncode}; the same command goes on")


def over_seeds(values, digits):
    """The mean, and the range if there are several."""
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(results, chosen):
    common = shlex.join(common_options(chosen) + chosen.options)
    seeds = ", ".join(map(str, chosen.seeds))
    lines = [f"All rows: `{common}`; seeds {seeds}.", ""]
    lines += ["| row | options | kNN, % | kNN of the momentum encoder, % | s per epoch |", "|---|---|---|---|---|"]
    for name, runs in results.items():
        trained, momentum, seconds = zip(*runs)
        options = f"`{ROWS[name]}`" if ROWS[name] else "the quick recipe"
        cells = [name, options, over_seeds(trained, 1), over_seeds(momentum, 1), over_seeds(seconds, 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    chosen = arguments()
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in chosen.rows:
        for seed in chosen.seeds:
            folder = chosen.out / f"{name}-seed-{seed}"
            check_begun(folder, options_of_run(name, seed, chosen))
            if result(folder, chosen) is None:
                train(name, seed, folder, chosen)
            results.setdefault(name, []).append(result(folder, chosen))
            (chosen.out / "table.md").write_text(table(results, chosen))
    print(table(results, chosen), end="")


if __name__ == "__main__":
    main()
