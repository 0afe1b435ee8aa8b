"""Encoders beside the published networks, written out plainly from their papers and tensor names.

Each oracle takes weights under the names that the published checkpoints have, runs them on maps (B, C, F, T)
without a thought for speed or padding, and must agree with ours, which has the same weights by a mapping of names.
"""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.encoders import campplus, eres2netv2, redimnet, resnet

Weights = dict[str, Tensor]


def norm(x: Tensor, w: Weights, name: str, eps: float = 1e-5) -> Tensor:
    """Batch norm in evaluation over axis 1, with a scale and an offset where the checkpoint has them."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
    x = (x - mean) / (variance + eps).sqrt()
    if f"{name}.weight" in w:
        x = x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)
    return x


def statistics(x: Tensor) -> Tensor:
    """Mean and deviation over the last axis, the variance with our floor where theirs adds as much."""
    return torch.cat([x.mean(-1).flatten(1), x.var(-1).clamp(min=1e-7).sqrt().flatten(1)], 1)


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


def campplus_oracle(x: Tensor, w: Weights) -> Tensor:
    """3D-Speaker's and WeSpeaker's CAM++."""
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
    x = F.conv1d(x, w["xvector.tdnn.linear.weight"][:, :, 0], stride=2, padding=2)
    x = F.relu(norm(x, w, "xvector.tdnn.nonlinear.batchnorm"))
    for i, dilation in ((1, 1), (2, 2), (3, 2)):
        for k in range(1, 100):
            name = f"xvector.block{i}.tdnnd{k}"
            if f"{name}.linear1.weight" not in w:
                break
            x = torch.cat([x, dense_layer_oracle(x, w, name, dilation)], 1)
        x = F.relu(norm(x, w, f"xvector.transit{i}.nonlinear.batchnorm"))
        x = torch.einsum("oc,bct->bot", w[f"xvector.transit{i}.linear.weight"], x)
    x = statistics(F.relu(norm(x, w, "xvector.out_nonlinear.batchnorm")))
    return norm(x @ w["xvector.dense.linear.weight"].T, w, "xvector.dense.nonlinear.batchnorm")


def dense_layer_oracle(x: Tensor, w: Weights, name: str, dilation: int) -> Tensor:
    x = torch.einsum(
        "oc,bct->bot",
        w[f"{name}.linear1.weight"],
        F.relu(norm(x, w, f"{name}.nonlinear1.batchnorm")),
    )
    x = F.relu(norm(x, w, f"{name}.nonlinear2.batchnorm"))
    local = F.conv1d(x, w[f"{name}.cam_layer.linear_local.weight"], padding=dilation, dilation=dilation)
    masked = torch.empty_like(local)
    for t in range(x.shape[2]):
        segment = x[:, :, t // 100 * 100 : t // 100 * 100 + 100]
        context = x.mean(2) + segment.mean(2)
        for i in (1, 2):
            weight, bias = w[f"{name}.cam_layer.linear{i}.weight"], w[f"{name}.cam_layer.linear{i}.bias"]
            context = F.linear(context, weight, bias)
            context = F.relu(context) if i == 1 else context.sigmoid()
        masked[:, :, t] = local[:, :, t] * context
    return masked


CAMPPLUS = [
    (r"^head\.input\.conv", "head.conv1"),
    (r"^head\.input\.norm", "head.bn1"),
    (r"^head\.output\.conv", "head.conv2"),
    (r"^head\.output\.norm", "head.bn2"),
    (r"^head\.blocks\.(\d)", lambda m: f"head.layer{int(m[1]) // 2 + 1}.{int(m[1]) % 2}"),
    (r"(conv\d)\.conv", r"\1"),
    (r"conv(\d)\.norm", r"bn\1"),
    (r"shortcut\.conv", "shortcut.0"),
    (r"shortcut\.norm", "shortcut.1"),
    (r"^input\.conv", "xvector.tdnn.linear"),
    (r"^input\.norm", "xvector.tdnn.nonlinear.batchnorm"),
    (r"^blocks\.(\d)\.layers\.(\d+)", lambda m: f"xvector.block{int(m[1]) + 1}.tdnnd{int(m[2]) + 1}"),
    (r"^blocks\.(\d)\.norm", lambda m: f"xvector.transit{int(m[1]) + 1}.nonlinear.batchnorm"),
    (r"^blocks\.(\d)\.linear", lambda m: f"xvector.transit{int(m[1]) + 1}.linear"),
    (r"\.norm(\d)", r".nonlinear\1.batchnorm"),
    (r"\.local", ".cam_layer.linear_local"),
    (r"\.squeeze", ".cam_layer.linear1"),
    (r"\.excite", ".cam_layer.linear2"),
    (r"^norm", "xvector.out_nonlinear.batchnorm"),
    (r"^embedding_norm", "xvector.dense.nonlinear.batchnorm"),
    (r"^embedding", "xvector.dense.linear"),
]


def eres2netv2_oracle(x: Tensor, w: Weights) -> Tensor:
    """3D-Speaker's ERes2NetV2."""

    def fuse(x: Tensor, y: Tensor, name: str) -> Tensor:
        both = torch.cat([x, y], 1)
        both = F.conv2d(both, w[f"{name}.local_att.0.weight"], w[f"{name}.local_att.0.bias"])
        both = F.silu(norm(both, w, f"{name}.local_att.1"))
        both = F.conv2d(both, w[f"{name}.local_att.3.weight"], w[f"{name}.local_att.3.bias"])
        share = 1 + torch.tanh(norm(both, w, f"{name}.local_att.4"))
        return x * share + y * (2 - share)

    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    blocks = sorted({tuple(map(int, m)) for m in re.findall(r"layer(\d)\.(\d+)\.", " ".join(w))})
    thirds = x
    for layer, block in blocks:
        name = f"layer{layer}.{block}"
        stride = 2 if layer > 1 and block == 0 else 1
        out = F.hardtanh(norm(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride), w, f"{name}.bn1"), 0, 20)
        width = w[f"{name}.convs.0.weight"].shape[0]
        parts = []
        for i, part in enumerate(out.split(width, 1)):
            if i > 0 and f"{name}.fuse_models.0.local_att.0.weight" in w:
                part = fuse(parts[-1], part, f"{name}.fuse_models.{i - 1}")
            elif i > 0:
                part = parts[-1] + part
            part = norm(F.conv2d(part, w[f"{name}.convs.{i}.weight"], padding=1), w, f"{name}.bns.{i}")
            parts.append(F.hardtanh(part, 0, 20))
        out = norm(F.conv2d(torch.cat(parts, 1), w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
        if f"{name}.shortcut.0.weight" in w:
            x = norm(F.conv2d(x, w[f"{name}.shortcut.0.weight"], None, stride), w, f"{name}.shortcut.1")
        x = F.hardtanh(out + x, 0, 20)
        thirds = x if layer == 3 else thirds
    x = fuse(x, F.conv2d(thirds, w["layer3_ds.weight"], None, 2, 1), "fuse34")
    return F.linear(statistics(x), w["seg_1.weight"], w["seg_1.bias"])


ERES2NETV2 = [
    (r"fusions", "fuse_models"),
    (r"^fusion", "fuse34"),
    (r"\.reduce\.conv", ".local_att.0"),
    (r"\.reduce\.norm", ".local_att.1"),
    (r"\.expand\.conv", ".local_att.3"),
    (r"\.expand\.norm", ".local_att.4"),
    (r"convs\.(\d)\.conv", r"convs.\1"),
    (r"convs\.(\d)\.norm", r"bns.\1"),
    (r"^downsample", "layer3_ds"),
    *RESNET,
]


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


def convnext_oracle(x: Tensor, w: Weights, name: str) -> Tensor:
    inner = norm(conv(x, w, f"{name}.dwconvs.0"), w, f"{name}.norm")
    return x + conv(F.gelu(inner), w, f"{name}.pwconv1")


def residual_oracle(x: Tensor, w: Weights, name: str) -> Tensor:
    out = F.relu(conv(conv(x, w, f"{name}.conv1"), w, f"{name}.conv1pw"))
    out = norm(out, w, f"{name}.bn1")
    out = norm(conv(conv(out, w, f"{name}.conv2"), w, f"{name}.conv2pw"), w, f"{name}.bn2")
    if f"{name}.se.squeeze.weight" in w:
        scale = out.mean((1, 3))
        scale = F.relu(F.linear(scale, w[f"{name}.se.squeeze.weight"], w[f"{name}.se.squeeze.bias"]))
        scale = F.linear(scale, w[f"{name}.se.exitation.weight"], w[f"{name}.se.exitation.bias"])
        out = out * scale.sigmoid()[:, None, :, None]
    return F.relu(out + x)


def attention_oracle(x: Tensor, w: Weights, name: str) -> Tensor:
    """Post-norm transformer layer with four heads, one query at a time."""

    def linear(x: Tensor, layer: str) -> Tensor:
        return x @ w[f"{name}.{layer}.weight"].T + w[f"{name}.{layer}.bias"]

    x = x.transpose(1, 2)
    query, key, value = (linear(x, f"attention.{p}_proj") for p in "qkv")
    size = x.shape[2] // 4
    heard = torch.empty_like(x)
    for h in range(0, x.shape[2], size):
        for t in range(x.shape[1]):
            scores = (key[:, :, h : h + size] * query[:, t : t + 1, h : h + size]).sum(2) / size**0.5
            heard[:, t, h : h + size] = (scores.softmax(1).unsqueeze(2) * value[:, :, h : h + size]).sum(1)
    x = x + linear(heard, "attention.out_proj")
    x = layer_norm(x.transpose(1, 2), w, f"{name}.layer_norm").transpose(1, 2)
    inner = linear(x, "feed_forward.intermediate_dense")
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    x = x + linear(inner, "feed_forward.output_dense")
    return layer_norm(x.transpose(1, 2), w, f"{name}.final_layer_norm")


def redimnet_oracle(x: Tensor, w: Weights, size: redimnet.Size) -> Tensor:
    """WeSpeaker's port of ReDimNet."""
    batch, length, mels = x.shape
    x = conv(x.transpose(1, 2).unsqueeze(1), w, "backbone.stem.0")
    outputs = [layer_norm(x, w, "backbone.stem.1").transpose(1, 2).flatten(1, 2)]
    channels, bands = size.channels, mels

    def weighted(i: int) -> Tensor:
        share = w[f"backbone.inputs_weights.{i}"].softmax(1) if i else torch.ones(1, 1, 1, 1)
        return (share * torch.stack(outputs, 1)).sum(1)

    for i, stage in enumerate(size.stages):
        x = weighted(i).reshape(batch, bands, channels, length).transpose(1, 2)
        names = iter(f"backbone.stage{i}.{k}" for k in range(100))
        x = conv(x, w, next(names), stage.stride)
        channels, bands = channels * stage.stride, bands // stage.stride
        for _ in range(stage.blocks):
            block = convnext_oracle if size.block == "convnext" else residual_oracle
            x = block(x, w, f"{next(names)}.conv_block")
        if stage.expansion > 1:
            name = next(names)
            x = F.gelu(norm(conv(x, w, f"{name}.0"), w, f"{name}.1", 1e-6))
            x = conv(x, w, f"{name}.3")
        x = x.transpose(1, 2).flatten(1, 2)
        next(names)  # the change of shape
        if stage.reduction:
            name = next(names)
            inner = layer_norm(conv(x, w, f"{name}.red_dim_conv.0"), w, f"{name}.red_dim_conv.1")
            for k in range(4):
                inner = convnext_oracle(inner, w, f"{name}.tcm.{k}")
            inner = attention_oracle(inner, w, f"{name}.tcm.4")
            x = x + conv(inner, w, f"{name}.exp_dim_conv")
        outputs.append(x)
    x = weighted(len(size.stages))
    context = torch.cat([x.mean(2), x.var(2).clamp(min=1e-7).sqrt()], 1).unsqueeze(2).expand(-1, -1, length)
    share = conv(torch.cat([x, context], 1), w, "pool.linear1").tanh()
    share = conv(share, w, "pool.linear2").softmax(2)
    mean = (share * x).sum(2)
    deviation = (share * (x - mean.unsqueeze(2)) ** 2).sum(2).clamp(min=1e-7).sqrt()
    return F.linear(torch.cat([mean, deviation], 1), w["seg_1.weight"], w["seg_1.bias"])


def redimnet_names(size: redimnet.Size) -> list:
    def squeezed(m: re.Match) -> str:
        return f"backbone.stage{m[1]}.{1 + size.stages[int(m[1])].blocks}"

    def context(m: re.Match) -> str:
        stage = size.stages[int(m[1])]
        return f"backbone.stage{m[1]}.{2 + stage.blocks + (stage.expansion > 1)}"

    return [
        (r"^input_norm", "backbone.stem.1"),
        (r"^input", "backbone.stem.0"),
        (r"^weights\.(\d)", lambda m: f"backbone.inputs_weights.{int(m[1]) + 1}"),
        (r"^stages\.(\d)\.reduce", r"backbone.stage\1.0"),
        (r"^stages\.(\d)\.squeeze\.conv", lambda m: squeezed(m) + ".0"),
        (r"^stages\.(\d)\.squeeze\.norm", lambda m: squeezed(m) + ".1"),
        (r"^stages\.(\d)\.squeezed", lambda m: squeezed(m) + ".3"),
        (r"^stages\.(\d)\.context", context),
        (
            r"^stages\.(\d)\.blocks\.(\d+)",
            lambda m: f"backbone.stage{m[1]}.{int(m[2]) + 1}.conv_block",
        ),
        (r"\.reduce", ".red_dim_conv.0"),
        (r"(stage\d\.\d+)\.norm\.", r"\1.red_dim_conv.1."),
        (r"\.expand", ".exp_dim_conv"),
        (r"\.convs\.", ".tcm."),
        (r"\.grouped\.conv", ".dwconvs.0"),
        (r"\.grouped\.norm", ".norm"),
        (r"\.pointwise\.", ".pwconv1."),
        (r"\.grouped(\d)", r".conv\1"),
        (r"\.pointwise2\.conv", ".conv2pw"),
        (r"\.pointwise2\.norm", ".bn2"),
        (r"\.pointwise1", ".conv1pw"),
        (r"\.norm1", ".bn1"),
        (r"\.excitation\.squeeze", ".se.squeeze"),
        (r"\.excitation\.excite", ".se.exitation"),
        (r"\.attention\.(query|key|value)", lambda m: f".tcm.4.attention.{m[1][0]}_proj"),
        (r"\.attention\.output", ".tcm.4.attention.out_proj"),
        (r"\.attention\.norm", ".tcm.4.layer_norm"),
        (r"\.attention\.final_norm", ".tcm.4.final_layer_norm"),
        (r"\.attention\.inner", ".tcm.4.feed_forward.intermediate_dense"),
        (r"\.attention\.outer", ".tcm.4.feed_forward.output_dense"),
        (r"^pooling\.hidden", "pool.linear1"),
        (r"^pooling\.logits", "pool.linear2"),
        (r"^embedding", "seg_1"),
    ]


def redimnet_shapes(weights: Weights) -> Weights:
    """Return the weights in the shapes of the port, whose layers over time are convolutions."""
    shaped = {}
    for name, value in weights.items():
        if "inputs_weights" in name:
            value = value[None, :, :, None]
        elif "tcm" in name and "dwconvs.0.weight" in name:
            value = value[:, :, 0]
        elif re.search(r"(red_dim_conv\.0|pool\.linear\d)\.weight", name):
            value = value[:, :, None]
        elif re.search(r"(exp_dim_conv|tcm\.\d\.pwconv1)\.weight", name):
            value = value[:, :, :, 0]
        shaped[name] = value
    return shaped


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
    assert (model(features) - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "length"),
    [(campplus.Config(), 41), (campplus.Config(4, 8, 4, 8, embedding_dim=10), 331)],
)
def test_campplus(config, length):
    torch.manual_seed(0)
    model = trained(campplus.build(config, 80))
    features = torch.randn(2, length, 80)
    expected = campplus_oracle(features, published(model, CAMPPLUS))
    assert (model(features) - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [eres2netv2.Config(16), eres2netv2.Config(4, base_width=24, scale=4, expansion=4, embedding_dim=10)],
)
def test_eres2netv2(config):
    torch.manual_seed(0)
    model = trained(eres2netv2.build(config, 80))
    features = 20 * torch.randn(2, 41, 80)  # some activations reach their ceiling
    expected = eres2netv2_oracle(features, published(model, ERES2NETV2))
    assert (model(features) - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("size", ["B0", "B1", "B3"])
def test_redimnet(size):
    torch.manual_seed(0)
    settings = redimnet.SIZES[size]
    model = trained(redimnet.build(redimnet.Config(size), settings.mels))
    for weights in model.weights:
        weights.normal_()
    features = torch.randn(2, 11, settings.mels)
    weights = redimnet_shapes(published(model, redimnet_names(settings)))
    expected = redimnet_oracle(features, weights, settings)
    assert (model(features) - expected).abs().max() < 1e-5 * expected.abs().max()
