"""A Vision Transformer with the published heads, and one training step, in plain PyTorch."""

import os

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.query_key_value, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens):
        batch, length, width = tokens.shape
        parts = self.query_key_value(tokens).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            logits = query * (width // self.heads) ** -0.5 @ key.transpose(-2, -1)
            attended = logits.softmax(-1) @ value
        return self.projection(attended.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width, heads, fused, drop_path):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, fused)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = drop_path

    def dropped(self, branch):
        if self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep).div_(keep)

    def forward(self, tokens):
        tokens = tokens + self.dropped(self.attention(self.norm_1(tokens)))
        return tokens + self.dropped(self.perceptron(self.norm_2(tokens)))


def head(widths):
    layers = []
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        last = index == len(widths) - 2
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=not last)]
        if not last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Model(nn.Module):
    def __init__(self, depth, width, heads, side, patch, hidden, output, fused):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width) * 0.02)
        drop = torch.linspace(0, 0.1, depth).tolist()
        self.blocks = nn.Sequential(*[Block(width, heads, fused, rate) for rate in drop])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.projector = head([width, hidden, hidden, output])
        self.predictor = head([output, hidden, output])

    def forward(self, images):
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.position
        return self.projector(self.norm(self.blocks(tokens))[:, 0])


class Step:
    """One step on two given views: mix, four forward passes, three losses, backward, fused AdamW.

    The baseline is float32 with fused attention. `way` names changes to it, joined by dashes: `plain` (attention as
    matrix products), `bf16` (autocast), `compiled` (encoder and heads by torch.compile, each as one graph for these
    shapes). COMPILE_MODE names a mode of torch.compile, such as max-autotune-no-cudagraphs.
    """

    def __init__(self, depth, width, heads, side, patch, batch, hidden, output, way, mix, targets, contrast):
        changes = way.split("-")
        self.model = Model(depth, width, heads, side, patch, hidden, output, fused="plain" not in changes).train()
        self.views = [torch.rand(batch, 3, side, side) for _ in range(2)]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.02, fused=True)
        self.patch, self.mix, self.targets = patch, mix, targets
        self.contrast, self.bf16 = contrast, "bf16" in changes
        if "compiled" in changes:
            for part in (self.model, self.model.predictor):
                part.compile(fullgraph=True, dynamic=False, mode=os.environ.get("COMPILE_MODE"))

    def run(self):
        with torch.autocast(self.views[0].device.type, torch.bfloat16, enabled=self.bf16):
            total = self.loss()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()

    def loss(self):
        view_1, view_2 = self.views
        mixed_1, mixed_2 = (self.mix(view, self.patch, 2) for view in self.views)
        mix_to_origin, mix_to_mix = self.targets(len(view_1), 2)
        model = self.model
        projection_1 = model(view_1)
        query_1, key_1 = model.predictor(projection_1), projection_1.detach()
        with torch.no_grad():
            key_2, mixed_key_1 = model(view_2), model(mixed_1)
        mixed_query_2 = model.predictor(model(mixed_2))
        identity = torch.eye(len(view_1)) * 0.9 + 0.1 / len(view_1)
        with torch.autocast(view_1.device.type, enabled=False):
            query_1, mixed_query_2 = query_1.float(), mixed_query_2.float()
            key_1, key_2, mixed_key_1 = key_1.float(), key_2.float(), mixed_key_1.float()
            mixed = self.contrast(mixed_query_2, key_1, mix_to_origin)
            mixed = mixed + self.contrast(mixed_query_2, mixed_key_1, mix_to_mix)
            return self.contrast(query_1, key_2, identity) + mixed / 2
