"""Checkpoints as other toolkits write them, and plain references of the networks that they belong to.

The references are written from the papers and from the names of the checkpoints' tensors, channels first, without
masks: each takes a state dict and the features of one utterance.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    """Return a tensor for every name; statistics and scales are such that every layer matters."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            state[name] = torch.rand(shape) + 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif "inputs_weights" in name:  # of ReDimNet's sums, under a softmax
            state[name] = torch.randn(shape)
        else:
            state[name] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]) or 1)
    return state


def conv_shapes(name: str, out: int, inside: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside, *kernel), f"{name}.bias": (out,)}


def norm_shapes(name: str, size: int, affine: bool = True) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    return {f"{name}.{kind}": (size,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def conv(state: State, name: str, x: Tensor, dilation: int = 1, padding: int = 0) -> Tensor:
    weight = state[f"{name}.weight"]
    weight = weight if weight.ndim == 3 else weight[:, :, None]
    return F.conv1d(x, weight, state[f"{name}.bias"], dilation=dilation, padding=padding)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    scale = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], *scale)


def attentive_statistics(
    x: Tensor, scores: Callable[[Tensor], Tensor], context: bool, floor: float
) -> Tensor:
    seen = x
    if context:
        deviation = x.var(2, keepdim=True).clamp(min=floor).sqrt()
        seen = torch.cat([x, x.mean(2, keepdim=True).expand_as(x), deviation.expand_as(x)], 1)
    weights = scores(seen).softmax(2)
    mean = (weights * x).sum(2)
    variance = (weights * x * x).sum(2) - mean * mean
    return torch.cat([mean, variance.clamp(min=floor).sqrt()], 1)


def res2_passing_the_last(
    state: State, x: Tensor, layer: Callable[[int, Tensor], Tensor], parts: int = 8
) -> Tensor:
    """Every part but the last is convolved, each with the former result added."""
    chunks = x.chunk(parts, 1)
    outputs = [layer(0, chunks[0])]
    for k in range(1, parts - 1):
        outputs.append(layer(k, outputs[-1] + chunks[k]))
    return torch.cat([*outputs, chunks[-1]], 1)


# WeSpeaker


def wespeaker_ecapa_shapes(channels: int, dim: int, context: bool) -> dict[str, tuple[int, ...]]:
    c, m = channels, 3 * channels
    shapes = conv_shapes("layer1.conv", c, 80, 5) | norm_shapes("layer1.bn", c)
    for i in (2, 3, 4):
        block = f"layer{i}.se_res2block"
        for k in (0, 2):
            shapes |= conv_shapes(f"{block}.{k}.conv", c, c, 1) | norm_shapes(f"{block}.{k}.bn", c)
        for k in range(7):
            shapes |= conv_shapes(f"{block}.1.convs.{k}", c // 8, c // 8, 3) | norm_shapes(
                f"{block}.1.bns.{k}", c // 8
            )
        shapes |= conv_shapes(f"{block}.3.linear1", 128, c) | conv_shapes(f"{block}.3.linear2", c, 128)
    shapes |= conv_shapes("conv", m, m, 1)
    shapes |= conv_shapes("pool.linear1", 128, 3 * m if context else m, 1) | conv_shapes(
        "pool.linear2", m, 128, 1
    )
    return shapes | norm_shapes("bn", 2 * m) | conv_shapes("linear", dim, 2 * m)


Pool = Callable[[Tensor], Tensor]  # frames (B, C, T) to vectors


def wespeaker_ecapa(state: State, features: Tensor, pool: Pool | None = None) -> Tensor:
    """Return the embedding; `pool` takes the place of attentive statistics."""

    def layer(name: str, x: Tensor, **options: int) -> Tensor:
        return norm(state, f"{name}.bn", conv(state, f"{name}.conv", x, **options).relu())

    x = layer("layer1", features.T[None], padding=2)
    outputs = []
    for i in (2, 3, 4):
        block = f"layer{i}.se_res2block"

        def part(k: int, y: Tensor, block: str = block, d: int = i) -> Tensor:
            y = conv(state, f"{block}.1.convs.{k}", y, dilation=d, padding=d).relu()
            return norm(state, f"{block}.1.bns.{k}", y)

        h = layer(f"{block}.2", res2_passing_the_last(state, layer(f"{block}.0", x), part))
        squeezed = conv(state, f"{block}.3.linear1", h.mean(2, keepdim=True)).relu()
        x = x + h * conv(state, f"{block}.3.linear2", squeezed).sigmoid()
        outputs.append(x)
    x = conv(state, "conv", torch.cat(outputs, 1)).relu()
    if pool is not None:
        return F.linear(norm(state, "bn", pool(x)), state["linear.weight"], state["linear.bias"])[0]
    context = state["pool.linear1.weight"].shape[1] == 3 * x.shape[1]
    pooled = attentive_statistics(
        x, lambda y: conv(state, "pool.linear2", conv(state, "pool.linear1", y).tanh()), context, 1e-10
    )
    return F.linear(norm(state, "bn", pooled), state["linear.weight"], state["linear.bias"])[0]


def xvector_shapes(
    mels: int, channels: int, pooled: int, dim: int, second: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    sizes = [mels, channels, channels, channels, channels, pooled]
    for i, kernel in enumerate((5, 3, 3, 1, 1)):
        shapes |= conv_shapes(f"frame_{i + 1}.conv_1d", sizes[i + 1], sizes[i], kernel)
        shapes |= norm_shapes(f"frame_{i + 1}.bn", sizes[i + 1], affine=False)
    shapes |= conv_shapes("seg_1", dim, 2 * pooled)
    return shapes | (
        norm_shapes("seg_bn_1", dim, affine=False) | conv_shapes("seg_2", dim, dim) if second else {}
    )


def xvector(state: State, features: Tensor, pool: Pool | None = None) -> Tensor:
    """Return the embedding; `pool` takes the place of mean and deviation."""
    x = features.T[None]
    for i, dilation in enumerate((1, 2, 3, 1, 1), 1):
        x = norm(state, f"frame_{i}.bn", conv(state, f"frame_{i}.conv_1d", x, dilation).relu())
    x = torch.cat([x.mean(2), (x.var(2) + 1e-8).sqrt()], 1) if pool is None else pool(x)
    x = F.linear(x, state["seg_1.weight"], state["seg_1.bias"])
    if "seg_2.weight" in state:
        x = F.linear(norm(state, "seg_bn_1", x.relu()), state["seg_2.weight"], state["seg_2.bias"])
    return x[0]


def wespeaker_folder(folder: Path, state: State, model: str, pooling: str, mels: int = 80) -> Path:
    folder.mkdir(parents=True)
    torch.save({**state, "projection.weight": torch.zeros(10, 16)}, folder / "avg_model.pt")
    settings = {
        "dataset_args": {
            "fbank_args": {"num_mel_bins": mels, "frame_shift": 10, "frame_length": 25, "dither": 1.0},
            "num_frms": 200,
            "spec_aug": False,
        },
        "model": model,
        "model_args": {"feat_dim": mels, "embed_dim": 16, "pooling_func": pooling},
        "projection_args": {"project_type": "arc_margin", "scale": 32.0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


# TaoRuijie


def taoruijie_shapes(c: int, m: int, attention: int) -> dict[str, tuple[int, ...]]:
    shapes = conv_shapes("conv1", c, 80, 5) | norm_shapes("bn1", c)
    for i in (1, 2, 3):
        for k in (1, 3):
            shapes |= conv_shapes(f"layer{i}.conv{k}", c, c, 1) | norm_shapes(f"layer{i}.bn{k}", c)
        for k in range(7):
            shapes |= conv_shapes(f"layer{i}.convs.{k}", c // 8, c // 8, 3) | norm_shapes(
                f"layer{i}.bns.{k}", c // 8
            )
        shapes |= conv_shapes(f"layer{i}.se.se.1", 128, c, 1) | conv_shapes(f"layer{i}.se.se.3", c, 128, 1)
    shapes |= conv_shapes("layer4", m, 3 * c, 1)
    shapes |= conv_shapes("attention.0", attention, 3 * m, 1) | norm_shapes("attention.2", attention)
    shapes |= conv_shapes("attention.4", m, attention, 1)
    shapes |= norm_shapes("bn5", 2 * m) | conv_shapes("fc6", 192, 2 * m) | norm_shapes("bn6", 192)
    return {f"speaker_encoder.{name}": shape for name, shape in shapes.items()} | {
        "speaker_loss.weight": (9, 192)
    }


def mel_spectrogram(mels: int, f_min: float, f_max: float) -> torch.nn.Module:
    import torchaudio

    module: torch.nn.Module = torchaudio.transforms.MelSpectrogram(
        16000,
        n_fft=512,
        win_length=400,
        hop_length=160,
        f_min=f_min,
        f_max=f_max,
        window_fn=torch.hamming_window,
        n_mels=mels,
    )
    return module


def log_mel(waveform: Tensor, mel: torch.nn.Module) -> Tensor:
    """Pre-emphasis, where the first sample follows the second, and log mel bands (mels, T)."""
    first = waveform[:1] - 0.97 * waveform[1:2]
    values: Tensor = (mel(torch.cat([first, waveform[1:] - 0.97 * waveform[:-1]])) + 1e-6).log()
    return values


def taoruijie_features(waveform: Tensor) -> Tensor:
    features = log_mel(waveform, mel_spectrogram(80, 20, 7600))
    return (features - features.mean(1, keepdim=True)).T


def taoruijie(state: State, features: Tensor) -> Tensor:
    state = {name.removeprefix("speaker_encoder."): tensor for name, tensor in state.items()}

    def layer(number: str, x: Tensor, prefix: str = "") -> Tensor:
        return norm(state, f"{prefix}bn{number}", conv(state, f"{prefix}conv{number}", x).relu())

    x = norm(state, "bn1", conv(state, "conv1", features.T[None], padding=2).relu())
    total, outputs = x, []
    for i in (1, 2, 3):

        def part(k: int, y: Tensor, i: int = i) -> Tensor:
            y = conv(state, f"layer{i}.convs.{k}", y, dilation=i + 1, padding=i + 1).relu()
            return norm(state, f"layer{i}.bns.{k}", y)

        h = layer("1", total, f"layer{i}.")
        h = layer("3", res2_passing_the_last(state, h, part), f"layer{i}.")
        squeezed = conv(state, f"layer{i}.se.se.1", h.mean(2, keepdim=True)).relu()
        outputs.append(total + h * conv(state, f"layer{i}.se.se.3", squeezed).sigmoid())
        total = total + outputs[-1]
    x = conv(state, "layer4", torch.cat(outputs, 1)).relu()

    def scores(y: Tensor) -> Tensor:
        hidden = norm(state, "attention.2", conv(state, "attention.0", y).relu())
        return conv(state, "attention.4", hidden.tanh())

    pooled = norm(state, "bn5", attentive_statistics(x, scores, True, 1e-4))
    return norm(state, "bn6", F.linear(pooled, state["fc6.weight"], state["fc6.bias"]))[0]


def model_file(path: Path, state: State, prefix: str, mel: torch.nn.Module) -> Path:
    """Write a `.model` file as TaoRuijie and voxceleb_trainer do: the features' buffers are among the tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffers = {
        f"{prefix}.0.flipped_filter": torch.tensor([[[-0.97, 1.0]]]),
        f"{prefix}.1.spectrogram.window": mel.get_submodule("spectrogram").get_buffer("window"),
        f"{prefix}.1.mel_scale.fb": mel.get_submodule("mel_scale").get_buffer("fb"),
    }
    torch.save({**state, **buffers}, path)
    return path


def taoruijie_file(path: Path, state: State) -> Path:
    return model_file(path, state, "speaker_encoder.torchfbank", mel_spectrogram(80, 20, 7600))


# voxceleb_trainer


def voxceleb_trainer_features(waveform: Tensor, mels: int) -> Tensor:
    features = log_mel(waveform, mel_spectrogram(mels, 0, 8000))
    return F.instance_norm(features[None])[0].T


def voxceleb_trainer_file(path: Path, state: State, mels: int) -> Path:
    state = {f"__S__.{name}": tensor for name, tensor in state.items()}
    state |= {"__L__.w": torch.tensor(10.0), "__L__.b": torch.tensor(-5.0)}
    return model_file(path, state, "__S__.torchfb", mel_spectrogram(mels, 0, 8000))


# SpeechBrain, by itself

SPEECHBRAIN = """
pretrained_path: {folder}
n_mels: {mels}
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: {model}
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
"""
SPEECHBRAIN_ECAPA = """!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [32, 32, 32, 32, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 16
    se_channels: 8
    lin_neurons: 24"""
SPEECHBRAIN_XVECTOR = """!new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: [32, 32, 32, 32, 48]
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: 24"""
SPEECHBRAIN_RESNET = """!new:speechbrain.lobes.models.ResNet.ResNet
    input_size: !ref <n_mels>
    channels: [8, 8, 16, 16]
    block_sizes: [2, 3, 2, 1]
    strides: [1, 2, 2, 2]
    lin_neurons: 24"""


def speechbrain_folder(folder: Path, model: str, mels: int) -> Path:
    """Write a model folder as SpeechBrain publishes it: SpeechBrain makes and saves every file but the settings."""
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.utils.checkpoints import torch_save

    folder.mkdir(parents=True)
    settings = SPEECHBRAIN.format(folder=folder, mels=mels, model=model)
    (folder / "hyperparams.yaml").write_text(settings)
    made = load_hyperpyyaml(settings)
    for module in made["embedding_model"].modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    torch_save(made["embedding_model"], folder / "embedding_model.ckpt")
    made["mean_var_norm_emb"].train()(torch.randn(4, 1, 24), torch.ones(4), epoch=0)
    made["mean_var_norm_emb"]._save(folder / "mean_var_norm_emb.ckpt")
    (folder / "label_encoder.txt").write_text(
        "'id10002' => 1\n'id10001' => 0\n================\n'starting_index' => 0\n"
    )
    return folder
