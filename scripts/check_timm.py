#!/usr/bin/env python3
"""Checks that timm and patchmix compute the same with an exported encoder.

    cargo run --example export_encoder --release -- --checkpoint RUN --out encoder.safetensors \\
        --reference reference.safetensors
    python3 scripts/check_timm.py encoder.safetensors --reference reference.safetensors

Builds timm's VisionTransformer from the metadata of the file, loads the weights strictly, and compares on the images
of the reference file: the features, the tokens after the last norm and after every block (`forward_intermediates`, with
and without norm), and the maps of `features_only=True`, which detection frameworks use. `--model NAME` loads a model of
timm by name instead. It must have the same number of heads: with another number the weights may fit, but the output
differs.

Needs torch, torchvision, timm and safetensors:

    pip install torch torchvision timm safetensors
"""

import argparse
import json
import sys


def stop(message):
    sys.exit(f"error: {message}")


try:
    import safetensors.torch
    import timm
    import torch
    from timm.models.vision_transformer import VisionTransformer
except (ImportError, OSError) as error:
    stop(f"{error}; pip install torch torchvision timm safetensors")


def read(path):
    """Tensors and metadata of a safetensors file."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = json.loads(file.read(length)).get("__metadata__", {})
        return safetensors.torch.load_file(path), text
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        stop(f"{path}: {error}")


def shape_of(text, path):
    """The arguments of timm's VisionTransformer, from the metadata of an encoder file."""
    if text.get("format") != "patchmix-encoder 1":
        stop(f"{path}: not an encoder file; write one with export_encoder")
    number = lambda name: int(text[name])
    return {
        "img_size": number("image_size"),
        "patch_size": number("patch_size"),
        "embed_dim": number("width"),
        "depth": number("depth"),
        "num_heads": number("heads"),
        "mlp_ratio": number("mlp_ratio"),
    }


def pooling_of(text):
    return {"class_token": {"global_pool": "token"}, "patch_mean": {"global_pool": "avg", "fc_norm": False}}[
        text["pooling"]
    ]


def build(arguments, shape, pooling):
    """The model, before the weights are loaded."""
    if not arguments.model:
        return VisionTransformer(**shape, num_classes=0, **pooling)
    size = {name: shape[name] for name in ("img_size", "patch_size")}
    model = timm.create_model(arguments.model, num_classes=0, **size, **pooling)
    heads = model.blocks[0].attn.num_heads
    if heads != shape["num_heads"]:
        stop(
            f"{arguments.model} of timm has {heads} heads, the encoder {shape['num_heads']}; the weights may fit, but "
            f"the output would differ: pass num_heads={shape['num_heads']} to timm.create_model"
        )
    return model


def feature_maps(path, shape, images):
    """The maps a detection framework gets: a model by name, with our shape and the file as its pretrained weights."""
    backbone = timm.create_model(
        "vit_small_patch16_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": path},
        features_only=True,
        out_indices=tuple(range(shape["depth"])),
        **shape,
    )
    return backbone.eval()(images)


class Comparison:
    """Prints the largest difference of each comparison, and records whether all were small enough."""

    def __init__(self, tolerance):
        self.tolerance = tolerance
        self.passed = True

    def compare(self, what, pairs):
        pairs = list(pairs)
        alike = all(theirs.shape == ours.shape for theirs, ours in pairs)
        difference = max((theirs - ours).abs().max().item() for theirs, ours in pairs) if alike else float("inf")
        good = difference <= self.tolerance  # false for NaN
        self.passed &= good
        print(f"{'equal' if good else 'DIFFERENT':<9}  {what:<45} largest difference {difference:.1e}")


def compare(arguments, model, shape):
    """Compares everything in the reference file."""
    reference, _ = read(arguments.reference)
    images = reference["images"]
    side = shape["img_size"] // shape["patch_size"]
    blocks = range(shape["depth"])
    comparison = Comparison(arguments.tolerance)
    comparison.compare("features", [(model(images), reference["features"])])
    comparison.compare("tokens after the last norm", [(model.forward_features(images), reference["tokens"])])
    for norm, name in [(False, "blocks"), (True, "normed_blocks")]:
        intermediates = model.forward_intermediates(
            images, norm=norm, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        tokens = [torch.cat([prefix, patches], 1) for patches, prefix in intermediates]
        ours = [reference[f"{name}.{block}"] for block in blocks]
        comparison.compare(f"forward_intermediates(norm={norm}), all blocks", zip(tokens, ours, strict=True))
    ours = [reference[f"blocks.{block}"][:, 1:].mT.unflatten(2, (side, side)) for block in blocks]
    maps = feature_maps(arguments.file, shape, images)
    comparison.compare("features_only=True, all blocks", zip(maps, ours, strict=True))
    return comparison.passed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="an encoder file from export_encoder or import_checkpoint.py")
    parser.add_argument("--reference", help="the file that export_encoder --reference wrote for this encoder")
    parser.add_argument("--model", help="load into the model of this name from timm.create_model")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest difference that counts as equal")
    arguments = parser.parse_args()

    tensors, text = read(arguments.file)
    shape = shape_of(text, arguments.file)
    model = build(arguments, shape, pooling_of(text)).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in model.state_dict().items():
        if shapes.get(name) != tuple(tensor.shape):
            has = f"has shape {shapes[name]}" if name in shapes else "is missing"
            stop(f"{arguments.file}: {name} {has}, but the model has {tuple(tensor.shape)}; the architectures differ")
    model.load_state_dict(tensors, strict=True)
    print(f"loaded     {len(tensors)} tensors into {arguments.model or text['timm']}, timm {timm.__version__}")
    if arguments.reference:
        with torch.no_grad():
            if not compare(arguments, model, shape):
                stop("timm's output differs")


if __name__ == "__main__":
    main()
