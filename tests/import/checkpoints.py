"""Saves the checkpoints of the tests: python3 checkpoints.py vit_state.safetensors FOLDER"""

import argparse
import os
import pickle
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
os.mkdir(at("single"))
for index, prefix in enumerate([*prefixes, "module.backbone."]):
    weights = before(prefix, bare | {"head.weight": torch.ones(10, 48)})
    save(f"single/{index}-top.pth", weights)
    for container in ["state_dict", "model", "student", "teacher", "model_ema", "state_dict_ema"]:
        save(f"single/{index}-{container}.pth", {"model": None, container: weights, "epoch": 3})
safetensors.torch.save_file(bare, at("single/timm.safetensors"))
save("single/old.pth", bare, _use_new_zipfile_serialization=False)
heads = {"projector.0.weight": torch.ones(8, 48), "predictor.0.weight": torch.ones(8, 8)}
training = {"optimizer": optimizer, "scaler": {"scale": torch.ones(1)}, "lr_scheduler": {"factor": torch.ones(1)}}
save("single/beside.pth", bare | heads | training)
os.mkdir(at("pair"))
save("pair/beside.pth", bare | {"teacher": double, "optimizer": optimizer})
save("pair/dino.pth", {"student": before("module.backbone.", bare), "teacher": before("backbone.", double)})
save("pair/timm.pth", {"state_dict": bare, "state_dict_ema": double})

save("bare.pth", bare)
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
save("two.pth", before("encoder.", bare) | before("backbone.", bare))
save("codes.pth", {name: tensor.to(torch.int8) for name, tensor in bare.items()})
save("nan.pth", bare | {"norm.bias": torch.full((48,), float("nan"))})
save("large.pth", bare | {"norm.bias": torch.full((48,), 1e300, dtype=torch.float64)})
save("oblong.pth", bare | {"pos_embed": torch.ones(1, 16, 48)})
save("seventeen.pth", bare | {"pos_embed": torch.ones(1, 18, 48)})
save("resnet.pth", {"state_dict": {"module.conv1.weight": torch.ones(64, 3, 7, 7), "module.fc.bias": torch.ones(10)}})
safetensors.torch.save_file({"conv1.weight": torch.ones(3)}, at("other.safetensors"))
save("optimizer.pth", {"optimizer": optimizer, "epoch": 3})
save("list.pth", [1, 2])
save("tensor.pth", torch.ones(3))

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
with zipfile.ZipFile(at("other.zip"), "w") as archive:
    archive.writestr("notes.txt", "")
os.mkdir(at("folder.pth"))
