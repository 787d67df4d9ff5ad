"""The same work in plain PyTorch, for `cargo bench --bench against_pytorch`.

Reads one case a line from stdin, does it once, and answers with the seconds that it took. Written from the description
of the method: shuffle the patches, regroup them with gathers, put them back; dense soft targets; cross-entropy on
dense logits; a training step with PyTorch's AdamW; views by torchvision on PIL images.

    mix BATCH SIDE PATCH GROUPS
    losses ROWS WIDTH
    step DEPTH WIDTH HEADS SIDE PATCH BATCH HIDDEN OUTPUT fused|plain|bf16
    views IMAGES SIDE            two views of every image
    folder PATH WORKERS BATCH LOCAL   an epoch of two crops of 224 pixels and LOCAL of 96
    forget                       what was made for the cases before

Needs torch; `views` and `folder` need torchvision and pillow, too.
"""

import functools
import sys
import time

import torch
import torch.nn.functional as F

from model import Step


def synchronize():
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def timed(work):
    synchronize()
    start = time.perf_counter()
    result = work()
    synchronize()
    seconds = time.perf_counter() - start
    del result  # freed after the clock has stopped
    return seconds


def to_patches(images, side):
    batch, channels, height, width = images.shape
    rows, columns = height // side, width // side
    cut = images.reshape(batch, channels, rows, side, columns, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * side * side)


def to_images(patches, shape, side):
    batch, channels, height, width = shape
    rows, columns = height // side, width // side
    cut = patches.reshape(batch, rows, columns, channels, side, side)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def mix(images, side, groups):
    """The mixed images and both dense targets."""
    patches = to_patches(images, side)
    batch, count, width = patches.shape
    order = torch.randperm(count)
    back = torch.argsort(order)
    shuffled = patches.gather(1, order[None, :, None].expand(batch, count, width))
    source = (torch.arange(batch)[:, None] + torch.arange(groups)) % batch
    whole = count // groups * groups  # what is left over stays unmixed
    grouped = shuffled[:, :whole].reshape(batch, groups, count // groups, width)
    grouped = grouped.gather(0, source[:, :, None, None].expand_as(grouped)).reshape(batch, whole, width)
    grouped = torch.cat([grouped, shuffled[:, whole:]], 1) if whole < count else grouped
    mixed = grouped.gather(1, back[None, :, None].expand(batch, count, width))
    return to_images(mixed, images.shape, side), *targets(batch, groups)


def targets(batch, groups):
    row = torch.arange(batch)[:, None]
    mix_to_origin = torch.zeros(batch, batch)
    mix_to_origin.scatter_(1, (row + torch.arange(groups)) % batch, 1 / groups)
    distance = torch.arange(1 - groups, groups)
    share = ((groups - distance.abs()) / groups**2).expand(batch, -1)
    mix_to_mix = torch.zeros(batch, batch)
    mix_to_mix.scatter_add_(1, (row + distance) % batch, share.contiguous())
    return mix_to_origin, mix_to_mix


def contrast(query, key, target, temperature=0.2):
    logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / temperature
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


@functools.cache
def images_of(batch, side):
    return torch.rand(batch, 3, side, side)


@functools.cache
def rows_of(rows, width):
    queries = [torch.randn(rows, width, requires_grad=True) for _ in range(2)]
    return queries, [torch.randn(rows, width) for _ in range(3)], torch.eye(rows), *targets(rows, 2)


def losses(rows, width):
    (query, mixed_query), (key_1, key_2, mixed_key), identity, mix_to_origin, mix_to_mix = rows_of(rows, width)
    total = contrast(query, key_2, identity)
    total = total + (contrast(mixed_query, key_1, mix_to_origin) + contrast(mixed_query, mixed_key, mix_to_mix)) / 2
    query.grad = mixed_query.grad = None
    total.backward()


@functools.cache
def step_of(*arguments):
    return Step(*arguments, mix=mix, contrast=contrast)


@functools.cache
def pil_images(count, side):
    from torchvision.transforms.functional import to_pil_image

    return [to_pil_image(torch.rand(3, side, side, device="cpu")) for _ in range(count)]


@functools.cache
def view_recipes(side):
    """Both published views: the first always blurred, the second rarely, and sometimes solarized."""
    import random

    from PIL import ImageFilter
    from torchvision import transforms as t

    def blurred(image):
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

    def recipe(blur, solarize):
        return t.Compose([
            t.RandomResizedCrop(side, scale=(0.1, 1.0), interpolation=t.InterpolationMode.BICUBIC),
            t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            t.RandomGrayscale(p=0.2),
            t.RandomApply([t.Lambda(blurred)], p=blur),
            t.RandomSolarize(128, p=solarize),
            t.RandomHorizontalFlip(),
            t.ToTensor(),
            t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])

    return recipe(1.0, 0.0), recipe(0.1, 0.2)


def views(count, side):
    recipes, images = view_recipes(side), pil_images(count, side)
    return timed(lambda: [torch.stack([recipe(image) for image in images]) for recipe in recipes])


class Crops:
    """Several random crops of one image, as bytes."""

    def __init__(self, local):
        from torchvision import transforms as t

        bicubic = t.InterpolationMode.BICUBIC
        large = t.RandomResizedCrop(224, scale=(0.35 if local else 0.05, 1.0), interpolation=bicubic)
        small = t.RandomResizedCrop(96, scale=(0.05, 0.35), interpolation=bicubic)
        self.crops = [t.Compose([crop, t.PILToTensor()]) for crop in [large] * 2 + [small] * local]

    def __call__(self, image):
        return [crop(image) for crop in self.crops]


@functools.lru_cache(maxsize=1)
def folder_of(path, workers, batch, local):
    """A loader whose processes have started: they stay for all epochs."""
    from torchvision.datasets import ImageFolder

    data = ImageFolder(path, Crops(local))
    generator = torch.Generator()
    return torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, persistent_workers=True, generator=generator
    )


def folder(path, workers, batch, local):
    loader = folder_of(path, workers, batch, local)
    return timed(lambda: [None for _ in loader])


def answer(case, arguments):
    numbers = [int(argument) for argument in arguments if argument.isdigit()]
    match case:
        case "mix":
            batch, side, patch, groups = numbers
            images = images_of(batch, side)
            return timed(lambda: mix(images, patch, groups))
        case "losses":
            rows_of(*numbers)
            return timed(lambda: losses(*numbers))
        case "step":
            step = step_of(*numbers, arguments[-1])
            return timed(step.run)
        case "views":
            return views(*numbers)
        case "folder":
            return folder(arguments[0], *numbers)
        case "forget":
            images_of.cache_clear(), rows_of.cache_clear(), step_of.cache_clear(), pil_images.cache_clear(), folder_of.cache_clear()
            return 0.0
    raise ValueError(f"no case {case}")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    torch.set_default_device(sys.argv[2])  # everything is made there
    for line in sys.stdin:
        case, *arguments = line.split()
        print(answer(case, arguments), flush=True)
