#!/usr/bin/env python3
"""Makes an encoder file from a PyTorch checkpoint: a published PatchMix one, or a Vision Transformer of timm.

    python3 scripts/import_checkpoint.py checkpoint.pth encoder.safetensors --arch vit-small
    python3 scripts/import_checkpoint.py vit.safetensors encoder.safetensors --heads 6 \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

Finds the encoder wherever it is in the file: under `state_dict`, `model` or `teacher`, behind the prefixes of
DataParallel and torch.compile, or at the top level. Of a trained encoder and a momentum encoder it takes the momentum
encoder, as the published evaluations do; --encoder trained takes the other, --prefix one of several. Projector,
predictor and optimizer are left out. The weights show the whole shape except the number of heads: --heads gives it, or
--arch, which is checked against the rest.

Nothing in the file is executed: it is read with `weights_only=True`, and rejected if it needs more than tensors, plain
values and `argparse.Namespace`. With a torch before 2.10, which does not do that safely, only safetensors files are
read.

Needs torch, numpy and safetensors:

    pip install torch numpy safetensors
"""

import argparse
import contextlib
import os
import sys

from checkpoint_file import Refused, printable, read, safetensors, stop, tensors_in, torch
from checkpoint_encoder import check, encoder_of, find_encoder, floats, grid_of, name_of, on_side, shape_of

ARCHITECTURES = {"vit-tiny": (192, 12, 3), "vit-small": (384, 12, 12), "vit-base": (768, 12, 12)}
POOLINGS = {"class-token": "global_pool='token'", "patch-mean": "global_pool='avg', fc_norm=False"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_IMAGE = 4096  # pixels
MAX_PARTS = 12  # of a checkpoint, that are listed
MAX_POSITIONS = 1 << 28  # numbers; a gigabyte, a bound on what --image-size can ask for

def side_of(image_size, grid, shape):
    """Patches on a side of the images, which --image-size gives if it is not `None`."""
    if image_size is None:
        if grid[0] != grid[1]:
            stop(f"--grid {grid[0]} {grid[1]}: encoder files are for square images; give their --image-size too")
        return grid[0]
    patch_size = shape["patch_size"]
    side = image_size // patch_size
    if not 0 < image_size <= MAX_IMAGE or image_size % patch_size or side * side * shape["width"] > MAX_POSITIONS:
        stop(f"--image-size {image_size}: must be a multiple of the patch size {patch_size}, at most {MAX_IMAGE}")
    return side


def heads_of(arguments, shape):
    """The number of attention heads, as the command line has it."""
    heads = arguments.heads
    if arguments.arch:
        width, depth, heads = ARCHITECTURES[arguments.arch]
        if (width, depth) != (shape["width"], shape["depth"]):
            stop(
                f"--arch {arguments.arch} has width {width} and {depth} blocks, the file width {shape['width']} and "
                f"{shape['depth']} blocks; give --heads instead"
            )
    if heads < 1 or shape["width"] % heads:
        stop(f"--heads {heads}: must divide the width {shape['width']}")
    return heads


def text_of(shape, arguments):
    """The metadata of the file, as patchmix writes it."""
    timm = (
        f"VisionTransformer(img_size={shape['image_size']}, patch_size={shape['patch_size']}, "
        f"embed_dim={shape['width']}, depth={shape['depth']}, num_heads={shape['heads']}, "
        f"mlp_ratio={shape['mlp_ratio']}, num_classes=0, {POOLINGS[arguments.pooling]})"
    )
    return {
        "format": "patchmix-encoder 1",
        **{name: str(number) for name, number in shape.items()},
        "mean": " ".join(map(str, arguments.mean)),
        "std": " ".join(map(str, arguments.std)),
        "pooling": arguments.pooling.replace("-", "_"),
        "timm": timm,
    }


def arguments_of_the_command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a .pth file, or a .safetensors file of timm")
    parser.add_argument("out", help="the encoder file to write")
    heads = parser.add_mutually_exclusive_group(required=True)
    heads.add_argument("--heads", type=int, help="attention heads of a block")
    heads.add_argument("--arch", choices=ARCHITECTURES, help="a published architecture; vit-small has 12 heads")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--encoder", choices=["momentum", "trained"], help="which of two encoders [momentum if there is one]"
    )
    which.add_argument("--prefix", help="which of several encoders: what is before cls_token in its name")
    parser.add_argument("--image-size", type=int, metavar="N", help="interpolate the positions for images of N pixels")
    parser.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="patches of an image [a square]")
    parser.add_argument("--pooling", choices=POOLINGS, default="class-token", help="tokens that make the features")
    parser.add_argument("--mean", type=float, nargs=3, default=IMAGENET_MEAN, help="mean of channels [ImageNet's]")
    parser.add_argument("--std", type=float, nargs=3, default=IMAGENET_STD, help="deviation of channels [ImageNet's]")
    return parser.parse_args()


def check_out(out):
    """Stops unless the encoder file can be written."""
    if not out.endswith(".safetensors"):
        stop(f"{printable(out)}: must end in .safetensors, which tells timm the format")
    if os.path.lexists(out):
        stop(f"{printable(out)}: exists; name another file")
    if not os.path.isdir(os.path.dirname(out) or "."):
        stop(f"{printable(out)}: its folder does not exist; create it first")


def check_normalization(arguments):
    """Stops unless images can be normalized with the mean and the standard deviation, in float32."""
    mean, std = torch.tensor(arguments.mean), torch.tensor(arguments.std)
    if not mean.isfinite().all():
        stop(f"--mean {' '.join(map(str, arguments.mean))}: must be finite")
    if not ((std > 0) & std.isfinite() & (1 / std).isfinite()).all():
        stop(f"--std {' '.join(map(str, arguments.std))}: must be finite and positive")


def write(weights, out, text):
    """Writes the encoder file, whole or not at all."""
    part = f"{out}.{os.getpid()}.partial"
    try:
        with open(part, "xb") as file:  # new: never through another's link
            try:
                file.write(safetensors.torch.save(weights, metadata=text))
                file.flush()
                os.fsync(file.fileno())
                place(part, out)
            finally:
                with contextlib.suppress(OSError):  # it was renamed
                    os.remove(part)
    except OSError as error:
        advice = "name a file in a folder that has space and permits it"
        stop(f"{printable(out)}: cannot be written ({error.strerror}); {advice}")


def place(part, out):
    """Gives the written file its name, unless another file got that name meanwhile."""
    try:
        os.link(part, out)
    except FileExistsError:
        stop(f"{printable(out)}: exists; name another file")
    except OSError:  # a file system without hard links
        os.rename(part, out)


def report(arguments, encoder, left_out, grid, text):
    """What was left out, assumed and changed, in lines."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in encoder.values()} - {"float32"}
    side, patch_size = int(text["image_size"]) // int(text["patch_size"]), text["patch_size"]
    assumed = "" if arguments.grid else ", taken as a square; --grid names another shape"
    interpolated = "" if grid == (side, side) else f", positions interpolated to {side} x {side}"
    lines = []
    if left_out:
        parts = [f"{count} tensors of {printable(part)}" for part, count in left_out.most_common(MAX_PARTS)]
        parts += [f"{len(left_out) - MAX_PARTS} other parts"] if len(left_out) > MAX_PARTS else []
        lines.append(f"left out  {', '.join(parts)}")
    lines.append(f"patches   {grid[0]} x {grid[1]} of {patch_size} px{assumed}{interpolated}")
    if kinds:
        lines.append(f"converted {', '.join(sorted(kinds))} to float32")
    return [*lines, f"in timm   model = timm.models.vision_transformer.{text['timm']}"]


def convert(arguments):
    """Reads the checkpoint, writes the encoder file, and returns what was done, in lines."""
    tensors = tensors_in(read(arguments.checkpoint))
    prefix, role = find_encoder(tensors, arguments.encoder, arguments.prefix)
    encoder, left_out = encoder_of(tensors, prefix)
    shape, grid = shape_of(encoder), grid_of(encoder, arguments.grid)
    check(encoder, shape, grid)
    side = side_of(arguments.image_size, grid, shape)
    shape = {"image_size": side * shape["patch_size"], **shape, "heads": heads_of(arguments, shape)}
    weights = floats(encoder)
    weights["pos_embed"] = on_side(weights["pos_embed"], grid, side)
    text = text_of(shape, arguments)
    write(weights, arguments.out, text)
    parameters = sum(tensor.numel() for tensor in weights.values())
    return [
        f"written   {printable(arguments.out)}: {len(weights)} tensors, {parameters:,} parameters",
        f"encoder   {role} encoder, {name_of(prefix) if prefix else 'the top level'}",
        *report(arguments, encoder, left_out, grid, text),
    ]


def main():
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not fit the encoding of the terminal
    arguments = arguments_of_the_command_line()
    check_out(arguments.out)
    check_normalization(arguments)
    try:
        lines = convert(arguments)
    except (Refused, MemoryError, RuntimeError) as problem:  # torch has RuntimeError for want of memory
        stop(f"{printable(arguments.checkpoint)}: {problem if isinstance(problem, Refused) else printable(problem)}")
    try:
        print("\n".join(lines), flush=True)
    except OSError:  # a full disk or a reader that left; the encoder file is written all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again at its end, and fail


if __name__ == "__main__":
    main()
