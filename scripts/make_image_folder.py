#!/usr/bin/env python3
"""Writes CIFAR-10 as an image folder: its images enlarged to many sizes, as JPEG files in folders by class.

A substitute for photographs: files of 64 to 500 pixels per side, to be decoded while a model trains.

    pip install pillow numpy
    python3 scripts/make_image_folder.py data/cifar-10-batches-bin data/enlarged --train 18000 --val 2000
"""

import argparse
import math
import random
from pathlib import Path

import numpy
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RECORD = 1 + 3 * 32 * 32
TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]


def records(files):
    for path in files:
        content = numpy.fromfile(path, dtype=numpy.uint8).reshape(-1, RECORD)
        for record in content:
            yield CLASSES[record[0]], Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with the .bin files of CIFAR-10")
    parser.add_argument("target", type=Path, help="folder to create, with train/ and val/")
    parser.add_argument("--train", type=int, default=18000, help="number of training images")
    parser.add_argument("--val", type=int, default=2000, help="number of images to measure on")
    parser.add_argument("--smallest", type=int, default=64, help="shortest side in pixels")
    parser.add_argument("--largest", type=int, default=500, help="longest side in pixels")
    arguments = parser.parse_args()
    if arguments.target.exists():
        parser.error(f"{arguments.target} exists; name another folder")
    generator = random.Random(0)
    # Log-uniform sizes: as many small images as large ones.
    side = lambda: round(math.exp(generator.uniform(math.log(arguments.smallest), math.log(arguments.largest))))
    for part, files, count in [("train", TRAIN, arguments.train), ("val", ["test_batch.bin"], arguments.val)]:
        for number, (label, image) in zip(range(count), records(arguments.source / file for file in files)):
            folder = arguments.target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            image.resize((side(), side()), Image.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
        print(f"{part}: {count} images in {arguments.target / part}")


if __name__ == "__main__":
    main()
