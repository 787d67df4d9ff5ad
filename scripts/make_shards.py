#!/usr/bin/env python3
"""Packs an image folder into shards: train/CLASS/* and val/CLASS/* into train-000000.tar ... and val-000000.tar ...

Images are shuffled, so that the shards are alike. Beside KEY.jpg lies KEY.cls with the number of its class; classes.txt
has their names in the order of the numbers. The files of the images are copied byte for byte.

    python3 scripts/make_shards.py data/imagenet data/imagenet-shards --megabytes 1000
"""

import argparse
import io
import os
import random
import tarfile
from pathlib import Path

EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}


def images_of(folder):
    """The images of a class, subfolders included, without hidden ones."""
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(path, name)


def key_of(image, part, used):
    """CLASS/NAME without dots in the name: a key ends at the first one. Each is used once."""
    plain = "_".join(image.relative_to(part).with_suffix("").parts[1:]).replace(".", "_")
    key = wanted = f"{image.relative_to(part).parts[0]}/{plain}"
    number = 1
    while key in used:
        number += 1
        key = f"{wanted}_{number}"
    used.add(key)
    return key


def append(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def pack(part, target, classes, limit, seed):
    images = sorted(image for name in classes for image in images_of(part / name))
    random.Random(seed).shuffle(images)
    numbers = {name: number for number, name in enumerate(classes)}
    used, shard, archive = set(), 0, None
    for image in images:
        if archive is None:
            path = target / f"{part.name}-{shard:06d}.tar"
            partial = path.with_suffix(".tar.partial")
            archive = tarfile.open(partial, "w", format=tarfile.GNU_FORMAT)
        key = key_of(image, part, used)
        append(archive, f"{key}{image.suffix.lower()}", image.read_bytes())
        append(archive, f"{key}.cls", str(numbers[image.relative_to(part).parts[0]]).encode())
        if archive.offset >= limit or image is images[-1]:
            archive.close()
            partial.rename(path)
            archive, shard = None, shard + 1
    print(f"{part.name}: {len(images)} images in {shard} shards")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("target", type=Path, help="folder to create")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of a shard (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
    arguments = parser.parse_args()
    if arguments.target.exists():
        parser.error(f"{arguments.target} exists; name another folder")
    visible = lambda part: sorted(item.name for item in part.iterdir() if item.is_dir() and item.name[0] != ".")
    parts = [arguments.source / name for name in ("train", "val")]
    for part in parts:
        if not part.is_dir():
            parser.error(f"{part}: there is no such folder")
    classes = visible(parts[0])
    unknown = set(visible(parts[1])) - set(classes)
    if unknown:
        parser.error(f"{parts[1]}: {sorted(unknown)[0]} is not one of the {len(classes)} classes of train/")
    arguments.target.mkdir(parents=True)
    for part in parts:
        pack(part, arguments.target, classes, arguments.megabytes * 1_000_000, arguments.seed)
    (arguments.target / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


if __name__ == "__main__":
    main()
