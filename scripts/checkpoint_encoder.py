"""Finds a Vision Transformer among the tensors of a checkpoint, and checks it."""

import math
import re
from collections import Counter

from checkpoint_file import Refused, printable, torch

# Names that a momentum encoder has in PatchMix and MoCo, in DINO, and in timm's training script.
MOMENTUM = re.compile(r"(.*_)?(momentum|teacher|ema)(_.*)?|encoder_[km]|target_encoder")
ENCODER = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.(?P<block>0|[1-9][0-9]*)\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
# Of an encoder that is not whole, these may be missing: it is a decoder, or a part of something else.
WHOLE = ["pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"]
# Parts of a model or of its training that may be saved beside the encoder's weights, without a prefix between them.
BESIDE = re.compile(
    rf"{MOMENTUM.pattern}|head|predictor|projector|classifier|mask_token|decoder(_.*)?"
    r"|optimizer|lr_scheduler|scheduler|scaler|loss_scaler"
)
WRAPPERS = re.compile(r"((state_dict|model|module|_orig_mod)\.)*")
PART = re.compile(r"(.*?\.)?head(?=\.)|[^.]*")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def name_of(prefix):
    """What --prefix calls the encoder behind a prefix."""
    return printable(prefix.removesuffix(".")) or "''"


def find_encoder(names, wanted, at):
    """The prefix of an encoder's names, and whether it is the momentum or the trained encoder.

    Arguments: which of the two is wanted and the name at which, or `None`.
    """
    prefixes = [name.removesuffix("cls_token") for name in names if name.split(".")[-1] == "cls_token"]
    prefixes = [prefix for prefix in prefixes if all(prefix + part in names for part in WHOLE)] or prefixes
    if not prefixes:
        raise Refused(why_none(names))
    shown = ", ".join(map(name_of, prefixes[:8])) + (", ..." if len(prefixes) > 8 else "")
    roles = {"momentum": [], "trained": []}
    for prefix in prefixes:
        is_momentum = any(map(MOMENTUM.fullmatch, prefix.split(".")))
        roles["momentum" if is_momentum else "trained"].append(prefix)
    if at is not None:
        prefix = f"{at}." if at else ""
        if prefix not in prefixes:
            raise Refused(f"has no encoder at --prefix {name_of(prefix)}, but at: {shown}")
        return prefix, "momentum" if prefix in roles["momentum"] else "trained"
    role = wanted or ("momentum" if roles["momentum"] else "trained")
    if not roles[role]:
        raise Refused(f"has no {role} encoder; omit --encoder {role}")
    if len(roles[role]) > 1:
        raise Refused(f"has several encoders: {shown}; choose one, for example --prefix {name_of(roles[role][0])}")
    return roles[role][0], role


def why_none(names):
    """Why no encoder is found."""
    first = next(iter(names), None)
    if first is None:
        return "has no weights; name a checkpoint, or the state_dict of a model"
    if all(re.match(r"(optimizer\.)?state\.", name) for name in names):
        return "has the state of an optimizer and no weights; name the checkpoint of the model"
    return f"has no cls_token, so no Vision Transformer with a class token; it begins with {printable(first)}"


def encoder_of(tensors, prefix):
    """The tensors of the encoder behind a prefix, and the number of tensors left out of each other part."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    encoder = {name: tensor for name, tensor in own.items() if ENCODER.fullmatch(name)}
    others = [name.removesuffix("cls_token") for name in own if name.endswith(".cls_token")]
    others = tuple(other for other in others if all(other + part in own for part in WHOLE))
    for name in own:
        if name in encoder or BESIDE.fullmatch(name.split(".")[0]) or name.startswith(others):
            continue
        if re.search(r"(^|\.)\[", name):
            raise Refused(f"has the key {printable(name)} among its weights, which names no weight")
        raise Refused(f"{printable(name)} has no place in a plain Vision Transformer")
    taken = {prefix + name for name in encoder}
    left_out = [WRAPPERS.sub("", name, count=1) for name in tensors if name not in taken]
    return encoder, Counter(PART.match(name)[0] for name in left_out)


def size_of(encoder, name, dimensions):
    """The shape of a tensor with so many dimensions."""
    if name not in encoder:
        raise Refused(f"has no {name}; not a Vision Transformer with a class token")
    shape = tuple(encoder[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise Refused(f"{name} has shape {shape}")
    return shape


def shape_of(encoder):
    """The architecture, as far as the weights show it, without the size of the images."""
    width = size_of(encoder, "cls_token", 3)[2]
    hidden = size_of(encoder, "blocks.0.mlp.fc1.weight", 2)[0]
    if hidden % width:
        raise Refused(f"the hidden width {hidden} of a block is not a multiple of the width {width}")
    # As text: a number in a name may have any length.
    blocks = {ENCODER.fullmatch(name)["block"] for name in encoder} - {None}
    missing = [str(block) for block in range(len(blocks)) if str(block) not in blocks]
    if missing:
        last = max(blocks, key=lambda block: (len(block), block))
        raise Refused(f"has {printable(f'blocks.{last}')} and no blocks.{missing[0]}")
    return {
        "patch_size": size_of(encoder, "patch_embed.proj.weight", 4)[3],
        "width": width,
        "depth": len(blocks),
        "mlp_ratio": hidden // width,
    }


def grid_of(encoder, given):
    """Rows and columns of the patches that the position embedding is for."""
    count = size_of(encoder, "pos_embed", 3)[1] - 1
    if given:
        if min(given) < 1 or math.prod(given) != count:
            raise Refused(f"has positions for {count} patches, not for --grid {given[0]} {given[1]}")
        return tuple(given)
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        if math.isqrt(count + 1) ** 2 == count + 1:
            raise Refused(f"pos_embed has {count + 1} positions, a square, and none for the class token: not supported")
        raise Refused(f"pos_embed has {count} positions besides the class token, not a square; give --grid")
    return side, side


def check(encoder, shape, grid):
    """Refuses the encoder unless every expected tensor is present with the expected shape."""
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
            raise Refused(f"has no {name}")
        if tuple(encoder[name].shape) != size:
            raise Refused(f"{name} has shape {tuple(encoder[name].shape)}, and the encoder {size}")


def floats(encoder):
    """The weights in float32, each with contiguous memory of its own, as the format needs them."""
    for name, tensor in encoder.items():
        if tensor.dtype not in FLOATS or tensor.layout is not torch.strided or tensor.is_meta:
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
            raise Refused(f"{name} is {kind}, not plain floating-point weights; dequantize the model first")
    # A tensor of a few bytes can claim to be of any size by repeating them.
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in encoder.values())
    storages = [tensor.untyped_storage() for tensor in encoder.values()]
    present = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if claimed > present:
        raise Refused(f"its weights should have {claimed} bytes, but the file has {present} of them")
    result = {name: tensor.detach().float().contiguous().clone() for name, tensor in encoder.items()}
    for name, tensor in result.items():
        check_finite(name, tensor)
    return result


def check_finite(name, tensor):
    """Refuses NaN and infinities, also those of numbers that are too large for float32."""
    if not tensor.isfinite().all():
        raise Refused(f"{name} has NaN or infinite values; take a checkpoint from before the training diverged")


def on_side(positions, grid, side):
    """Positions `[1, 1 + rows * columns, width]` for `side` rows and columns, read as patchmix reads other images."""
    if grid == (side, side):
        return positions
    class_token, patches = positions[:, :1], positions[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
    # The published code adds 0.1 so that rounding cannot lose a row.
    scale = [(side + 0.1) / length for length in grid]
    patches = torch.nn.functional.interpolate(patches, scale_factor=scale, mode="bicubic")
    interpolated = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1).contiguous()
    check_finite("pos_embed", interpolated)
    return interpolated
