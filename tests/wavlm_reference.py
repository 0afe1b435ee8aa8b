"""WavLM with an x-vector in the layout of transformers, written from the papers and the names of its tensors.

Sources: Chen et al. 2022, "WavLM", arXiv:2110.13900, section III-A; Snyder et al. 2018, "X-vectors".
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, HEADS, LAYERS, INNER, CHANNELS, KERNEL, GROUPS = 16, 2, 2, 24, 8, 8, 2
TDNN, POOLED, EMBEDDING = 12, 20, 10
TDNN_WIDTHS = [TDNN, TDNN, TDNN, TDNN, POOLED]
STRIDES = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
BUCKETS, LARGEST = 320, 800
CONFIG: dict[str, object] = {
    "architectures": ["WavLMForXVector"],
    "model_type": "wavlm",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "conv_dim": [CHANNELS] * 7,
    "num_conv_pos_embeddings": KERNEL,
    "num_conv_pos_embedding_groups": GROUPS,
    "tdnn_dim": TDNN_WIDTHS,
    "xvector_output_dim": EMBEDDING,
    "use_weighted_layer_sum": True,
}


def _linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def wavlm_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of a `WavLMModel` of the Base kind, with the older names of its weight norm."""
    shapes: dict[str, tuple[int, ...]] = {"masked_spec_embed": (WIDTH,)}
    for i, (kernel, _) in enumerate(STRIDES):
        shapes[f"feature_extractor.conv_layers.{i}.conv.weight"] = (CHANNELS, CHANNELS if i else 1, kernel)
    shapes |= _norm("feature_extractor.conv_layers.0.layer_norm", CHANNELS)
    shapes |= _norm("feature_projection.layer_norm", CHANNELS)
    shapes |= _linear("feature_projection.projection", WIDTH, CHANNELS)
    position = "encoder.pos_conv_embed.conv"
    shapes |= {f"{position}.bias": (WIDTH,), f"{position}.weight_g": (1, 1, KERNEL)}
    shapes[f"{position}.weight_v"] = (WIDTH, WIDTH // GROUPS, KERNEL)
    shapes |= _norm("encoder.layer_norm", WIDTH)
    for i in range(LAYERS):
        block = f"encoder.layers.{i}"
        for part in "qkv":
            shapes |= _linear(f"{block}.attention.{part}_proj", WIDTH, WIDTH)
        shapes |= _linear(f"{block}.attention.out_proj", WIDTH, WIDTH)
        shapes |= _linear(f"{block}.attention.gru_rel_pos_linear", 8, WIDTH // HEADS)
        shapes[f"{block}.attention.gru_rel_pos_const"] = (1, HEADS, 1, 1)
        shapes |= _norm(f"{block}.layer_norm", WIDTH) | _norm(f"{block}.final_layer_norm", WIDTH)
        shapes |= _linear(f"{block}.feed_forward.intermediate_dense", INNER, WIDTH)
        shapes |= _linear(f"{block}.feed_forward.output_dense", WIDTH, INNER)
    shapes["encoder.layers.0.attention.rel_attn_embed.weight"] = (BUCKETS, HEADS)
    return shapes


def xvector_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of a `WavLMForXVector`."""
    shapes = {f"wavlm.{name}": shape for name, shape in wavlm_shapes().items()}
    shapes |= {"layer_weights": (LAYERS + 1,), "objective.weight": (EMBEDDING, 4)}
    shapes |= _linear("projector", TDNN, WIDTH) | _linear("classifier", EMBEDDING, EMBEDDING)
    for i, (kernel, out) in enumerate(zip((5, 3, 3, 1, 1), TDNN_WIDTHS, strict=True)):
        shapes |= _linear(f"tdnn.{i}.kernel", out, TDNN * kernel)
    return shapes | _linear("feature_extractor", EMBEDDING, 2 * POOLED)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return random tensors of moderate size: gains around 1, the rest around 0."""
    state = {}
    for name, shape in shapes.items():
        gain = ("norm.weight" in name) or name.endswith(("weight_g", "const"))
        spread = 0.3 if gain or len(shape) < 2 else 1 / math.sqrt(math.prod(shape[1:]))
        state[name] = float(gain) + spread * torch.randn(shape)
    return state


def wavlm(state: dict[str, Tensor], waveform: Tensor) -> list[Tensor]:
    """Return the frames `(T, WIDTH)` before the first block and after each, of a waveform `(S,)`."""

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    values = waveform[None]
    for i, (_, stride) in enumerate(STRIDES):
        layer = f"feature_extractor.conv_layers.{i}"
        values = F.conv1d(values[None], state[f"{layer}.conv.weight"], stride=stride)[0]
        if i == 0:
            centred = values - values.mean(1, keepdim=True)
            values = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
            values = values * state[f"{layer}.layer_norm.weight"][:, None]
            values = values + state[f"{layer}.layer_norm.bias"][:, None]
        values = F.gelu(values)
    frames = linear("feature_projection.projection", norm("feature_projection.layer_norm", values.T))
    position = "encoder.pos_conv_embed.conv"
    direction = state[f"{position}.weight_v"]
    kernel = direction / direction.square().sum((0, 1), keepdim=True).sqrt() * state[f"{position}.weight_g"]
    convolved = F.conv1d(
        frames.T[None], kernel, state[f"{position}.bias"], padding=KERNEL // 2, groups=GROUPS
    )
    frames = norm("encoder.layer_norm", frames + F.gelu(convolved[0, :, :-1]).T)
    layers = [frames]
    bias = state["encoder.layers.0.attention.rel_attn_embed.weight"][_buckets(len(frames))]  # (T, T, HEADS)
    for i in range(LAYERS):
        block = f"encoder.layers.{i}"
        queries, keys, contents = (
            linear(f"{block}.attention.{part}_proj", frames).unflatten(1, (HEADS, -1)).transpose(0, 1)
            for part in "qkv"
        )
        heads = frames.unflatten(1, (HEADS, -1)).transpose(0, 1)  # (HEADS, T, width)
        gates = linear(f"{block}.attention.gru_rel_pos_linear", heads).unflatten(2, (2, 4)).sum(-1).sigmoid()
        constant = state[f"{block}.attention.gru_rel_pos_const"][0, :, :, 0]
        gate = gates[..., 0] * (gates[..., 1] * constant - 1) + 2
        scores = queries @ keys.transpose(1, 2) / math.sqrt(WIDTH // HEADS)
        scores = scores + gate[..., None] * bias.permute(2, 0, 1)
        attended = (scores.softmax(-1) @ contents).transpose(0, 1).flatten(1)
        frames = norm(f"{block}.layer_norm", frames + linear(f"{block}.attention.out_proj", attended))
        inner = F.gelu(linear(f"{block}.feed_forward.intermediate_dense", frames))
        frames = frames + linear(f"{block}.feed_forward.output_dense", inner)
        frames = norm(f"{block}.final_layer_norm", frames)
        layers.append(frames)
    return layers


def xvector(state: dict[str, Tensor], waveform: Tensor) -> Tensor:
    """Return the embedding `(EMBEDDING,)` of a waveform `(S,)`."""
    inner = {name.removeprefix("wavlm."): t for name, t in state.items() if name.startswith("wavlm.")}
    shares = state["layer_weights"].softmax(0)
    frames = torch.stack([share * layer for share, layer in zip(shares, wavlm(inner, waveform), strict=True)])
    values = frames.sum(0) @ state["projector.weight"].T + state["projector.bias"]
    for i, (kernel, dilation) in enumerate(((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))):
        steps = len(values) - (kernel - 1) * dilation
        context = torch.cat([values[k * dilation : k * dilation + steps] for k in range(kernel)], 1)
        values = F.relu(context @ state[f"tdnn.{i}.kernel.weight"].T + state[f"tdnn.{i}.kernel.bias"])
    pooled = torch.cat([values.mean(0), values.std(0)])
    return pooled @ state["feature_extractor.weight"].T + state["feature_extractor.bias"]


def _buckets(length: int) -> Tensor:
    """Return the bucket of each key's position relative to each query's, (T, T): equation 5 of T5's scheme."""
    offsets = torch.arange(length)[None] - torch.arange(length)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    distance = offsets.abs()
    far = exact + (distance.clamp(min=1) / exact).log() / math.log(LARGEST / exact) * (half - exact)
    return torch.where(distance < exact, distance, far.long().clamp(max=half - 1)) + half * (offsets > 0)
