"""Writes tests/fixtures/images/kinds: JPEG and PNG files of rare kinds, and what Pillow makes of those that are read.

    pip install pillow==13.0.0 numpy
    python3 scripts/make_jpeg_fixtures.py

Pillow writes only common kinds, so the JPEG files come from the small encoder below. arithmetic.jpg is by libjpeg.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent.parent / "tests/fixtures/images/kinds"
HEIGHT, WIDTH = 48, 64
# The standard's Huffman tables for brightness, used for all components: numbers of codes by length, and values.
DC = (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), bytes(range(12))
AC = (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125), bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a343536"
    "3738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999a"
    "a2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7"
    "f8f9fa"
)
ZIGZAG = sorted(range(64), key=lambda p: (p // 8 + p % 8, p // 8 if (p // 8 + p % 8) % 2 else p % 8))
QUANTIZER = 3
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def adobe(transform):
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def codes(counts, values):
    """The code and its length for every value."""
    table, code, place = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            table[values[place]] = code, length
            code, place = code + 1, place + 1
        code <<= 1
    return table


def entropy_coded(planes, sampling, rows, columns):
    """The blocks of all components, interleaved."""
    k, n = np.mgrid[0:8, 0:8]
    cosines = np.where(k == 0, np.sqrt(1 / 8), np.cos((2 * n + 1) * k * np.pi / 16) / 2)
    dc, ac, bits, last = codes(*DC), codes(*AC), [], [0] * len(planes)

    def put(value, length):
        bits.append(format(value, f"0{length}b") if length else "")

    def put_number(table, run, value):
        length = int(abs(value)).bit_length()
        put(*table[16 * run + length])
        put(value if value >= 0 else value + (1 << length) - 1, length)

    blocks = [
        (component, row * down + y, column * across + x)
        for row in range(rows) for column in range(columns)
        for component, (across, down) in enumerate(sampling)
        for y in range(down) for x in range(across)
    ]  # fmt: skip
    for component, row, column in blocks:
        block = planes[component][8 * row : 8 * row + 8, 8 * column : 8 * column + 8] - 128
        values = np.rint(cosines @ block @ cosines.T / QUANTIZER).astype(int).ravel()[ZIGZAG].tolist()
        put_number(dc, 0, values[0] - last[component])
        last[component], run = values[0], 0
        end = max((place for place in range(1, 64) if values[place]), default=0)
        for value in values[1 : end + 1]:
            if value == 0:
                run += 1
                continue
            for _ in range(run // 16):
                put(*ac[0xF0])
            put_number(ac, run % 16, value)
            run = 0
        if end < 63:
            put(*ac[0])
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def jpeg(image, sampling, ids=(1, 2, 3, 4), before=JFIF, tables=True, size=None, bits=8):
    """A file of `image` `[H, W, C]`, whose component `c` has the factors `sampling[c]` across and down."""

    def segment(marker, body):
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    (height, width, count), (across, down) = image.shape, np.max(sampling, 0)
    rows, columns = -(-height // (8 * down)), -(-width // (8 * across))
    padding = [(0, rows * 8 * down - height), (0, columns * 8 * across - width), (0, 0)]
    padded = np.pad(image, padding, mode="edge").astype(float)
    planes = []
    for component, (h, v) in enumerate(sampling):
        plane = padded[:, :, component].repeat(v, 0).repeat(h, 1)
        planes.append(plane.reshape(len(plane) // down, down, -1, across).mean((1, 3)))
    factors = b"".join(bytes([name, 16 * h + v, 0]) for name, (h, v) in zip(ids, sampling))
    parts = [b"\xff\xd8", before, segment(0xDB, bytes([0] + [QUANTIZER] * 64))]
    parts.append(segment(0xC0, struct.pack(">BHHB", bits, *(size or (height, width)), count) + factors))
    if tables:
        parts += [segment(0xC4, bytes([kind, *counts]) + values) for kind, (counts, values) in [(0, DC), (16, AC)]]
    parts.append(segment(0xDA, bytes([count]) + b"".join(bytes([name, 0]) for name in ids[:count]) + b"\0\x3f\0"))
    return b"".join(parts) + entropy_coded(planes, sampling, rows, columns) + b"\xff\xd9"


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def claims(width, height, bits, kind):
    """A complete PNG file whose header claims more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def picture():
    """Red grows to the right, green downwards, blue along the diagonal; and disks."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [columns * 255 // WIDTH, rows * 255 // HEIGHT, (rows + columns) * 255 // (HEIGHT + WIDTH)]
    image, random = np.stack(planes, -1).astype(np.uint8), np.random.default_rng(0)
    for row, column, radius in random.uniform([0, 0, 5], [HEIGHT, WIDTH, 15], [6, 3]):
        image[np.hypot(rows - row, columns - column) < radius] = random.integers(30, 220, 3)
    return image


def read_kinds():
    rgb = picture()
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    cmyk = np.concatenate([255 - rgb, 255 - rgb[:, :, 2:] // 2], -1)
    for luma in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1), (1, 3), (4, 2), (2, 4), (3, 2)]:
        for chroma in [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (4, 1)]:
            ratios = [max(a, b) % min(a, b) for a, b in zip(luma, chroma)]
            if not any(ratios) and luma[0] * luma[1] + 2 * chroma[0] * chroma[1] <= 10:
                name = f"samples_{luma[0]}x{luma[1]}_{chroma[0]}x{chroma[1]}.jpg"
                yield name, jpeg(ycc, [luma, chroma, chroma])
    yield "samples_2x2_2x1_1x1.jpg", jpeg(ycc, [(2, 2), (2, 1), (1, 1)])
    yield "gray_2x2.jpg", jpeg(ycc[:, :, :1], [(2, 2)])
    yield "gray_3x1.jpg", jpeg(ycc[:, :, :1], [(3, 1)])
    # Whether three components are RGB or YCbCr is said by JFIF, else by Adobe, else by their names.
    ones = [(1, 1)] * 3
    for ids, names in [((1, 2, 3), "123"), (b"RGB", "rgb")]:
        for before, said in [
            (b"", "nothing"), (JFIF, "jfif"), (adobe(0), "adobe0"), (adobe(1), "adobe1"), (JFIF + adobe(0), "both"),
        ]:  # fmt: skip
            yield f"colors_{names}_{said}.jpg", jpeg(ycc, ones, ids, before)
    yield "cmyk_subsampled.jpg", jpeg(cmyk, [(2, 2), (1, 1), (1, 1), (2, 2)], before=adobe(2))
    film = [(2, 1), (1, 1), (1, 1)]
    yield "film.jpg", jpeg(ycc, film, before=b"\xff\xe0\0\x0aAVI1\0\0\0\0", tables=False)
    yield "film_jfif.jpg", jpeg(ycc, film, tables=False)
    yield "film_bare.jpg", jpeg(ycc, film, before=b"", tables=False)
    image, png = Image.fromarray(rgb), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    yield "without_end.png", png.getvalue()[:-12]
    yield "png_inside.jpg", png.getvalue()
    yield "jfif_ending.jfif", jpeg(ycc, ones)
    yield "jpe_ending.jpe", jpeg(ycc, ones)


def refused_kinds():
    gray = picture()[:, :, :1]
    yield "gray_529_megapixels.jpg", jpeg(gray, [(1, 1)], size=(23000, 23000))
    yield "gray_1bit.png", claims(23000, 23000, 1, 0)
    yield "gray_8bit.png", claims(10001, 10000, 8, 0)
    yield "gray_16bit.png", claims(10001, 10000, 16, 0)
    yield "rgba_16bit.png", claims(20000, 20000, 16, 6)
    yield "rgba_16bit_80_megapixels.png", claims(10000, 8000, 16, 6)
    yield "no_height.jpg", jpeg(gray, [(1, 1)], size=(0, WIDTH))
    yield "twelve_bits.jpg", jpeg(gray, [(1, 1)], bits=12)
    yield "two_components.jpg", jpeg(picture()[:, :, :2], [(1, 1)] * 2)
    yield "cmyk_odd.jpg", jpeg(np.repeat(gray, 4, 2), [(1, 1), (2, 1), (2, 1), (1, 1)], before=adobe(0))
    yield "lossless.jpg", jpeg(gray, [(1, 1)]).replace(b"\xff\xc0", b"\xff\xc3")
    yield "gif.png", b"GIF89a" + bytes(40)


if __name__ == "__main__":
    for name, contents in read_kinds():
        (FOLDER / "read").mkdir(parents=True, exist_ok=True)
        (FOLDER / "read" / name).write_bytes(contents)
        expected = Image.open(io.BytesIO(contents)).convert("RGB")
        expected.save(FOLDER / "read" / f"{name}.expected.png", optimize=True)
    for name, contents in refused_kinds():
        (FOLDER / "refused").mkdir(parents=True, exist_ok=True)
        (FOLDER / "refused" / name).write_bytes(contents)
