"""Networks over maps as they were published: their tensors' names and shapes, and plain references of them.

Written from the papers and the checkpoints' tensors. Each reference takes weights under those names and features
(B, T, mels), and runs them on maps (B, C, F, T) without a thought for speed or padding.
"""

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.foreign_models import conv_shapes, norm_shapes

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def _conv_norm(conv: str, norm: str, out: int, inside: int, *kernel: int) -> Shapes:
    return {f"{conv}.weight": (out, inside, *kernel)} | norm_shapes(norm, out)


def _shortcut(name: str, out: int, inside: int, stride: int) -> Shapes:
    if stride == 1 and inside == out:
        return {}
    return _conv_norm(f"{name}.0", f"{name}.1", out, inside, 1, 1)


def _segment(pooled: int, dim: int, second: bool) -> Shapes:
    shapes = conv_shapes("seg_1", dim, pooled)
    return shapes | (
        norm_shapes("seg_bn_1", dim, affine=False) | conv_shapes("seg_2", dim, dim) if second else {}
    )


def norm(x: Tensor, w: Weights, name: str, eps: float = 1e-5) -> Tensor:
    """Batch norm in evaluation over axis 1, with a scale and an offset where the checkpoint has them."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
    x = (x - mean) / (variance + eps).sqrt()
    if f"{name}.weight" in w:
        x = x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)
    return x


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def statistics(x: Tensor) -> Tensor:
    """Mean and deviation over the last axis, the variance with our floor where theirs adds as much."""
    return torch.cat([x.mean(-1).flatten(1), x.var(-1).clamp(min=1e-7).sqrt().flatten(1)], 1)


def attentive(x: Tensor, share: Tensor, floor: float) -> Tensor:
    """Mean and deviation over the last axis under shares that sum to 1."""
    mean = (share * x).sum(2)
    deviation = (share * (x - mean.unsqueeze(2)) ** 2).sum(2).clamp(min=floor).sqrt()
    return torch.cat([mean, deviation], 1)


def astp(x: Tensor, w: Weights) -> Tensor:
    """WeSpeaker's attentive statistics, with a context where the first layer is wide enough."""
    seen = x
    if w["pool.linear1.weight"].shape[1] == 3 * x.shape[1]:
        context = statistics(x).unsqueeze(2).expand(-1, -1, x.shape[2])
        seen = torch.cat([x, context], 1)
    return attentive(x, conv(conv(seen, w, "pool.linear1").tanh(), w, "pool.linear2").softmax(2), 1e-7)


def segment(x: Tensor, w: Weights) -> Tensor:
    """WeSpeaker's one or two layers after the pooling."""
    x = linear(x, w, "seg_1")
    return linear(norm(F.relu(x), w, "seg_bn_1"), w, "seg_2") if "seg_2.weight" in w else x


def blocks(w: Weights) -> list[tuple[int, int, str, int]]:
    """Return number of stage and block, name and stride of the blocks of four stages."""
    found = sorted({tuple(map(int, m)) for m in re.findall(r"layer(\d)\.(\d+)\.", " ".join(w))})
    return [(i, k, f"layer{i}.{k}", 2 if i > 1 and k == 0 else 1) for i, k in found]


def resnet_shapes(
    counts: tuple[int, ...], deep: bool, channels: int, mels: int, dim: int, second: bool, attention: bool
) -> Shapes:
    """WeSpeaker's and 3D-Speaker's ResNet, of basic blocks or of bottlenecks."""
    shapes, inside = _conv_norm("conv1", "bn1", channels, 1, 3, 3), channels
    for i, count in enumerate(counts):
        width, out = channels * 2**i, channels * 2**i * (4 if deep else 1)
        for k in range(count):
            name = f"layer{i + 1}.{k}"
            sizes = [(width, inside, 1), (width, width, 3), (out, width, 1)] if deep else []
            for n, (a, b, kernel) in enumerate(sizes or [(width, inside, 3), (width, width, 3)], 1):
                shapes |= _conv_norm(f"{name}.conv{n}", f"{name}.bn{n}", a, b, kernel, kernel)
            shapes |= _shortcut(f"{name}.shortcut", out, inside, 2 if i > 0 and k == 0 else 1)
            inside = out
    pooled = inside * (mels // 8)
    if attention:
        shapes |= conv_shapes("pool.linear1", 128, pooled, 1) | conv_shapes("pool.linear2", pooled, 128, 1)
    return shapes | _segment(2 * pooled, dim, second)


def resnet(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    for _, _, name, stride in blocks(w):
        deep = f"{name}.conv3.weight" in w
        out = x
        for i in (1, 2, 3) if deep else (1, 2):
            kernel = w[f"{name}.conv{i}.weight"]
            step = stride if i == (2 if deep else 1) else 1
            out = norm(F.conv2d(out, kernel, None, step, kernel.shape[2] // 2), w, f"{name}.bn{i}")
            if i < (3 if deep else 2):
                out = F.relu(out)
        x = F.relu(out + shortcut(x, w, f"{name}.shortcut", stride))
    return segment(astp(x.flatten(1, 2), w) if "pool.linear1.weight" in w else statistics(x), w)


def shortcut(x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    if f"{name}.0.weight" not in w:
        return x
    return norm(F.conv2d(x, w[f"{name}.0.weight"], None, stride), w, f"{name}.1")


def simam_resnet_shapes(counts: tuple[int, ...], channels: int, mels: int, dim: int) -> Shapes:
    """WeSpeaker's SimAM-ResNet."""
    shapes, inside = _conv_norm("front.conv1", "front.bn1", channels, 1, 3, 3), channels
    for i, count in enumerate(counts):
        width = channels * 2**i
        for k in range(count):
            name = f"front.layer{i + 1}.{k}"
            shapes |= _conv_norm(f"{name}.conv1", f"{name}.bn1", width, inside, 3, 3)
            shapes |= _conv_norm(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            shapes |= _shortcut(f"{name}.downsample", width, inside, 2 if i > 0 and k == 0 else 1)
            inside = width
    pooled = inside * (mels // 8)
    shapes |= conv_shapes("pooling.attention.0", 128, pooled, 1) | norm_shapes("pooling.attention.2", 128)
    shapes |= conv_shapes("pooling.attention.3", pooled, 128, 1)
    return shapes | conv_shapes("bottleneck", dim, 2 * pooled)


def simam_resnet(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["front.conv1.weight"], padding=1), w, "front.bn1"))
    for _, _, name, stride in blocks(w):
        name = f"front.{name}"
        out = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride, 1), w, f"{name}.bn1"))
        out = norm(F.conv2d(out, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
        distance = (out - out.mean((2, 3), keepdim=True)) ** 2
        energy = distance / (4 * (out.var((2, 3), keepdim=True) + 1e-4)) + 0.5
        x = F.relu(out * torch.sigmoid(energy) + shortcut(x, w, f"{name}.downsample", stride))
    x = x.flatten(1, 2)
    hidden = norm(F.relu(conv(x, w, "pooling.attention.0")), w, "pooling.attention.2")
    return linear(attentive(x, conv(hidden, w, "pooling.attention.3").softmax(2), 1e-5), w, "bottleneck")


def res2net_shapes(
    channels: int, base_width: int, scale: int, expansion: int, dim: int, second: bool
) -> Shapes:
    """WeSpeaker's and 3D-Speaker's Res2Net34."""
    shapes, inside = _conv_norm("conv1", "bn1", channels, 1, 3, 3), channels
    for i, count in enumerate((3, 4, 6, 3)):
        width, out = channels * 2**i * base_width // 64, channels * 2**i * expansion
        for k in range(count):
            name = f"layer{i + 1}.{k}"
            shapes |= _conv_norm(f"{name}.conv1", f"{name}.bn1", width * scale, inside, 1, 1)
            for n in range(scale - 1):
                shapes |= _conv_norm(f"{name}.convs.{n}", f"{name}.bns.{n}", width, width, 3, 3)
            shapes |= _conv_norm(f"{name}.conv3", f"{name}.bn3", out, width * scale, 1, 1)
            shapes |= _shortcut(f"{name}.shortcut", out, inside, 2 if i > 0 and k == 0 else 1)
            inside = out
    return shapes | _segment(2 * inside * 10, dim, second)


def res2net(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    for _, _, name, stride in blocks(w):
        out = F.hardtanh(norm(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride), w, f"{name}.bn1"), 0, 20)
        parts = list(out.split(w[f"{name}.convs.0.weight"].shape[0], 1))
        for i in range(len(parts) - 1):
            part = parts[i] if i == 0 else parts[i - 1] + parts[i]
            part = F.conv2d(part, w[f"{name}.convs.{i}.weight"], padding=1)
            parts[i] = F.hardtanh(norm(part, w, f"{name}.bns.{i}"), 0, 20)
        out = norm(F.conv2d(torch.cat(parts, 1), w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
        x = F.hardtanh(out + shortcut(x, w, f"{name}.shortcut", stride), 0, 20)
    return segment(statistics(x), w)


def gemini_dfresnet_shapes(counts: tuple[int, ...], channels: int, mels: int, dim: int) -> Shapes:
    """WeSpeaker's Gemini DF-ResNet."""
    first = "downsample_layers.0"
    shapes, inside = _conv_norm(f"{first}.0", f"{first}.1", channels, 1, 3, 3), channels
    for i, count in enumerate(counts):
        down, width = f"downsample_layers.{i + 1}", channels * 2**i
        shapes |= _conv_norm(f"{down}.0", f"{down}.1", width, inside, 3, 3)
        for k in range(count):
            name = f"stages.{i}.{k}"
            shapes |= _conv_norm(f"{name}.conv1", f"{name}.bn1", 4 * width, width, 1, 1)
            shapes |= _conv_norm(f"{name}.conv2", f"{name}.bn2", 4 * width, 1, 3, 3)
            shapes |= _conv_norm(f"{name}.conv3", f"{name}.bn3", width, 4 * width, 1, 1)
        inside = width
    return shapes | _segment(2 * inside * (mels // 16), dim, second=False)


def gemini_dfresnet(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    first = "downsample_layers.0"
    x = F.relu(norm(F.conv2d(x, w[f"{first}.0.weight"], padding=1), w, f"{first}.1"))
    for i, stride in enumerate((1, 2, 1, 1)):
        down, k = f"downsample_layers.{i + 1}", 0
        x = norm(F.conv2d(x, w[f"{down}.0.weight"], None, (2, stride), 1), w, f"{down}.1")
        while f"stages.{i}.{k}.conv1.weight" in w:
            name = f"stages.{i}.{k}"
            out = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"]), w, f"{name}.bn1"))
            out = F.conv2d(out, w[f"{name}.conv2.weight"], padding=1, groups=out.shape[1])
            out = norm(
                F.conv2d(F.relu(norm(out, w, f"{name}.bn2")), w[f"{name}.conv3.weight"]), w, f"{name}.bn3"
            )
            x, k = F.relu(x + out), k + 1
    return segment(statistics(x), w)


def campplus_shapes(head: int, channels: int, growth: int, inner: int, mels: int, dim: int) -> Shapes:
    """3D-Speaker's and WeSpeaker's CAM++."""
    shapes = _conv_norm("head.conv1", "head.bn1", head, 1, 3, 3)
    for name in ("head.layer1.0", "head.layer1.1", "head.layer2.0", "head.layer2.1"):
        for n in (1, 2):
            shapes |= _conv_norm(f"{name}.conv{n}", f"{name}.bn{n}", head, head, 3, 3)
        shapes |= _shortcut(f"{name}.shortcut", head, head, 2 if name.endswith("0") else 1)
    shapes |= _conv_norm("head.conv2", "head.bn2", head, head, 3, 3)
    tdnn = "xvector.tdnn"
    shapes |= _conv_norm(f"{tdnn}.linear", f"{tdnn}.nonlinear.batchnorm", channels, head * mels // 8, 5)
    size = channels
    for i, layers in enumerate((12, 24, 16), 1):
        for k in range(1, layers + 1):
            name = f"xvector.block{i}.tdnnd{k}"
            shapes |= norm_shapes(f"{name}.nonlinear1.batchnorm", size)
            shapes |= _conv_norm(f"{name}.linear1", f"{name}.nonlinear2.batchnorm", inner, size, 1)
            shapes |= {f"{name}.cam_layer.linear_local.weight": (growth, inner, 3)}
            shapes |= conv_shapes(f"{name}.cam_layer.linear1", inner // 2, inner, 1)
            shapes |= conv_shapes(f"{name}.cam_layer.linear2", growth, inner // 2, 1)
            size += growth
        shapes |= norm_shapes(f"xvector.transit{i}.nonlinear.batchnorm", size)
        shapes |= {f"xvector.transit{i}.linear.weight": (size // 2, size, 1)}
        size //= 2
    shapes |= norm_shapes("xvector.out_nonlinear.batchnorm", size)
    shapes |= {"xvector.dense.linear.weight": (dim, 2 * size, 1)}
    return shapes | norm_shapes("xvector.dense.nonlinear.batchnorm", dim, affine=False)


def campplus(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["head.conv1.weight"], padding=1), w, "head.bn1"))
    for name in ("head.layer1.0", "head.layer1.1", "head.layer2.0", "head.layer2.1"):
        stride = (2 if name.endswith("0") else 1, 1)
        out = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride, 1), w, f"{name}.bn1"))
        out = norm(F.conv2d(out, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
        if stride[0] == 2:
            x = norm(F.conv2d(x, w[f"{name}.shortcut.0.weight"], None, stride), w, f"{name}.shortcut.1")
        x = F.relu(out + x)
    x = F.relu(norm(F.conv2d(x, w["head.conv2.weight"], None, (2, 1), 1), w, "head.bn2")).flatten(1, 2)
    x = F.conv1d(x, w["xvector.tdnn.linear.weight"], stride=2, padding=2)
    x = F.relu(norm(x, w, "xvector.tdnn.nonlinear.batchnorm"))
    for i, dilation in ((1, 1), (2, 2), (3, 2)):
        for k in range(1, 100):
            name = f"xvector.block{i}.tdnnd{k}"
            if f"{name}.linear1.weight" not in w:
                break
            x = torch.cat([x, _dense_layer(x, w, name, dilation)], 1)
        x = F.relu(norm(x, w, f"xvector.transit{i}.nonlinear.batchnorm"))
        x = F.conv1d(x, w[f"xvector.transit{i}.linear.weight"])
    x = statistics(F.relu(norm(x, w, "xvector.out_nonlinear.batchnorm")))
    return norm(x @ w["xvector.dense.linear.weight"][:, :, 0].T, w, "xvector.dense.nonlinear.batchnorm")


def _dense_layer(x: Tensor, w: Weights, name: str, dilation: int) -> Tensor:
    x = F.conv1d(F.relu(norm(x, w, f"{name}.nonlinear1.batchnorm")), w[f"{name}.linear1.weight"])
    x = F.relu(norm(x, w, f"{name}.nonlinear2.batchnorm"))
    local = F.conv1d(x, w[f"{name}.cam_layer.linear_local.weight"], padding=dilation, dilation=dilation)
    masked = []
    for start in range(0, x.shape[2], 100):
        context = x.mean(2, keepdim=True) + x[:, :, start : start + 100].mean(2, keepdim=True)
        context = F.relu(conv(context, w, f"{name}.cam_layer.linear1"))
        mask = conv(context, w, f"{name}.cam_layer.linear2").sigmoid()
        masked.append(local[:, :, start : start + 100] * mask)
    return torch.cat(masked, 2)


def _fusion(name: str, size: int) -> Shapes:
    shapes = conv_shapes(f"{name}.local_att.0", size // 4, 2 * size, 1, 1) | norm_shapes(
        f"{name}.local_att.1", size // 4
    )
    shapes |= conv_shapes(f"{name}.local_att.3", size, size // 4, 1, 1)
    return shapes | norm_shapes(f"{name}.local_att.4", size)


def eres2net_shapes(
    channels: int, base_width: int, scale: int, expansion: int, dim: int, toolkit: str, second: bool = False
) -> Shapes:
    """3D-Speaker's ERes2NetV2 (toolkit "v2") and its and WeSpeaker's ERes2Net ("3dspeaker", "wespeaker")."""
    shapes, inside = _conv_norm("conv1", "bn1", channels, 1, 3, 3), channels
    for i, count in enumerate((3, 4, 6, 3)):
        width, out = channels * 2**i * base_width // 64, channels * 2**i * expansion
        for k in range(count):
            name = f"layer{i + 1}.{k}"
            shapes |= _conv_norm(f"{name}.conv1", f"{name}.bn1", width * scale, inside, 1, 1)
            parts = [f"{name}.{{}}s.{n}" for n in range(scale)]
            if i > 1 and toolkit == "wespeaker":
                parts = [f"{name}.{{}}2_1", *parts[:-1]]
            for part in parts:
                shapes |= _conv_norm(part.format("conv"), part.format("bn"), width, width, 3, 3)
            if i > 1:
                for n in range(scale - 1):
                    shapes |= _fusion(f"{name}.fuse_models.{n}", width)
            shapes |= _conv_norm(f"{name}.conv3", f"{name}.bn3", out, width * scale, 1, 1)
            shapes |= _shortcut(f"{name}.shortcut", out, inside, 2 if i > 0 and k == 0 else 1)
            inside = out
    if toolkit == "v2":
        shapes |= {"layer3_ds.weight": (inside, inside // 2, 3, 3)} | _fusion("fuse34", inside)
    else:
        for i, name in ((1, "fuse_mode12"), (2, "fuse_mode123"), (3, "fuse_mode1234")):
            size = channels * expansion * 2**i
            shapes |= {f"layer{i}_downsample.weight": (size, size // 2, 3, 3)} | _fusion(name, size)
    return shapes | _segment(2 * inside * 10, dim, second)


def eres2net(x: Tensor, w: Weights) -> Tensor:
    def fuse(x: Tensor, y: Tensor, name: str) -> Tensor:
        both = torch.cat([x, y], 1)
        both = F.conv2d(both, w[f"{name}.local_att.0.weight"], w[f"{name}.local_att.0.bias"])
        both = F.silu(norm(both, w, f"{name}.local_att.1"))
        both = F.conv2d(both, w[f"{name}.local_att.3.weight"], w[f"{name}.local_att.3.bias"])
        share = 1 + torch.tanh(norm(both, w, f"{name}.local_att.4"))
        return x * share + y * (2 - share)

    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    stage_outputs: dict[int, Tensor] = {}
    for layer, _, name, stride in blocks(w):
        out = F.hardtanh(norm(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride), w, f"{name}.bn1"), 0, 20)
        apart = f"{name}.conv2_1.weight" in w
        width = w[f"{name}.conv2_1.weight" if apart else f"{name}.convs.0.weight"].shape[0]
        parts: list[Tensor] = []
        for i, part in enumerate(out.split(width, 1)):
            if i > 0 and f"{name}.fuse_models.0.local_att.0.weight" in w:
                part = fuse(parts[-1], part, f"{name}.fuse_models.{i - 1}")
            elif i > 0:
                part = parts[-1] + part
            number = "2_1" if apart and i == 0 else f"s.{i - apart}"
            part = F.conv2d(part, w[f"{name}.conv{number}.weight"], padding=1)
            parts.append(F.hardtanh(norm(part, w, f"{name}.bn{number}"), 0, 20))
        out = norm(F.conv2d(torch.cat(parts, 1), w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
        x = F.hardtanh(out + shortcut(x, w, f"{name}.shortcut", stride), 0, 20)
        stage_outputs[layer] = x
    if "layer3_ds.weight" in w:
        x = fuse(x, F.conv2d(stage_outputs[3], w["layer3_ds.weight"], None, 2, 1), "fuse34")
    else:
        x = stage_outputs[1]
        for i, name in ((1, "fuse_mode12"), (2, "fuse_mode123"), (3, "fuse_mode1234")):
            below = F.conv2d(x, w[f"layer{i}_downsample.weight"], None, 2, 1)
            x = fuse(stage_outputs[i + 1], below, name)
    return segment(statistics(x), w)


# Of WeSpeaker's port of ReDimNet: mels, channels, block, channels of a group, global context, and for each stage
# stride, blocks, expansion and reduction.
REDIMNET: dict[str, tuple[int, int, str, int, int, list[tuple[int, int, int, int | None]]]] = {
    "B0": (
        *(60, 10, "residual", 1, True),
        [(1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10)],
    ),
    "B1": (
        *(72, 12, "convnext", 8, False),
        [(1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8)],
    ),
    "B3": (
        *(72, 16, "excited", 1, True),
        [(1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)],
    ),
}


def redimnet_shapes(size: str, dim: int, second: bool = False) -> Shapes:
    """WeSpeaker's port of ReDimNet."""
    mels, channels, kind, group, context, stages = REDIMNET[size]
    width, bands = mels * channels, mels

    def layer_norm(name: str, n: int) -> Shapes:
        return {f"{name}.weight": (n,), f"{name}.bias": (n,)}

    shapes = conv_shapes("backbone.stem.0", channels, 1, 3, 3) | layer_norm("backbone.stem.1", channels)
    shapes |= {"backbone.inputs_weights.0": (1, 1, 1, 1)}
    for i, (stride, count, expansion, reduction) in enumerate(stages):
        names = iter(f"backbone.stage{i}.{k}" for k in range(100))
        shapes |= {f"backbone.inputs_weights.{i + 1}": (1, i + 2, width, 1)}
        out, bands = channels * stride, bands // stride
        inner = out * expansion
        each, squeezed = (
            n // (out_n // group) for n, out_n in ((inner, inner), (inner, out))
        )  # of one group
        shapes |= conv_shapes(next(names), inner, channels, stride, 1)
        for _ in range(count):
            name = f"{next(names)}.conv_block"
            if kind == "convnext":
                shapes |= conv_shapes(f"{name}.dwconvs.0", inner, each, 3, 3) | norm_shapes(
                    f"{name}.norm", inner
                )
                shapes |= conv_shapes(f"{name}.pwconv1", inner, inner, 1, 1)
                continue
            for n in (1, 2):
                shapes |= {f"{name}.conv{n}.weight": (inner, each, 3, 3)} | norm_shapes(
                    f"{name}.bn{n}", inner
                )
                shapes |= conv_shapes(f"{name}.conv{n}pw", inner, inner, 1, 1)
            if kind == "excited":
                hidden = min(64, max(inner, 32))
                shapes |= conv_shapes(f"{name}.se.squeeze", hidden, bands)
                shapes |= conv_shapes(f"{name}.se.exitation", bands, hidden)
        if expansion > 1:
            name = next(names)
            shapes |= conv_shapes(f"{name}.0", out, squeezed, 3, 3) | norm_shapes(f"{name}.1", out)
            shapes |= conv_shapes(f"{name}.3", out, out, 1, 1)
        next(names)  # the change of shape
        if reduction:
            name, n = next(names), width // reduction
            shapes |= conv_shapes(f"{name}.red_dim_conv.0", n, width, 1) | layer_norm(
                f"{name}.red_dim_conv.1", n
            )
            for k, kernel in enumerate((7, 19, 31, 59)):
                shapes |= conv_shapes(f"{name}.tcm.{k}.dwconvs.0", n, 1, kernel) | norm_shapes(
                    f"{name}.tcm.{k}.norm", n
                )
                shapes |= conv_shapes(f"{name}.tcm.{k}.pwconv1", n, n, 1)
            for layer in ("attention.k_proj", "attention.v_proj", "attention.q_proj", "attention.out_proj"):
                shapes |= conv_shapes(f"{name}.tcm.4.{layer}", n, n)
            for layer in ("feed_forward.intermediate_dense", "feed_forward.output_dense"):
                shapes |= conv_shapes(f"{name}.tcm.4.{layer}", n, n)
            shapes |= layer_norm(f"{name}.tcm.4.layer_norm", n)
            shapes |= layer_norm(f"{name}.tcm.4.final_layer_norm", n)
            shapes |= conv_shapes(f"{name}.exp_dim_conv", width, n, 1)
        channels = out
    shapes |= conv_shapes("pool.linear1", 128, width * (3 if context else 1), 1) | conv_shapes(
        "pool.linear2", width, 128, 1
    )
    return shapes | _segment(2 * width, dim, second)


def conv(x: Tensor, w: Weights, name: str, stride: int = 1) -> Tensor:
    """Convolution of maps or of frames; its groups and its padding follow from the shapes."""
    kernel = w[f"{name}.weight"]
    padding = "same" if stride == 1 else "valid"
    function = F.conv2d if kernel.dim() == 4 else F.conv1d
    step = (stride, 1) if kernel.dim() == 4 else stride
    return function(x, kernel, w.get(f"{name}.bias"), step, padding, 1, x.shape[1] // kernel.shape[1])


def layer_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """Layer norm over axis 1."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    return x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)


def convnext(x: Tensor, w: Weights, name: str) -> Tensor:
    inner = norm(conv(x, w, f"{name}.dwconvs.0"), w, f"{name}.norm")
    return x + conv(F.gelu(inner), w, f"{name}.pwconv1")


def residual(x: Tensor, w: Weights, name: str) -> Tensor:
    out = F.relu(conv(conv(x, w, f"{name}.conv1"), w, f"{name}.conv1pw"))
    out = norm(out, w, f"{name}.bn1")
    out = norm(conv(conv(out, w, f"{name}.conv2"), w, f"{name}.conv2pw"), w, f"{name}.bn2")
    if f"{name}.se.squeeze.weight" in w:
        scale = linear(F.relu(linear(out.mean((1, 3)), w, f"{name}.se.squeeze")), w, f"{name}.se.exitation")
        out = out * scale.sigmoid()[:, None, :, None]
    return F.relu(out + x)


def attention(x: Tensor, w: Weights, name: str) -> Tensor:
    """Post-norm transformer layer with four heads."""
    x = x.transpose(1, 2)
    query, key, value = (linear(x, w, f"{name}.attention.{p}_proj") for p in "qkv")
    size = x.shape[2] // 4
    heard = []
    for h in range(0, x.shape[2], size):
        q, k, v = (t[:, :, h : h + size] for t in (query, key, value))
        heard.append((q @ k.transpose(1, 2) / size**0.5).softmax(2) @ v)
    x = x + linear(torch.cat(heard, 2), w, f"{name}.attention.out_proj")
    x = layer_norm(x.transpose(1, 2), w, f"{name}.layer_norm").transpose(1, 2)
    inner = linear(x, w, f"{name}.feed_forward.intermediate_dense")
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    x = x + linear(inner, w, f"{name}.feed_forward.output_dense")
    return layer_norm(x.transpose(1, 2), w, f"{name}.final_layer_norm")


def redimnet(x: Tensor, w: Weights, size: str) -> Tensor:
    batch, length, mels = x.shape
    _, channels, kind, _, _, stages = REDIMNET[size]
    x = conv(x.transpose(1, 2).unsqueeze(1), w, "backbone.stem.0")
    outputs = [layer_norm(x, w, "backbone.stem.1").transpose(1, 2).flatten(1, 2)]
    bands = mels

    def weighted(i: int) -> Tensor:
        return (w[f"backbone.inputs_weights.{i}"].softmax(1) * torch.stack(outputs, 1)).sum(1)

    for i, (stride, count, expansion, reduction) in enumerate(stages):
        x = weighted(i).reshape(batch, bands, channels, length).transpose(1, 2)
        names = iter(f"backbone.stage{i}.{k}" for k in range(100))
        x = conv(x, w, next(names), stride)
        channels, bands = channels * stride, bands // stride
        for _ in range(count):
            block = convnext if kind == "convnext" else residual
            x = block(x, w, f"{next(names)}.conv_block")
        if expansion > 1:
            name = next(names)
            x = F.gelu(norm(conv(x, w, f"{name}.0"), w, f"{name}.1", 1e-6))
            x = conv(x, w, f"{name}.3")
        x = x.transpose(1, 2).flatten(1, 2)
        next(names)  # the change of shape
        if reduction:
            name = next(names)
            inner = layer_norm(conv(x, w, f"{name}.red_dim_conv.0"), w, f"{name}.red_dim_conv.1")
            for k in range(4):
                inner = convnext(inner, w, f"{name}.tcm.{k}")
            inner = attention(inner, w, f"{name}.tcm.4")
            x = x + conv(inner, w, f"{name}.exp_dim_conv")
        outputs.append(x)
    return segment(astp(weighted(len(stages)), w), w)


def voxceleb_trainer_shapes(channels: int, mels: int, dim: int, deviation: bool) -> Shapes:
    """voxceleb_trainer's ResNetSE34V2, with an excitation of an eighth of the channels."""
    shapes, inside = conv_shapes("conv1", channels, 1, 3, 3) | norm_shapes("bn1", channels), channels
    for i, count in enumerate((3, 4, 6, 3)):
        out = channels * 2**i
        for k in range(count):
            name = f"layer{i + 1}.{k}"
            shapes |= _conv_norm(f"{name}.conv1", f"{name}.bn1", out, inside, 3, 3)
            shapes |= _conv_norm(f"{name}.conv2", f"{name}.bn2", out, out, 3, 3)
            shapes |= conv_shapes(f"{name}.se.fc.0", out // 8, out) | conv_shapes(
                f"{name}.se.fc.2", out, out // 8
            )
            shapes |= _shortcut(f"{name}.downsample", out, inside, 2 if i > 0 and k == 0 else 1)
            inside = out
    pooled = inside * mels // 8
    shapes |= conv_shapes("attention.0", 128, pooled, 1) | norm_shapes("attention.2", 128)
    return (
        shapes
        | conv_shapes("attention.3", pooled, 128, 1)
        | conv_shapes("fc", dim, pooled * (2 if deviation else 1))
    )


def voxceleb_trainer(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = norm(F.relu(conv(x, w, "conv1")), w, "bn1")
    for _, _, name, stride in blocks(w):
        out = norm(F.relu(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride, 1)), w, f"{name}.bn1")
        out = norm(F.conv2d(out, w[f"{name}.conv2.weight"], None, 1, 1), w, f"{name}.bn2")
        scale = linear(F.relu(linear(out.mean((2, 3)), w, f"{name}.se.fc.0")), w, f"{name}.se.fc.2")
        out = out * scale.sigmoid()[:, :, None, None]
        x = F.relu(out + shortcut(x, w, f"{name}.downsample", stride))
    x = x.flatten(1, 2)
    share = conv(norm(F.relu(conv(x, w, "attention.0")), w, "attention.2"), w, "attention.3").softmax(2)
    pooled = attentive(x, share, 1e-5)
    return linear(pooled[:, : w["fc.weight"].shape[1]], w, "fc")
