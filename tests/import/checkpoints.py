"""Saves the checkpoints of the tests: python3 checkpoints.py vit_state.safetensors FOLDER"""

import argparse
import os
import pickle
import shutil
import sys
import zipfile

import safetensors.torch
import torch

# The published model, whose momentum encoder has twice the weights, and its encoder alone.
state, folder = safetensors.torch.load_file(sys.argv[1]), sys.argv[2]
base = {name: tensor for name, tensor in state.items() if name.startswith("base_")}
momentum = {name.replace("base_", "momentum_"): 2 * tensor for name, tensor in base.items()}
bare = {name.removeprefix("base_encoder."): tensor for name, tensor in base.items() if ".head." not in name}
double = {name: 2 * tensor for name, tensor in bare.items()}


def at(name):
    return os.path.join(folder, name)


def save(name, value, **options):
    torch.save(value, at(name), **options)


def before(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write(name, content):
    with open(at(name), "wb") as file:
        file.write(content)


# Published: without and with a momentum encoder.
optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
rest = {"epoch": 800, "arch": "vit", "optimizer": optimizer, "args": argparse.Namespace(lr=1.0)}
save("tiny.pth", {"state_dict": before("module.", state), **rest})
save("small.pth", {"state_dict": before("module.", state | momentum), **rest})

# An encoder behind prefixes, in containers.
prefixes = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "encoder.", "backbone.", "model."]
prefixes += ["module.backbone.", "module.module.", "encoder_q.", "net.vision.encoder."]
os.mkdir(at("single"))
for index, prefix in enumerate(prefixes):
    weights = before(prefix, bare | {"head.weight": torch.ones(10, 48)})
    save(f"single/{index}-top.pth", weights)
    for container in ["state_dict", "model", "student", "teacher", "model_ema", "state_dict_ema"]:
        save(f"single/{index}-{container}.pth", {"model": None, container: weights, "epoch": 3})
save("single/deep.pth", {"a": {"b": {"c": {"state_dict": {"model": {"encoder": before("module.", bare)}}}}}})
save("single/old.pth", bare, _use_new_zipfile_serialization=False)
# The format is in the bytes, whatever the name says.
save("bare.pth", bare)
for end in ["safetensors", "pth", "bin", "pt", "png"]:
    shutil.copy(at("bare.pth"), at(f"single/zip.{end}"))
    shutil.copy(at("single/old.pth"), at(f"single/pickle.{end}"))
    safetensors.torch.save_file(bare, at(f"single/timm.{end}"))
# Parts of other models beside it: a decoder with a class token, that of masked autoencoders.
decoder = {"decoder.cls_token": torch.ones(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
save("single/decoder.pth", bare | decoder | {"decoder_embed.weight": torch.ones(8, 48), "mask_token": torch.ones(8)})
heads = {"projector.0.weight": torch.ones(8, 48), "predictor.0.weight": torch.ones(8, 8)}
training = {"optimizer": optimizer, "scaler": {"scale": torch.ones(1)}, "lr_scheduler": {"factor": torch.ones(1)}}
save("single/beside.pth", bare | heads | training)
os.mkdir(at("pair"))
save("pair/beside.pth", bare | {"teacher": double, "optimizer": optimizer})
save("pair/dino.pth", {"student": before("module.backbone.", bare), "teacher": before("backbone.", double)})
save("pair/timm.pth", {"state_dict": bare, "state_dict_ema": double})
save("pair/moco.pth", {"state_dict": before("module.encoder_q.", bare) | before("module.encoder_k.", double)})
save("above.pth", bare | before("backbone.", double))

for kind in ["float16", "bfloat16", "float64"]:
    save(f"{kind}.pth", {name: tensor.to(getattr(torch, kind)) for name, tensor in bare.items()})


class Foreign:
    pass


class Program:
    def __reduce__(self):
        return os.system, ("touch " + at("executed"),)


# Weights that are no plain Vision Transformer.
save("misshapen.pth", bare | {"norm.bias": torch.ones(49)})
save("scaled.pth", bare | {"blocks.0.ls1.gamma": torch.ones(48)})
save("missing.pth", {name: tensor for name, tensor in bare.items() if "blocks.1.mlp" not in name})
save("beside.pth", bare | training | {"blocks.0.optimizer.weight": torch.ones(48)})
save("block.pth", bare | {"blocks.99999999999.norm1.weight": torch.ones(48)})
save("number.pth", bare | {0: torch.ones(3)})
save("numbers.pth", {number: tensor for number, tensor in enumerate(bare.values())})
save("digits.pth", bare | {10**500: torch.ones(3)})
save("pairs.pth", {("a", 1): bare, b"b": bare, None: bare})
save("long-name.pth", bare | {"x" * 100_000: torch.ones(3)})
save("steering.pth", bare | {"\x1b[2J\u202e\nerror: all is well": torch.ones(3)})
save("gap.pth", bare | {f"blocks.{'9' * 150}.norm1.weight": torch.ones(48)})
save("same.pth", {"encoder": bare} | before("encoder.", double))
save("two.pth", before("encoder.", bare) | before("backbone.", bare))
save("codes.pth", {name: tensor.to(torch.int8) for name, tensor in bare.items()})
save("nan.pth", bare | {"norm.bias": torch.full((48,), float("nan"))})
save("large.pth", bare | {"norm.bias": torch.full((48,), 1e300, dtype=torch.float64)})
save("infinite.pth", bare | {"pos_embed": torch.full((1, 17, 48), float("-inf"))})
save("complex.pth", {name: tensor.to(torch.complex64) for name, tensor in bare.items()})
save("float8.pth", {name: tensor.to(torch.float8_e4m3fn) for name, tensor in bare.items()})
save("no-elements.pth", {name: torch.ones(0, *tensor.shape[1:]) for name, tensor in bare.items()})
save("no-width.pth", {name: tensor[..., :0].clone() for name, tensor in bare.items()})
save("repeated.pth", {name: torch.ones(1).expand(tensor.shape) for name, tensor in bare.items()})
save("oblong.pth", bare | {"pos_embed": torch.ones(1, 16, 48)})
save("seventeen.pth", bare | {"pos_embed": torch.ones(1, 18, 48)})
save("resnet.pth", {"state_dict": {"module.conv1.weight": torch.ones(64, 3, 7, 7), "module.fc.bias": torch.ones(10)}})
safetensors.torch.save_file({"conv1.weight": torch.ones(3)}, at("other.safetensors"))
save("optimizer.pth", {"optimizer": optimizer, "epoch": 3})
save("list.pth", [1, 2])
save("tensor.pth", torch.ones(3))

# Dictionaries without an end, or with billions of entries.
endless, wide = {"weight": torch.ones(3)}, torch.ones(3)
endless["again"] = endless
save("endless.pth", {"model": endless})
for _ in range(4):
    wide = {f"{number}": wide for number in range(500)}
save("wide.pth", wide)

# Code.
save("foreign.pth", {"state_dict": bare, "args": Foreign()})
save("program.pth", {"state_dict": bare, "args": Program()})
save("old-program.pth", {"state_dict": bare, "args": Program()}, _use_new_zipfile_serialization=False)
write("program.pkl", pickle.dumps({"state_dict": Program()}))
torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)), at("script.pt"))

# Files cut off, and files of other kinds.
halves = {"half.pth": "bare.pth", "half-old.pth": "single/old.pth", "half.safetensors": "single/timm.safetensors"}
for name, whole in halves.items():
    with open(at(whole), "rb") as file:
        write(name, file.read()[:100_000])
write("empty.pth", b"")
write("text.pth", b"no checkpoint")
write("page.pth", b"\r\n<!DOCTYPE html>")
write("lfs.pth", b"version https://git-lfs.github.com/spec/v1\n")
write("image.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
write("image.jpg", b"\xff\xd8\xff\xe0" + bytes(50))
write("packed.pth", b"\x1f\x8b\x08" + bytes(50))
write("array.npy", b"\x93NUMPY\x01\x00" + bytes(50))
write("keras.h5", b"\x89HDF\r\n\x1a\n" + bytes(50))
os.mkfifo(at("pipe.pth"))
with zipfile.ZipFile(at("bare.pth")) as whole, zipfile.ZipFile(at("bomb.pth"), "w", zipfile.ZIP_DEFLATED) as archive:
    for name in whole.namelist():
        archive.writestr(name, whole.read(name) if name.endswith(".pkl") else bytes(10_000_000))
with zipfile.ZipFile(at("other.zip"), "w") as archive:
    archive.writestr("notes.txt", "")
os.mkdir(at("folder.pth"))
