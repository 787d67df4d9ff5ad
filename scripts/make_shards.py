#!/usr/bin/env python3
"""Packs images into shards: train/CLASS/* and val/CLASS/* into train-000000.tar ... and val-000000.tar ...

Images are shuffled, so that the shards are alike. Beside KEY.jpg lies KEY.cls with the number of its class; classes.txt
has their names in the order of the numbers. The files of the images are copied byte for byte.

val/ may be missing. Without folders in train/, or without train/ at all, the images have no classes and the shards no
.cls. Links are followed, but to no folder twice within a class; links to nothing, pipes and hidden files are left out.

    python3 scripts/make_shards.py data/imagenet data/imagenet-shards --megabytes 1000
"""

import argparse
import io
import os
import random
import shutil
import tarfile
from pathlib import Path

EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}


def visible(folder):
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def identity(folder):
    status = folder.stat()
    return status.st_dev, status.st_ino


def above(folder):
    """What tells a folder and those above it from all others: a link to one of them leads back."""
    real = folder.resolve()
    return {identity(real)}.union(map(identity, real.parents))


def images_below(folder, seen):
    """The images in a folder and its subfolders, without those seen already."""
    folders = [folder]
    while folders:
        folder = folders.pop()
        if identity(folder) in seen:
            continue
        seen.add(identity(folder))
        items = visible(folder)
        folders.extend(reversed([item for item in items if item.is_dir()]))
        yield from (item for item in items if not item.is_dir() and item.suffix.lower() in EXTENSIONS)


def key_of(image, part, used):
    """The path without dots in the name: a key ends at the first one there. Each is used once."""
    path = image.relative_to(part)
    key = wanted = utf8((path.parent / path.stem.replace(".", "_")).as_posix())
    number = 1
    while key in used:
        number += 1
        key = f"{wanted}_{number}"
    used.add(key)
    return key


def utf8(name):
    """A name of any bytes, with escapes for those that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def append(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def pack(part, prefix, target, classes, limit, seed):
    """Packs the images of class folders; or all images of a folder, if `classes` is None."""
    if classes is None:
        images = sorted(images_below(part, above(part) - {identity(part)}))
    else:
        folders = [part / name for name in classes if (part / name).is_dir()]
        images = sorted(image for folder in folders for image in images_below(folder, above(part)))
    files = [image for image in images if image.is_file()]
    if not files:
        raise SystemExit(f"{part}: contains no jpeg, png or webp file")
    random.Random(seed).shuffle(files)
    numbers = {name: number for number, name in enumerate(classes or [])}
    used, shard, archive = set(), 0, None
    for image in files:
        if archive is None:
            archive = tarfile.open(target / f"{prefix}-{shard:06d}.tar", "w", format=tarfile.GNU_FORMAT)
        key = key_of(image, part, used)
        append(archive, f"{key}{image.suffix.lower()}", image.read_bytes())
        if numbers:
            append(archive, f"{key}.cls", str(numbers[image.relative_to(part).parts[0]]).encode())
        if archive.offset >= limit or image is files[-1]:
            archive.close()
            archive, shard = None, shard + 1
    left_out = f", {len(images) - len(files)} left out that are no files" if len(files) < len(images) else ""
    print(f"{prefix}: {len(files)} images in {shard} shards{left_out}")


def classes_in(folder):
    """The names of class folders, in order; None if there are none."""
    leads_back = above(folder)
    return [item.name for item in visible(folder) if item.is_dir() and identity(item) not in leads_back] or None


def pack_all(source, target, limit, seed):
    train, val = source / "train", source / "val"
    if not train.is_dir() and val.is_dir():
        raise SystemExit(f"{source}: has no folder train/")
    classes = classes_in(train) if train.is_dir() else None
    pack(train if train.is_dir() else source, "train", target, classes, limit, seed)
    if val.is_dir():
        of_val = classes_in(val)
        if of_val is None:
            raise SystemExit(f"{val}: contains no folders; validation images have classes")
        classes = classes or of_val
        for name in of_val:
            if name not in classes:
                raise SystemExit(f"{val}: {name} is not one of the {len(classes)} classes of train/")
        pack(val, "val", target, classes, limit, seed)
    if classes:
        names = "".join(f"{utf8(name)}\n" for name in classes)
        (target / "classes.txt").write_text(names, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with train/CLASS/ and val/CLASS/, or of images")
    parser.add_argument("target", type=Path, help="folder to create")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of a shard (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if target.exists():
        parser.error(f"{target} exists; name another folder")
    if not source.is_dir():
        parser.error(f"{source}: there is no such folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # It gets its name when it is complete.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        pack_all(source, partial, arguments.megabytes * 1_000_000, arguments.seed)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    main()
