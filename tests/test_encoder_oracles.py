"""Encoders beside the published networks, written out plainly from their papers and tensor names.

Each oracle takes weights under the names that the published checkpoints have, runs them on maps (B, C, F, T)
without a thought for speed or padding, and must agree with ours, which has the same weights by a mapping of names.
"""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.encoders import resnet

Weights = dict[str, Tensor]


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """Batch norm in evaluation over axis 1, with a scale and an offset where the checkpoint has them."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
    x = (x - mean) / (variance + 1e-5).sqrt()
    if f"{name}.weight" in w:
        x = x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)
    return x


def statistics(x: Tensor) -> Tensor:
    """Mean and deviation over the last axis, channels and frequencies in that order."""
    return torch.cat([x.mean(-1).flatten(1), (x.var(-1) + 1e-7).sqrt().flatten(1)], 1)


def resnet_oracle(x: Tensor, w: Weights) -> Tensor:
    """WeSpeaker's and 3D-Speaker's ResNet, of basic blocks or of bottlenecks."""
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    blocks = sorted({tuple(map(int, m)) for m in re.findall(r"layer(\d)\.(\d+)\.", " ".join(w))})
    for layer, block in blocks:
        name = f"layer{layer}.{block}"
        stride = 2 if layer > 1 and block == 0 else 1
        deep = f"{name}.conv3.weight" in w
        out = x
        for i in (1, 2, 3) if deep else (1, 2):
            kernel = w[f"{name}.conv{i}.weight"]
            step = stride if i == (2 if deep else 1) else 1
            out = norm(F.conv2d(out, kernel, None, step, kernel.shape[2] // 2), w, f"{name}.bn{i}")
            if i < (3 if deep else 2):
                out = F.relu(out)
        if f"{name}.shortcut.0.weight" in w:
            x = norm(F.conv2d(x, w[f"{name}.shortcut.0.weight"], None, stride), w, f"{name}.shortcut.1")
        x = F.relu(out + x)
    embedding = F.linear(statistics(x), w["seg_1.weight"], w["seg_1.bias"])
    if "seg_2.weight" in w:
        embedding = F.linear(norm(F.relu(embedding), w, "seg_bn_1"), w["seg_2.weight"], w["seg_2.bias"])
    return embedding


RESNET = [
    (r"^input\.conv", "conv1"),
    (r"^input\.norm", "bn1"),
    (r"^stages\.(\d+)", lambda m: f"layer{int(m[1]) + 1}"),
    (r"conv(\d)\.conv", r"conv\1"),
    (r"conv(\d)\.norm", r"bn\1"),
    (r"shortcut\.conv", "shortcut.0"),
    (r"shortcut\.norm", "shortcut.1"),
    (r"^embedding", "seg_1"),
    (r"^second\.1", "seg_bn_1"),
    (r"^second\.2", "seg_2"),
]


def published(model: nn.Module, names: list) -> Weights:
    """Return the model's weights under the names that published checkpoints have."""
    weights = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        weights[key] = value
    return weights


def trained(model: nn.Module) -> nn.Module:
    """Return the model with norms as training leaves them, in evaluation."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.bias, 0, 0.3)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "mels"),
    [
        (resnet.Config(), 80),
        (resnet.Config(depth=18, channels=6, embedding_dim=10, segment_layers=2), 77),
        (resnet.Config(depth=50, channels=4, embedding_dim=10), 24),
    ],
)
def test_resnet(config, mels):
    torch.manual_seed(0)
    model = trained(resnet.build(config, mels))
    features = torch.randn(2, 41, mels)
    expected = resnet_oracle(features, published(model, RESNET))
    torch.testing.assert_close(model(features), expected, atol=1e-5, rtol=1e-5)
