#!/usr/bin/env python3
"""Writes tests/fixtures/augment.safetensors: a few images after each operation of torchvision.

Needs torch 2.11.0, torchvision 0.26.0 and the package safetensors; from the root of the repository:

    python3 -m venv target/torchvision
    target/torchvision/bin/pip install torch==2.11.0 torchvision==0.26.0 safetensors numpy
    target/torchvision/bin/python scripts/make_augment_fixtures.py

torchvision computed every tensor OPERATION.view on float tensors, image by image, from `square` or `wide` and the
parameters stored next to it. Bicubic results are clamped to 0..1, as in a byte image. The blur is Pillow's, on floats.
"""

import math
from pathlib import Path

import torch
import torchvision.transforms.functional as F
from safetensors.torch import save_file
from torch.nn.functional import conv1d, pad
from torchvision.transforms import InterpolationMode

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STEPS = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]


def images(count, height, width):
    """Smooth colors with some noise, a gray patch, and corners with all channels 0, all 1, or two equal."""
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)[None, :]
    made = []
    for number in range(count):
        phase = torch.rand(3, 1, 1) * 6.28
        waves = torch.sin(phase + rows * (3 + 2 * number)) * torch.cos(phase * 2 + columns * (7 - number))
        image = (0.5 + 0.6 * waves + 0.15 * torch.randn(3, height, width)).clamp(0, 1)
        image[:, 4:8, 5:9] = image[:1, 4:8, 5:9]
        image[:, 0, 0], image[:, 0, 1] = 0.0, 1.0
        image[:, -1, -1] = torch.tensor([0.9, 0.9, 0.2])
        image[:, -1, -2] = torch.tensor([0.1, 0.6, 0.6])
        made.append(image)
    return torch.stack(made)


def crop(image, box, size):
    return F.resized_crop(image, *box.tolist(), [size, size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)


def blur(image, sigma):
    """Pillow's GaussianBlur without rounding: three box blurs in each direction, with the border repeated."""
    variance = float(sigma) ** 2 / 3
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    weights = torch.tensor([part] + [1.0] * (2 * reach + 1) + [part], dtype=torch.float64)
    weights = (weights / weights.sum())[None, None]
    image = image.double()
    for _ in range(2):
        for _ in range(3):
            lines = pad(image, [reach + 1, reach + 1], mode="replicate").flatten(0, 1)[:, None]
            image = conv1d(lines, weights).view_as(image)
        image = image.transpose(1, 2).contiguous()
    return image.float()


def chain(image, number, fixtures, size):
    """The operations in the order of MoCo v3, those that the parameters enable."""
    view = crop(image, fixtures["chain.crop"][number], size)
    if fixtures["chain.jitter"][number]:
        for step in fixtures["chain.order"][number].tolist():
            view = STEPS[step](view, float(fixtures["chain.factors"][number, step]))
    if fixtures["chain.gray"][number]:
        view = F.rgb_to_grayscale(view, 3)
    if fixtures["chain.sigma"][number] > 0:
        view = blur(view, fixtures["chain.sigma"][number])
    if fixtures["chain.solarize"][number]:
        view = F.solarize(view, 0.5)
    if fixtures["chain.flip"][number]:
        view = F.hflip(view)
    return F.normalize(view, MEAN, STD)


def main():
    torch.manual_seed(0)
    square, wide = images(4, 16, 16), images(4, 20, 28)
    fixtures = {
        "square": square,
        "wide": wide,
        "crop.box": torch.tensor([[0, 0, 20, 28], [3, 5, 9, 14], [19, 27, 1, 1], [2, 10, 17, 6]]),
        "brightness.factor": torch.tensor([0.6, 1.0, 1.4, 0.0], dtype=torch.float64),
        "contrast.factor": torch.tensor([0.6, 1.4, 1.0, 0.0], dtype=torch.float64),
        "saturation.factor": torch.tensor([1.2, 0.8, 0.0, 1.9], dtype=torch.float64),
        "hue.factor": torch.tensor([0.1, -0.1, 0.5, -0.37], dtype=torch.float64),
        "blur.sigma": torch.tensor([0.1, 0.7, 2.0, 9.0], dtype=torch.float64),
        "chain.crop": torch.tensor([[0, 0, 20, 28], [3, 5, 9, 14], [1, 1, 18, 25], [2, 10, 17, 6]]),
        "chain.jitter": torch.tensor([1, 0, 1, 1]),
        "chain.order": torch.tensor([[3, 0, 2, 1], [0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 1, 0]]),
        "chain.factors": torch.tensor(
            [[1.3, 0.7, 1.1, 0.08], [1, 1, 1, 0], [0.7, 1.35, 0.85, -0.1], [1.1, 1.2, 1.2, 0.03]], dtype=torch.float64
        ),
        "chain.gray": torch.tensor([0, 0, 0, 1]),
        "chain.sigma": torch.tensor([1.7, 0.0, 0.4, 0.9], dtype=torch.float64),
        "chain.solarize": torch.tensor([0, 1, 1, 0]),
        "chain.flip": torch.tensor([1, 0, 1, 0]),
    }
    boxes = fixtures["crop.box"]
    for name, size in [("crop_up", 24), ("crop_down", 7)]:
        fixtures[f"{name}.view"] = torch.stack([crop(*pair, size) for pair in zip(wide, boxes)])
    for name, step in zip(["brightness", "contrast", "saturation", "hue"], STEPS):
        factors = fixtures[f"{name}.factor"].tolist()
        fixtures[f"{name}.view"] = torch.stack([step(*pair) for pair in zip(square, factors)])
    fixtures["blur.view"] = torch.stack([blur(*pair) for pair in zip(square, fixtures["blur.sigma"])])
    fixtures["gray.view"] = F.rgb_to_grayscale(square, 3)
    fixtures["solarize.view"] = F.solarize(square, 0.5)
    fixtures["flip.view"] = F.hflip(square)
    fixtures["normalize.view"] = F.normalize(square, MEAN, STD)
    fixtures["chain.view"] = torch.stack([chain(image, number, fixtures, 16) for number, image in enumerate(wide)])
    path = Path(__file__).resolve().parent.parent / "tests/fixtures/augment.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in fixtures.items()}, path)


if __name__ == "__main__":
    main()
