"""The same work in plain PyTorch, for `cargo bench --bench against_pytorch`.

Reads one case per line from stdin, runs it once, and prints the seconds it took. Written from the description of the
method: shuffle the patches, regroup them with gathers, unshuffle them; dense soft targets; cross-entropy on dense
logits; a training step with PyTorch's AdamW; views by torchvision on PIL images.

    mix BATCH SIDE PATCH GROUPS
    losses ROWS WIDTH
    memory ROWS WIDTH            peak memory of the losses, in bytes
    step STEPS MODEL WAY         seconds per step, over STEPS in a row; WAY as in model.py
    step-memory MODEL WAY        peak memory of a step, its model and optimizer included, in bytes
    tf32 0|1                     whether float32 products on a GPU may round their inputs to TF32
    views IMAGES SIDE            two views of every image
    loop MODEL STEPS WORKERS     STEPS in bfloat16 on views made by worker processes
    folder PATH WORKERS BATCH LOCAL   an epoch of two crops of 224 pixels and LOCAL of 96
    forget                       drops everything cached for earlier cases

MODEL is DEPTH WIDTH HEADS SIDE PATCH BATCH HIDDEN OUTPUT. Prints nan for a case that fails, and the reason on stderr.
Needs torch; `views`, `loop` and `folder` also need torchvision and pillow.
"""

import functools
import gc
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"error: {error}; run PATCHMIX_LIBTORCH=cuda make libtorch, or name torch's folder in PEER_PYTHONPATH")

from memory import peak, restart_peak
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
    del result  # not part of the time
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
    patches = to_patches(images, side)
    batch, count, width = patches.shape
    order = torch.randperm(count)
    back = torch.argsort(order)
    shuffled = patches.gather(1, order[None, :, None].expand(batch, count, width))
    source = (torch.arange(batch)[:, None] + torch.arange(groups)) % batch
    whole = count // groups * groups  # leftover patches stay unmixed
    grouped = shuffled[:, :whole].reshape(batch, groups, count // groups, width)
    grouped = grouped.gather(0, source[:, :, None, None].expand_as(grouped)).reshape(batch, whole, width)
    grouped = torch.cat([grouped, shuffled[:, whole:]], 1) if whole < count else grouped
    mixed = grouped.gather(1, back[None, :, None].expand(batch, count, width))
    return to_images(mixed, images.shape, side)


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
    return Step(*arguments, mix=mix, targets=targets, contrast=contrast)


@functools.cache
def pil_images(count, side):
    from views import random_images

    return random_images(count, side)


def views(count, side):
    from views import recipes

    both, images = recipes(side), pil_images(count, side)
    return timed(lambda: [torch.stack([recipe(image) for image in images]) for recipe in both])


def steps(count, *arguments):
    """The mean time of `count` consecutive steps."""
    step = step_of(*arguments)
    return timed(lambda: [step.run() for _ in range(count)]) / count


def memory(rows, width):
    """Peak memory of the losses besides their inputs and targets, in bytes."""
    rows_of(rows, width)
    before = restart_peak()
    losses(rows, width)
    return peak() - before


def step_memory(*arguments):
    """Peak memory of a step after a warm-up step, besides what was in use before its model was made, in bytes."""
    if torch.get_default_device().type == "cpu":  # in a fresh process
        step_of(1, 64, 2, 8, 4, 4, 64, 64, arguments[-1]).run()  # loads what libraries load late
    forget()
    before = restart_peak()
    step = step_of(*arguments)
    step.run()
    restart_peak()
    step.run()
    return peak() - before


def loop(depth, width, heads, side, patch, batch, hidden, output, count, workers):
    from views import Loop

    step = step_of(depth, width, heads, side, patch, batch, hidden, output, "bf16")
    return Loop(step, side, batch, count, workers).seconds(timed)


def allow_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(allowed)
    return 0.0


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
    """A loader whose worker processes stay for all epochs."""
    from torchvision.datasets import ImageFolder

    data = ImageFolder(path, Crops(local))
    generator = torch.Generator()
    return torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, persistent_workers=True, generator=generator
    )


def folder(path, workers, batch, local):
    loader = folder_of(path, workers, batch, local)
    return timed(lambda: [None for _ in loader])


def forget():
    for cache in (images_of, rows_of, step_of, pil_images, folder_of):
        cache.cache_clear()
    torch.compiler.reset()  # else a few models exhaust the number of recompilations
    gc.collect()
    if torch.get_default_device().type == "cuda":
        torch.cuda.empty_cache()  # the crate uses the same GPU
    return 0.0


def answer(case, arguments):
    numbers = [int(argument) for argument in arguments if argument.isdigit()]
    match case:
        case "mix":
            batch, side, patch, groups = numbers
            images = images_of(batch, side)
            return timed(lambda: (mix(images, patch, groups), *targets(batch, groups)))
        case "losses":
            rows_of(*numbers)
            return timed(lambda: losses(*numbers))
        case "memory":
            return memory(*numbers)
        case "step":
            return steps(*numbers, arguments[-1])
        case "step-memory":
            return step_memory(*numbers, arguments[-1])
        case "tf32":
            return allow_tf32(*numbers)
        case "views":
            return views(*numbers)
        case "loop":
            return loop(*numbers)
        case "folder":
            return folder(arguments[0], *numbers)
        case "forget":
            return forget()
    raise ValueError(f"no case {case}")


def answer_or_nan(case, arguments):
    """The answer, or nan if the case fails, so that the other cases are still measured."""
    try:
        return answer(case, arguments)
    except Exception as error:  # noqa: BLE001
        print(f"peer: {case} {' '.join(arguments)}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return float("nan")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    torch.set_default_device(sys.argv[2])
    for line in sys.stdin:
        case, *arguments = line.split()
        print(answer_or_nan(case, arguments), flush=True)
