#!/usr/bin/env python3
"""Makes an encoder file from a PyTorch checkpoint: a published PatchMix one, or a Vision Transformer of timm.

    python3 scripts/import_checkpoint.py checkpoint.pth encoder.safetensors --arch vit-small
    python3 scripts/import_checkpoint.py vit.safetensors encoder.safetensors --heads 6 \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

Finds the encoder wherever it is in the file: under `state_dict`, `model` or `teacher`, behind the prefixes of
DataParallel and torch.compile, or at the top level. Of a trained encoder and a momentum encoder it takes the momentum
encoder, as the published evaluations do; --encoder trained takes the other. Projector, predictor and optimizer are left
out. The weights show the whole shape except the number of heads: --heads gives it, or --arch, which is checked against
the rest.

Nothing in the file is executed: it is read with `weights_only=True`, and rejected if it needs more than tensors, plain
values and `argparse.Namespace`.

Needs torch, numpy and safetensors:

    pip install torch numpy safetensors
"""

import argparse
import contextlib
import math
import os
import re
from collections import Counter

from checkpoint_file import read, safetensors, stop, tensors_in, torch

ARCHITECTURES = {"vit-tiny": (192, 12, 3), "vit-small": (384, 12, 12), "vit-base": (768, 12, 12)}
POOLINGS = {"class-token": "global_pool='token'", "patch-mean": "global_pool='avg', fc_norm=False"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_IMAGE = 4096  # pixels; a bound on the memory that --image-size can ask for

# Names that a momentum encoder has in PatchMix and MoCo, in DINO, and in timm's training script.
MOMENTUM = {"momentum_encoder", "teacher", "model_ema", "state_dict_ema"}
ENCODER = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
# Parts of a model or of its training that may be saved beside the encoder's weights, without a prefix between them.
BESIDE = MOMENTUM | {"head", "predictor", "projector", "classifier"}
BESIDE |= {"optimizer", "lr_scheduler", "scheduler", "scaler", "loss_scaler"}
WRAPPERS = re.compile(r"((state_dict|model|module|_orig_mod)\.)*")
PART = re.compile(r"(.*?\.)?head(?=\.)|[^.]*")


def find_encoder(names, wanted, path):
    """The prefix of an encoder's names, and whether it is the momentum or the trained encoder."""
    prefixes = [name.removesuffix("cls_token") for name in names if name.split(".")[-1] == "cls_token"]
    if not prefixes:
        first = next(iter(names), None)
        if first is None:
            stop(f"{path}: has no weights; name a checkpoint, or the state_dict of a model")
        if all(re.match(r"(optimizer\.)?state\.", name) for name in names):
            stop(f"{path}: has the state of an optimizer and no weights; name the checkpoint of the model")
        stop(f"{path}: has no cls_token, so no Vision Transformer with a class token; it begins with {first}")
    roles = {"momentum": [], "trained": []}
    for prefix in prefixes:
        roles["momentum" if MOMENTUM & set(prefix.split(".")) else "trained"].append(prefix)
    role = wanted or ("momentum" if roles["momentum"] else "trained")
    if not roles[role]:
        stop(f"{path}: has no {role} encoder; omit --encoder {role}")
    if len(roles[role]) > 1:
        several = ", ".join(prefix.rstrip(".") or "the top level" for prefix in roles[role])
        stop(f"{path}: has several encoders: {several}; save the state_dict of one alone")
    return roles[role][0], role


def encoder_of(tensors, prefix, path):
    """The tensors of the encoder behind a prefix, and the number of tensors left out of each other part."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    encoder = {name: tensor for name, tensor in own.items() if ENCODER.fullmatch(name)}
    for name in own:
        if name not in encoder and name.split(".")[0] not in BESIDE:
            stop(f"{path}: {name} has no place in a plain Vision Transformer")
    taken = {prefix + name for name in encoder}
    left_out = [WRAPPERS.sub("", name, count=1) for name in tensors if name not in taken]
    return encoder, Counter(PART.match(name)[0] for name in left_out)


def size_of(encoder, name, dimensions, path):
    """The shape of a tensor with so many dimensions."""
    if name not in encoder:
        stop(f"{path}: has no {name}; not a Vision Transformer with a class token")
    shape = tuple(encoder[name].shape)
    if len(shape) != dimensions or 0 in shape:
        stop(f"{path}: {name} has shape {shape}")
    return shape


def shape_of(encoder, path):
    """The architecture, as far as the weights show it, without the size of the images."""
    width = size_of(encoder, "cls_token", 3, path)[2]
    hidden = size_of(encoder, "blocks.0.mlp.fc1.weight", 2, path)[0]
    if hidden % width:
        stop(f"{path}: the hidden width {hidden} of a block is not a multiple of the width {width}")
    return {
        "patch_size": size_of(encoder, "patch_embed.proj.weight", 4, path)[3],
        "width": width,
        "depth": len({name.split(".")[1] for name in encoder if name.startswith("blocks.")}),
        "mlp_ratio": hidden // width,
    }


def grid_of(encoder, given, path):
    """Rows and columns of the patches that the position embedding is for."""
    count = size_of(encoder, "pos_embed", 3, path)[1] - 1
    if given:
        if min(given) < 1 or math.prod(given) != count:
            stop(f"--grid {given[0]} {given[1]}: {path} has positions for {count} patches")
        return tuple(given)
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        if math.isqrt(count + 1) ** 2 == count + 1:
            stop(f"{path}: pos_embed has {count + 1} positions, a square, and none for the class token: not supported")
        stop(f"{path}: pos_embed has {count} positions besides the class token, not a square; give --grid ROWS COLUMNS")
    return side, side


def check(encoder, shape, grid, path):
    """Stops unless every expected tensor is present with the expected shape."""
    width, hidden = shape["width"], shape["width"] * shape["mlp_ratio"]
    expected = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + math.prod(grid), width),
        "patch_embed.proj.weight": (width, 3, shape["patch_size"], shape["patch_size"]),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    layers = [("attn.qkv", 3 * width, width), ("attn.proj", width, width)]
    layers += [("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden)]
    for block in range(shape["depth"]):
        for name, outputs, inputs in layers:
            expected[f"blocks.{block}.{name}.weight"] = (outputs, inputs)
            expected[f"blocks.{block}.{name}.bias"] = (outputs,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            expected[f"blocks.{block}.{name}"] = (width,)
    for name, size in expected.items():
        if name not in encoder:
            stop(f"{path}: has no {name}")
        if tuple(encoder[name].shape) != size:
            stop(f"{path}: {name} has shape {tuple(encoder[name].shape)}, and the encoder {size}")


def floats(encoder, path):
    """The weights in float32, each with contiguous memory of its own, as the format needs them."""
    result = {}
    for name, tensor in encoder.items():
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
            stop(f"{path}: {name} is {kind}, not plain floating-point weights; dequantize the model first")
        result[name] = tensor.detach().float().contiguous().clone()
        if not result[name].isfinite().all():
            stop(f"{path}: {name} has NaN or infinite values; take a checkpoint from before the training diverged")
    return result


def on_side(positions, grid, side):
    """Positions `[1, 1 + rows * columns, width]` for `side` rows and columns, read as patchmix reads other images."""
    if grid == (side, side):
        return positions
    class_token, patches = positions[:, :1], positions[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
    # The published code adds 0.1 so that rounding cannot lose a row.
    scale = [(side + 0.1) / length for length in grid]
    patches = torch.nn.functional.interpolate(patches, scale_factor=scale, mode="bicubic")
    return torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1).contiguous()


def side_of(image_size, grid, patch_size):
    """Patches on a side of the images, which --image-size gives if it is not `None`."""
    if image_size is None:
        if grid[0] != grid[1]:
            stop(f"--grid {grid[0]} {grid[1]}: encoder files are for square images; give their --image-size too")
        return grid[0]
    if not 0 < image_size <= LARGEST_IMAGE or image_size % patch_size:
        stop(f"--image-size {image_size}: must be a multiple of the patch size {patch_size}, at most {LARGEST_IMAGE}")
    return image_size // patch_size


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
    parser.add_argument(
        "--encoder", choices=["momentum", "trained"], help="which of two encoders [momentum if there is one]"
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="interpolate the positions for images of N pixels")
    parser.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="patches of an image [a square]")
    parser.add_argument("--pooling", choices=POOLINGS, default="class-token", help="tokens that make the features")
    parser.add_argument("--mean", type=float, nargs=3, default=IMAGENET_MEAN, help="mean of channels [ImageNet's]")
    parser.add_argument("--std", type=float, nargs=3, default=IMAGENET_STD, help="deviation of channels [ImageNet's]")
    return parser.parse_args()


def check_out(out):
    """Stops unless the encoder file can be written."""
    if not out.endswith(".safetensors"):
        stop(f"{out}: must end in .safetensors, which tells timm the format")
    if os.path.exists(out):
        stop(f"{out}: exists; name another file")
    if not os.path.isdir(os.path.dirname(out) or "."):
        stop(f"{out}: its folder does not exist; create it first")


def check_normalization(arguments):
    """Stops unless images can be normalized with the mean and the standard deviation."""
    mean, std = (" ".join(map(str, numbers)) for numbers in (arguments.mean, arguments.std))
    if not all(map(math.isfinite, arguments.mean)):
        stop(f"--mean {mean}: must be finite")
    if not all(math.isfinite(number) and number > 0 for number in arguments.std):
        stop(f"--std {std}: must be finite and positive")


def write(weights, out, text):
    """Writes the encoder file, whole or not at all."""
    part = out + ".part"
    try:
        with open(part, "wb") as file:
            file.write(safetensors.torch.save(weights, metadata=text))
        os.replace(part, out)
    except OSError as error:
        stop(f"{out}: cannot be written ({error.strerror}); name a file in a folder that has space and permits it")
    finally:
        with contextlib.suppress(OSError):  # a file that was written whole has its final name
            os.remove(part)


def report(arguments, encoder, left_out, grid, text):
    """Prints what was left out, assumed and changed."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in encoder.values()} - {"float32"}
    side, patch_size = int(text["image_size"]) // int(text["patch_size"]), text["patch_size"]
    assumed = "" if arguments.grid else ", taken as a square; --grid names another shape"
    interpolated = "" if grid == (side, side) else f", positions interpolated to {side} x {side}"
    if left_out:
        print("left out ", ", ".join(f"{count} tensors of {part}" for part, count in left_out.items()))
    print(f"patches   {grid[0]} x {grid[1]} of {patch_size} px{assumed}{interpolated}")
    if kinds:
        print(f"converted {', '.join(sorted(kinds))} to float32")
    print(f"in timm   model = timm.models.vision_transformer.{text['timm']}")


def main():
    arguments = arguments_of_the_command_line()
    path = arguments.checkpoint
    check_out(arguments.out)
    check_normalization(arguments)
    tensors = tensors_in(read(path))
    prefix, role = find_encoder(tensors, arguments.encoder, path)
    encoder, left_out = encoder_of(tensors, prefix, path)
    shape, grid = shape_of(encoder, path), grid_of(encoder, arguments.grid, path)
    check(encoder, shape, grid, path)
    side = side_of(arguments.image_size, grid, shape["patch_size"])
    shape = {"image_size": side * shape["patch_size"], **shape, "heads": heads_of(arguments, shape)}
    weights = floats(encoder, path)
    weights["pos_embed"] = on_side(weights["pos_embed"], grid, side)
    text = text_of(shape, arguments)
    write(weights, arguments.out, text)
    parameters = sum(tensor.numel() for tensor in weights.values())
    print(f"written   {arguments.out}: {len(weights)} tensors, {parameters:,} parameters")
    print(f"encoder   {role} encoder, {prefix.rstrip('.') or 'the top level'}")
    report(arguments, encoder, left_out, grid, text)


if __name__ == "__main__":
    main()
