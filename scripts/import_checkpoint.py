#!/usr/bin/env python3
"""Makes an encoder file from a PyTorch checkpoint: a published PatchMix one, or a Vision Transformer of timm.

    python3 scripts/import_checkpoint.py checkpoint.pth encoder.safetensors --arch vit-small
    python3 scripts/import_checkpoint.py vit.safetensors encoder.safetensors --heads 6 \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

Reads the weights under `state_dict`, under `model` or at the top level, with or without the prefix `module.`. A
published checkpoint has two encoders, and --source chooses one; projector and predictor are left out. The weights show
the whole shape except the number of heads: --heads gives it, or --arch, which is checked against the rest.

Nothing in the file is executed: it is read with `weights_only=True`, and rejected if it needs more than tensors, plain
values and `argparse.Namespace`.

Needs torch, numpy and safetensors:

    pip install torch numpy safetensors
"""

import argparse
import math
import os
import pickle
import re
import sys
from collections import Counter

ARCHITECTURES = {"vit-tiny": (192, 12, 3), "vit-small": (384, 12, 12), "vit-base": (768, 12, 12)}
POOLINGS = {"class-token": "global_pool='token'", "patch-mean": "global_pool='avg', fc_norm=False"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ENCODER = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
HEADS = re.compile(r"(head|predictor)\..*")
PART = re.compile(r"base_encoder\.head|[^.]+")


def stop(message):
    sys.exit(f"error: {message}")


try:
    import safetensors.torch
    import torch
except ImportError as error:
    stop(f"{error}; pip install torch numpy safetensors")


def read(path):
    """The content of the file, read without executing any of it."""
    if not os.path.isfile(path):
        stop(f"{path}: no such file")
    try:
        if path.endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        try:
            wanted = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - {"argparse.Namespace"}
        except Exception:
            stop(f"{path}: is no checkpoint of PyTorch, or has an old format that cannot be read without running code")
        stop(
            f"{path}: needs {', '.join(sorted(wanted))}, which is code, not weights; if you trust the file, save its "
            "state_dict alone"
        )
    except Exception as error:
        stop(f"{path}: is no checkpoint ({str(error).splitlines()[0]})")


def weights_of(checkpoint, path):
    """The dictionary of tensors in a checkpoint."""
    for name in ("state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(name), dict):
            checkpoint = checkpoint[name]
            break
    tensors = checkpoint.items() if isinstance(checkpoint, dict) else ()
    tensors = {name.removeprefix("module."): value for name, value in tensors if isinstance(value, torch.Tensor)}
    if not tensors:
        stop(f"{path}: has no weights under state_dict, under model or at the top level")
    return tensors


def encoder_of(tensors, source, path):
    """The tensors of the encoder, and the number of tensors left out of each other part."""
    both = any(name.startswith("base_encoder.") for name in tensors)
    if source == "momentum" and not any(name.startswith("momentum_encoder.") for name in tensors):
        stop(f"{path}: has no momentum encoder; omit --source momentum")
    prefix = f"{source}_encoder." if both or source == "momentum" else ""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    encoder = {name: tensor for name, tensor in own.items() if ENCODER.fullmatch(name)}
    for name in own:
        if name not in encoder and not HEADS.fullmatch(name):
            stop(f"{path}: {name} has no place in a plain Vision Transformer")
    left_out = [name for name in tensors if name.removeprefix(prefix) not in encoder or not name.startswith(prefix)]
    return encoder, Counter(PART.match(name)[0] for name in left_out)


def shape_of(encoder, path):
    """The architecture, as far as the weights show it."""

    def size(name, dimensions):
        if name not in encoder:
            stop(f"{path}: has no {name}; not a Vision Transformer with a class token")
        if encoder[name].dim() != dimensions:
            stop(f"{path}: {name} has shape {tuple(encoder[name].shape)}")
        return encoder[name].shape

    width = size("cls_token", 3)[2]
    patch_size = size("patch_embed.proj.weight", 4)[3]
    positions = size("pos_embed", 3)[1] - 1
    side = math.isqrt(max(positions, 0))
    if side * side != positions or side == 0:
        stop(f"{path}: pos_embed has {positions} positions besides the class token, which is not a square")
    hidden = size("blocks.0.mlp.fc1.weight", 2)[0]
    if hidden % width:
        stop(f"{path}: the hidden width {hidden} of a block is not a multiple of the width {width}")
    depth = 1 + max(int(name.split(".")[1]) for name in encoder if name.startswith("blocks."))
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "mlp_ratio": hidden // width,
    }


def check(encoder, shape, path):
    """Stops unless every expected tensor is present with the expected shape."""
    width, hidden = shape["width"], shape["width"] * shape["mlp_ratio"]
    expected = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (shape["image_size"] // shape["patch_size"]) ** 2, width),
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a .pth file, or a .safetensors file of timm")
    parser.add_argument("out", help="the encoder file to write")
    heads = parser.add_mutually_exclusive_group(required=True)
    heads.add_argument("--heads", type=int, help="attention heads of a block")
    heads.add_argument("--arch", choices=ARCHITECTURES, help="a published architecture; vit-small has 12 heads")
    parser.add_argument("--source", choices=["base", "momentum"], default="base", help="which of two encoders")
    parser.add_argument("--pooling", choices=POOLINGS, default="class-token", help="tokens that make the features")
    parser.add_argument("--mean", type=float, nargs=3, default=IMAGENET_MEAN, help="mean of channels [ImageNet's]")
    parser.add_argument("--std", type=float, nargs=3, default=IMAGENET_STD, help="deviation of channels [ImageNet's]")
    arguments = parser.parse_args()

    path = arguments.checkpoint
    if not arguments.out.endswith(".safetensors"):
        stop(f"{arguments.out}: must end in .safetensors, which tells timm the format")
    if os.path.exists(arguments.out):
        stop(f"{arguments.out}: exists; name another file")
    encoder, left_out = encoder_of(weights_of(read(path), path), arguments.source, path)
    shape = shape_of(encoder, path)
    check(encoder, shape, path)
    shape["heads"] = heads_of(arguments, shape)
    text = text_of(shape, arguments)
    # The format needs contiguous tensors with storage of their own.
    floats = {name: tensor.detach().float().contiguous().clone() for name, tensor in encoder.items()}
    safetensors.torch.save_file(floats, arguments.out, metadata=text)
    parameters = sum(tensor.numel() for tensor in encoder.values())
    print(f"written   {arguments.out}: {len(encoder)} tensors, {parameters:,} parameters")
    if left_out:
        print("left out ", ", ".join(f"{count} tensors of {part}" for part, count in left_out.items()))
    print(f"in timm   model = timm.models.vision_transformer.{text['timm']}")


if __name__ == "__main__":
    main()
