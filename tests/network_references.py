"""RepVGG, ResNetSE34L, ReDimNet2, TitaNet and poolings as they were published: tensors' shapes and plain references.

Written from the papers and the checkpoints' tensors, like those in `map_references`: features (B, T, mels), maps
(B, C, F, T), frames (B, C, T), and no thought for speed or padding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.foreign_models import conv_shapes, norm_shapes
from tests.map_references import (
    Shapes,
    Weights,
    attention,
    attentive,
    conv,
    convnext,
    layer_norm,
    linear,
    norm,
    residual,
    statistics,
)


def weights_of(shapes: Shapes) -> int:
    """Return the number of parameters among tensors: statistics of norms and counts are none."""
    return sum(
        torch.Size(shape).numel()
        for name, shape in shapes.items()
        if "running" not in name and "num_batches" not in name
    )


# WeSpeaker's poolings: frames (B, C, T) to vectors, by their names in its configurations.


def pooling_shapes(name: str, channels: int) -> Shapes:
    if name == "ASTP":
        return conv_shapes("pool.linear1", 128, channels, 1) | conv_shapes("pool.linear2", channels, 128, 1)
    if name == "XI":
        shapes: Shapes = {"pool.prior_mean": (1, channels), "pool.prior_logprec": (1, channels)}
        shapes |= conv_shapes("pool.lin1_relu_bn.0", 256, channels, 1)
        shapes |= norm_shapes("pool.lin1_relu_bn.2", 256)
        return shapes | conv_shapes("pool.lin2", channels, 256, 1)
    shapes = {}
    for query in range(2 if name == "MQMHASTP" else 0):
        for head in range(8):
            part = f"pool.n_query.{query}.heads_att_trans.{head}"
            shapes |= conv_shapes(f"{part}.att_0", 64, channels // 8, 1)
            shapes |= conv_shapes(f"{part}.att_1", channels // 8, 64, 1)
    return shapes


VECTORS = {"TSTP": 2, "TAP": 1, "TSDP": 1, "ASTP": 2, "MQMHASTP": 4, "XI": 1}


def pooled(x: Tensor, w: Weights, name: str) -> Tensor:
    if name == "TAP":
        return x.mean(2)
    if name in ("TSTP", "TSDP"):
        return statistics(x)[:, x.shape[1] if name == "TSDP" else 0 :]
    if name == "XI":
        hidden = norm(F.relu(conv(x, w, "pool.lin1_relu_bn.0")), w, "pool.lin1_relu_bn.2")
        log_precision = 2 * F.softplus(conv(hidden, w, "pool.lin2")).log()
        log_precision = torch.cat([log_precision, w["pool.prior_logprec"][:, :, None]], 2)
        observed = torch.cat([x, w["pool.prior_mean"][:, :, None]], 2)
        return (log_precision.softmax(2) * observed).sum(2)
    if name == "ASTP":
        share = conv(conv(x, w, "pool.linear1").tanh(), w, "pool.linear2").softmax(2)
        return attentive(x, share, 1e-7)
    vectors = []
    for query in range(2):
        for head, part in enumerate(x.chunk(8, 1)):
            layer = f"pool.n_query.{query}.heads_att_trans.{head}"
            share = conv(conv(part, w, f"{layer}.att_0").tanh(), w, f"{layer}.att_1").softmax(2)
            vectors.append(attentive(part, share, 1e-7))
    return torch.cat(vectors, 1)


# WeSpeaker's RepVGG.


def repvgg_shapes(
    counts: tuple[int, ...],
    widths: tuple[int, ...],
    dim: int,
    mels: int,
    dilated: bool = False,
    groups: int = 1,
    excited: bool = False,
    fused: bool = False,
) -> Shapes:
    shapes: Shapes = {}
    inside = 1
    names = ["stage0", *(f"stage{i}.{k}" for i, n in enumerate(counts, 1) for k in range(n))]
    for index, name in enumerate(names):
        width = min(64, widths[0]) if index == 0 else widths[int(name[5]) - 1]
        each = inside // (groups if index > 0 and index % 2 == 0 and index < 27 else 1)
        stride = 2 if name.endswith(".0") and name[5] != "1" else 1
        if fused:
            size = 5 if dilated else 3
            shapes |= conv_shapes(f"{name}.rbr_reparam", width, each, size, size)
        else:
            other, size = ("rbr_dense_dilation", 3) if dilated else ("rbr_1x1", 1)
            for branch, kernel in (("rbr_dense", 3), (other, size)):
                shapes |= {f"{name}.{branch}.conv.weight": (width, each, kernel, kernel)}
                shapes |= norm_shapes(f"{name}.{branch}.bn", width)
            if width == inside and stride == 1:
                shapes |= norm_shapes(f"{name}.rbr_identity", width)
        if excited:
            shapes |= conv_shapes(f"{name}.se.fc_1", width // 4, width)
            shapes |= conv_shapes(f"{name}.se.fc_2", width, width // 4)
        inside = width
    return shapes | conv_shapes("seg", dim, 2 * inside * (mels // 8))


def repvgg(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    blocks = {name[: name.index(".rbr")]: None for name in w if ".rbr" in name}  # in their order
    for name in blocks:
        stride = 2 if name.endswith(".0") and name[5] != "1" else 1

        def branch(kind: str, dilation: int, x: Tensor = x, name: str = name, stride: int = stride) -> Tensor:
            kernel = w[f"{name}.{kind}.weight"]
            groups, padding = x.shape[1] // kernel.shape[1], dilation * (kernel.shape[2] // 2)
            return F.conv2d(x, kernel, w.get(f"{name}.{kind}.bias"), stride, padding, dilation, groups)

        if f"{name}.rbr_reparam.weight" in w:
            out = branch("rbr_reparam", 1)
        else:
            dilated = f"{name}.rbr_dense_dilation.conv.weight" in w
            other = "rbr_dense_dilation" if dilated else "rbr_1x1"
            out = norm(branch("rbr_dense.conv", 1), w, f"{name}.rbr_dense.bn")
            out = out + norm(branch(f"{other}.conv", 2 if dilated else 1), w, f"{name}.{other}.bn")
            if f"{name}.rbr_identity.weight" in w:
                out = out + norm(x, w, f"{name}.rbr_identity")
        x = F.relu(out)
        if f"{name}.se.fc_1.weight" in w:
            scale = linear(F.relu(linear(x.mean((2, 3)), w, f"{name}.se.fc_1")), w, f"{name}.se.fc_2")
            x = x * scale.sigmoid()[:, :, None, None]
    return linear(statistics(x), w, "seg")


# voxceleb_trainer's ResNetSE34L.


def resnet_se34l_shapes(channels: int, dim: int, deviation: bool) -> Shapes:
    shapes: Shapes = {"conv1.weight": (channels, 1, 7, 7)} | norm_shapes("bn1", channels)
    inside = channels
    for i, count in enumerate((3, 4, 6, 3)):
        out = channels * 2**i
        for k in range(count):
            name = f"layer{i + 1}.{k}"
            for n, (a, b) in enumerate([(out, inside), (out, out)], 1):
                shapes |= {f"{name}.conv{n}.weight": (a, b, 3, 3)} | norm_shapes(f"{name}.bn{n}", a)
            shapes |= conv_shapes(f"{name}.se.fc.0", out // 8, out)
            shapes |= conv_shapes(f"{name}.se.fc.2", out, out // 8)
            if inside != out:
                shapes |= {f"{name}.downsample.0.weight": (out, inside, 1, 1)}
                shapes |= norm_shapes(f"{name}.downsample.1", out)
            inside = out
    shapes |= conv_shapes("sap_linear", inside, inside) | {"attention": (inside, 1)}
    return shapes | conv_shapes("fc", dim, inside * (2 if deviation else 1))


def resnet_se34l(x: Tensor, w: Weights) -> Tensor:
    x = x.transpose(1, 2).unsqueeze(1)
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], None, (2, 1), 3), w, "bn1"))
    for i, (count, stage_stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 1)), 1):
        for k in range(count):
            name, stride = f"layer{i}.{k}", stage_stride if k == 0 else 1
            out = norm(F.relu(F.conv2d(x, w[f"{name}.conv1.weight"], None, stride, 1)), w, f"{name}.bn1")
            out = norm(F.conv2d(out, w[f"{name}.conv2.weight"], None, 1, 1), w, f"{name}.bn2")
            scale = linear(F.relu(linear(out.mean((2, 3)), w, f"{name}.se.fc.0")), w, f"{name}.se.fc.2")
            out = out * scale.sigmoid()[:, :, None, None]
            if f"{name}.downsample.0.weight" in w:
                x = norm(
                    F.conv2d(x, w[f"{name}.downsample.0.weight"], None, stride), w, f"{name}.downsample.1"
                )
            x = F.relu(out + x)
    x = x.mean(2)
    weights = torch.tanh(linear(x.transpose(1, 2), w, "sap_linear")) @ w["attention"]
    vector = attentive(x, weights.transpose(1, 2).softmax(2), 1e-5)
    return linear(vector[:, : w["fc.weight"].shape[1]], w, "fc")


# ReDimNet in its authors' later layout, and ReDimNet2.

# Of ReDimNet2: strides over frequency and time, blocks, expansion and reduction of each stage.
Stages2 = list[tuple[int, int, int, float, int]]


def redimnet2_shapes(
    channels: int, stages: Stages2, dim: int, head: tuple[int, ...], group_norm: bool, mels: int = 72
) -> Shapes:
    """The tensors of a ReDimNet2; `head` is the shape of the layer before pooling: empty, (out, 1) or (out, 1, 1)."""

    def layer_norm(name: str, n: int) -> Shapes:
        return {f"{name}.weight": (n,), f"{name}.bias": (n,)}

    width, bands, time, c = channels * mels, mels, 1, channels
    shapes = conv_shapes("backbone.stem.0", c, 1, 3, 3) | layer_norm("backbone.stem.1", c)
    if group_norm:
        shapes |= layer_norm("backbone.stem_gnorm", width)
    for i, (stride, time_stride, count, expansion, reduction) in enumerate(stages):
        stage, index = f"backbone.stage{i}", 3
        time *= time_stride
        inner = int(c * stride * expansion)
        groups = next(g for g in range(c, 0, -1) if c % g == 0 and inner % g == 0)
        shapes |= {f"{stage}.0.w": (1, i + 1, width, 1)}
        shapes |= conv_shapes(f"{stage}.2", inner, c // groups, stride, time)
        c, bands = c * stride, bands // stride
        for _ in range(count):
            name = f"{stage}.{index}.conv_block"
            for n in (1, 2):
                shapes |= {f"{name}.conv{n}.weight": (inner, 1, 3, 3)} | norm_shapes(f"{name}.bn{n}", inner)
                shapes |= conv_shapes(f"{name}.conv{n}pw", inner, inner, 1, 1)
            index += 1
        if inner != c:
            shapes |= conv_shapes(f"{stage}.{index}.0", c, inner, 1, 1)
            shapes |= norm_shapes(f"{stage}.{index}.1", c)
            index += 1
        name, n = f"{stage}.{index + 1}", width // reduction
        shapes |= conv_shapes(f"{name}.red_dim_conv.0", n, width, 1) | layer_norm(f"{name}.red_dim_conv.1", n)
        for k, kernel in enumerate((7, 19, 31, 59)):
            shapes |= conv_shapes(f"{name}.tcm.{k}.dwconvs.0", n, 1, kernel)
            shapes |= norm_shapes(f"{name}.tcm.{k}.norm", n)
            shapes |= conv_shapes(f"{name}.tcm.{k}.pwconv1", n, n, 1)
        for layer in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= conv_shapes(f"{name}.tcm.4.attention.{layer}", n, n)
        for layer in ("intermediate_dense", "output_dense"):
            shapes |= conv_shapes(f"{name}.tcm.4.feed_forward.{layer}", n, n)
        shapes |= layer_norm(f"{name}.tcm.4.layer_norm", n) | layer_norm(f"{name}.tcm.4.final_layer_norm", n)
        shapes |= conv_shapes(f"{name}.exp_dim_conv", width, n, 1)
        if group_norm:
            shapes |= layer_norm(f"{stage}.{index + 3}", width)
    shapes |= {"backbone.fin_wght1d.w": (1, len(stages) + 1, width, 1)}
    size = width
    if head:
        shapes |= conv_shapes("backbone.head", head[0], c if len(head) == 3 else width, *head[1:])
        size = head[0] * (bands if len(head) == 3 else 1)
    shapes |= conv_shapes("pool.linear1", 128, 3 * size, 1) | conv_shapes("pool.linear2", size, 128, 1)
    return shapes | norm_shapes("bn", 2 * size) | conv_shapes("linear", dim, 2 * size)


def redimnet2(x: Tensor, w: Weights, channels: int, stages: Stages2, maps_pooled: bool) -> Tensor:
    """The embedding of features (B, T, 72)."""
    batch, length, mels = x.shape
    length -= length % 4
    x = layer_norm(
        conv(x[:, :length].transpose(1, 2).unsqueeze(1), w, "backbone.stem.0"), w, "backbone.stem.1"
    )

    def grouped(x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in w:
            return x
        normed = F.layer_norm(x.view(batch, channels, -1), (mels * length,)).view(x.shape)
        return normed * w[f"{name}.weight"].view(1, -1, 1) + w[f"{name}.bias"].view(1, -1, 1)

    def weighted(name: str) -> Tensor:
        return (w[name].softmax(1) * torch.stack(outputs, 1)).sum(1)

    outputs = [grouped(x.transpose(1, 2).flatten(1, 2), "backbone.stem_gnorm")]
    c, bands = channels, mels
    for i, (stride, _, count, expansion, _) in enumerate(stages):
        stage, index = f"backbone.stage{i}", 3
        x = weighted(f"{stage}.0.w").reshape(batch, bands, c, length).transpose(1, 2)
        kernel = w[f"{stage}.2.weight"]
        strides, groups = tuple(kernel.shape[2:]), c // kernel.shape[1]
        x = F.conv2d(x, kernel, w[f"{stage}.2.bias"], strides, groups=groups)
        c, bands = c * stride, bands // stride
        for _ in range(count):
            x = residual(x, w, f"{stage}.{index}.conv_block")
            index += 1
        if expansion != 1:
            x = norm(conv(x, w, f"{stage}.{index}.0"), w, f"{stage}.{index}.1", 1e-6)
            index += 1
        x, name = x.transpose(1, 2).flatten(1, 2), f"{stage}.{index + 1}"
        inner = layer_norm(conv(x, w, f"{name}.red_dim_conv.0"), w, f"{name}.red_dim_conv.1")
        for k in range(4):
            inner = convnext(inner, w, f"{name}.tcm.{k}")
        x = x + conv(attention(inner, w, f"{name}.tcm.4"), w, f"{name}.exp_dim_conv")
        outputs.append(grouped(x.repeat_interleave(strides[1], 2), f"{stage}.{index + 3}"))
    x = weighted("backbone.fin_wght1d.w")
    if maps_pooled:
        x = x.view(batch, bands, c, length).transpose(1, 2)
    x = conv(x, w, "backbone.head") if "backbone.head.weight" in w else x
    x = x.reshape(batch, -1, length)
    context = statistics(x).unsqueeze(2).expand(-1, -1, length)
    hidden = conv(torch.cat([x, context], 1), w, "pool.linear1").tanh()
    vector = attentive(x, conv(hidden, w, "pool.linear2").softmax(2), 1e-7)
    return linear(norm(vector, w, "bn"), w, "linear")


def tfmel(waveform: Tensor, mels: int = 72) -> Tensor:
    """ReDimNet2's own features (T, mels) of one waveform, each step as its code computes it."""
    x = waveform.double()
    x = (x - x.mean()) / (x.std(correction=0) + 1e-8)
    x = F.pad(torch.cat([x[:1] - 0.97 * x[1:2], x[1:] - 0.97 * x[:-1]]), (80, 80))
    angle = 2 * torch.pi * torch.arange(400, dtype=torch.float64)[:, None] * torch.arange(256) / 512
    window = torch.hamming_window(400, periodic=False, dtype=torch.float64)[:, None]
    frames = x.unfold(0, 400, 160)
    power = (frames @ (angle.cos() * window)) ** 2 + (frames @ (angle.sin() * window)) ** 2

    def mel(hz: Tensor) -> Tensor:
        return 2595 * (1 + hz / 700).log10()

    edges = torch.linspace(
        float(mel(torch.tensor(20.0))), float(mel(torch.tensor(7600.0))), mels + 2
    ).double()
    bins = mel(torch.linspace(0, 8000, 256, dtype=torch.float64))[1:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bank = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    energies = power.clamp(1e-8, 1e8)[:, 1:] @ bank
    features = (energies.clamp(1e-8, 1e8) + 1e-8).log()
    return (features - features.mean(0)).float()


# NeMo's TitaNet.


def titanet_shapes(
    mels: int, channels: int, kernels: tuple[int, ...], repeats: int, last: int, dim: int
) -> Shapes:
    shapes: Shapes = {}
    blocks = [
        (3, 1, mels, channels),
        *((k, repeats, channels, channels) for k in kernels),
        (1, 1, channels, last),
    ]
    for i, (kernel, count, inside, out) in enumerate(blocks):
        name = f"encoder.encoder.{i}"
        for k in range(count):
            before = inside if k == 0 else out
            shapes |= {f"{name}.mconv.{5 * k}.conv.weight": (before, 1, kernel)}
            shapes |= {f"{name}.mconv.{5 * k + 1}.conv.weight": (out, before, 1)}
            shapes |= norm_shapes(f"{name}.mconv.{5 * k + 2}", out)
        shapes |= {f"{name}.mconv.{5 * count - 2}.fc.0.weight": (out // 8, out)}
        shapes |= {f"{name}.mconv.{5 * count - 2}.fc.2.weight": (out, out // 8)}
        if 0 < i < len(blocks) - 1:
            shapes |= {f"{name}.res.0.0.conv.weight": (out, inside, 1)} | norm_shapes(f"{name}.res.0.1", out)
    pool = "decoder._pooling.attention_layer"
    shapes |= conv_shapes(f"{pool}.0.conv_layer", 128, 3 * last, 1) | norm_shapes(f"{pool}.0.bn", 128)
    shapes |= conv_shapes(f"{pool}.2", last, 128, 1) | norm_shapes("decoder.emb_layers.0.0", 2 * last)
    return shapes | conv_shapes("decoder.emb_layers.0.1", dim, 2 * last, 1)


def titanet(x: Tensor, w: Weights) -> Tensor:
    x, i = x.transpose(1, 2), 0
    while f"encoder.encoder.{i}.mconv.0.conv.weight" in w:
        name, out, k = f"encoder.encoder.{i}", x, 0
        while f"{name}.mconv.{5 * k}.conv.weight" in w:
            out = F.relu(out) if k else out
            kernel = w[f"{name}.mconv.{5 * k}.conv.weight"]
            out = F.conv1d(out, kernel, padding=kernel.shape[2] // 2, groups=len(kernel))
            out = F.conv1d(out, w[f"{name}.mconv.{5 * k + 1}.conv.weight"])
            out, k = norm(out, w, f"{name}.mconv.{5 * k + 2}", 1e-3), k + 1
        scale = F.relu(out.mean(2) @ w[f"{name}.mconv.{5 * k - 2}.fc.0.weight"].T)
        out = out * (scale @ w[f"{name}.mconv.{5 * k - 2}.fc.2.weight"].T).sigmoid().unsqueeze(2)
        if f"{name}.res.0.0.conv.weight" in w:
            out = out + norm(F.conv1d(x, w[f"{name}.res.0.0.conv.weight"]), w, f"{name}.res.0.1", 1e-3)
        x, i = F.relu(out), i + 1
    pool = "decoder._pooling.attention_layer"
    deviation = x.var(2, correction=0).clamp(min=1e-10).sqrt()
    context = torch.cat([x.mean(2), deviation], 1).unsqueeze(2).expand(-1, -1, x.shape[2])
    hidden = norm(F.relu(conv(torch.cat([x, context], 1), w, f"{pool}.0.conv_layer")), w, f"{pool}.0.bn")
    vector = attentive(x, conv(hidden.tanh(), w, f"{pool}.2").softmax(2), 1e-10)
    vector = norm(vector, w, "decoder.emb_layers.0.0")
    return vector @ w["decoder.emb_layers.0.1.weight"][:, :, 0].T + w["decoder.emb_layers.0.1.bias"]


def nemo_features(waveform: Tensor, bank: Tensor) -> Tensor:
    """NeMo's features (T, mels) of one waveform, given its mel matrix (mels, 257)."""
    x = torch.cat([waveform[:1], waveform[1:] - 0.97 * waveform[:-1]])
    window = torch.hann_window(400, periodic=False)
    spectrum = torch.stft(x, 512, 160, 400, window, center=True, pad_mode="constant", return_complex=True)
    features = (bank @ spectrum.abs().square() + 2**-24).log()[:, : len(waveform) // 160]
    centred = features - features.mean(1, keepdim=True)
    return (centred / (features.std(1, keepdim=True) + 1e-5)).T
