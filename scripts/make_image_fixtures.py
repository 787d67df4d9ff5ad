"""Writes tests/fixtures/images: files that the tests cannot write themselves, and what Pillow makes of them.

    pip install pillow==13.0.0 numpy
    python3 scripts/make_image_fixtures.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent.parent / "tests/fixtures/images"


def gradients(width, height):
    """Red grows to the right, green downwards, blue along the diagonal: no turn leaves it as it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // width, rows * 255 // height
    return Image.fromarray(np.stack([red, green, (red + green) // 2], -1).astype(np.uint8))


def expect(name, image):
    """The pixels that a viewer shows of a file `name`."""
    image.convert("RGB").save(FOLDER / f"{name}.expected.png", optimize=True)


def kinds():
    image = gradients(24, 16)
    image.save(FOLDER / "progressive.jpg", quality=90, progressive=True)
    cyan, magenta, yellow, _ = image.convert("CMYK").split()
    key = yellow.point(lambda value: value // 2)
    Image.merge("CMYK", [cyan, magenta, yellow, key]).save(FOLDER / "cmyk.jpg", quality=95)
    # The same numbers, said to be luminance, chrominance and key.
    bytes_ = bytearray((FOLDER / "cmyk.jpg").read_bytes())
    bytes_[bytes_.index(b"Adobe") + 11] = 2
    (FOLDER / "ycck.jpg").write_bytes(bytes_)
    for name in ["progressive", "cmyk", "ycck"]:
        expect(name, Image.open(FOLDER / f"{name}.jpg"))


def orientations():
    """Eight files that look like `upright.png` to who follows their Exif orientation."""
    upright = gradients(24, 16)
    upright.save(FOLDER / "upright.png", optimize=True)
    turn = Image.Transpose
    how_it_lies = [
        None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM,
        turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270,
    ]  # fmt: skip
    for orientation, lying in enumerate(how_it_lies, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = upright if lying is None else upright.transpose(lying)
        image.save(FOLDER / f"orientation_{orientation}.jpg", quality=98, subsampling=0, exif=exif)


def crops():
    """Parts of `noise.png`, cut and then resized as torchvision's RandomResizedCrop does with PIL images: the names say
    left, top, width, height and the side of the square. Then what Resize and CenterCrop make of the whole.

    No value is so large or small that it is cut off between the two passes, which Pillow makes in the other order."""
    noise = np.random.default_rng(0).integers(48, 208, [12, 15, 3], dtype=np.uint8)
    image = Image.fromarray(noise).resize((61, 47), Image.Resampling.NEAREST)
    image.save(FOLDER / "noise.png", optimize=True)
    for left, top, width, height, size in [
        (0, 0, 61, 47, 16), (3, 5, 40, 33, 24), (20, 10, 8, 9, 32), (60, 46, 1, 1, 8), (7, 0, 20, 47, 20),
    ]:  # fmt: skip
        part = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
        part.save(FOLDER / f"crop_{left}_{top}_{width}_{height}_{size}.png", optimize=True)
    for resize, size in [(32, 28), (20, 20), (64, 51)]:
        width, height = int(resize * 61 / 47), resize
        whole = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        whole.crop((left, top, left + size, top + size)).save(FOLDER / f"center_{resize}_{size}.png", optimize=True)


def large():
    """A 4:2:0 file so large that it is decoded at a fraction of its size, and two versions of its central squares: as
    torchvision's Resize and CenterCrop make them from all pixels, and from what Pillow's `draft` decodes at the
    fraction: the names say side of the whole, side of the square, fraction.

    Colored disks have edges in every direction. No value is so large or small that it is cut off in between."""
    width, height = 1923, 1101
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.full([height, width, 3], 128, np.uint8)
    for _ in range(60):
        row, column, radius = random.uniform([0, 0, 40], [height, width, 200])
        pixels[np.hypot(rows - row, columns - column) < radius] = random.integers(64, 192, 3)
    Image.fromarray(pixels).save(FOLDER / "large.jpg", quality=80, subsampling="4:2:0", optimize=True)
    for resize, size, fraction in [(480, 96, 2), (256, 96, 4), (128, 96, 8)]:
        drafted = Image.open(FOLDER / "large.jpg")
        drafted.draft("RGB", (width // fraction, height // fraction))
        part = (0, 0, width / fraction, height / fraction)
        for name, image, box in [("whole", Image.open(FOLDER / "large.jpg"), None), ("draft", drafted, part)]:
            resized = image.resize((int(resize * width / height), resize), Image.Resampling.BICUBIC, box)
            left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
            square = resized.crop((left, top, left + size, top + size))
            square.save(FOLDER / f"large_{resize}_{size}_{fraction}_{name}.png", optimize=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    kinds()
    orientations()
    crops()
    large()
