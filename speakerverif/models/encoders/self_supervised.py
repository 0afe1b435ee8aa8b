"""A self-supervised front end and a back end: learned weights of its layers, or all of them, become an embedding.

| front end                       | settings                                                        |  parameters |
|---------------------------------|-----------------------------------------------------------------|------------:|
| WavLM Base, Base+               | network wavlm                                                   |  94,381,168 |
| WavLM Large                     | the same, width 1024, layers 24, heads 16, feed_forward 4096,   |             |
|                                 | norm layer, normalize_waveform                                  | 315,452,096 |
| wav2vec 2.0 and HuBERT Base     | network wav2vec2                                                |  94,370,944 |
| HuBERT Large                    | network wav2vec2 and the others of WavLM Large                  | 315,434,112 |
| wav2vec 2.0 LV-60, XLS-R 300M   | the same and conv_bias                                          | 315,437,696 |
| w2v-BERT 2.0                    | network w2v_bert, the sizes of WavLM Large                      | 580,492,096 |

WavLM, wav2vec 2.0 and HuBERT take features of kind "waveform" at 16 kHz, w2v-BERT 2.0 those of kind "kaldi" with the
Povey window.

Back ends are encoders. Those with a setting `layers` (`mhfa`, `mfa`) get the frames of all layers side by side; others
get their sum, weighted by the softmax of a learned number per layer (Yang et al. 2021, "SUPERB", arXiv:2105.01051).

A recipe's `train.pretrained` names the weights that the front end begins with; without, they are random.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from speakerverif._util import registry
from speakerverif._util.ranges import Range, Share, Width
from speakerverif.errors import InputError
from speakerverif.models import encoders
from speakerverif.models.encoders._w2v_bert import W2vBert
from speakerverif.models.encoders._wav2vec2 import Wav2Vec2
from speakerverif.models.frames import masked_mean

Taken = Literal["all", "sum", "last"]


@dataclass(frozen=True)
class Config:
    """The defaults are WavLM Base+ with MHFA."""

    network: Literal["wavlm", "wav2vec2", "w2v_bert"] = "wavlm"
    width: Width = 768
    layers: Annotated[int, Range(1, 1_000)] = 12
    heads: Annotated[int, Range(1, 1_000)] = 12
    feed_forward: Width = 3072
    dropout: Share = 0.0
    # Of all but w2v-BERT: the layers' norms, convolutions over the samples, positions, the samples' norm.
    norm: Literal["group", "layer"] = "group"
    conv_channels: Width = 512
    conv_bias: bool = False
    position_kernel: Annotated[int, Range(1, 10_000)] = 128
    position_groups: Annotated[int, Range(1, 1_000)] = 16
    normalize_waveform: bool = False
    layer_weights: bool = True  # the sum of all layers; else the last one alone, for back ends that take one
    mean_norm: bool = False  # subtract the mean over time of the frames that the back end gets (WeSpeaker)
    backend: dict[str, Any] = field(default_factory=lambda: {"name": "mhfa"})  # an `[encoder]` table

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if self.width % self.heads:
            yield f"heads: found {self.heads}, expected a divisor of width {self.width}"
        if self.network != "w2v_bert" and self.width % self.position_groups:
            yield f"position_groups: found {self.position_groups}, expected a divisor of width {self.width}"


class SelfSupervised(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns.

    Args:
        network: features and their numbers to the frames of all layers and their numbers.
        backend: frames to embeddings.
        taken: what the back end gets: all layers side by side, their weighted sum, or the last one.
        num_layers: number of layers whose frames the network returns.
        mean_norm: subtract the mean over time.
    """

    def __init__(
        self, network: nn.Module, backend: nn.Module, taken: Taken, num_layers: int, mean_norm: bool
    ) -> None:
        super().__init__()
        self.embedding_dim = int(backend.embedding_dim)  # type: ignore[arg-type]
        self.taken, self.mean_norm = taken, mean_norm
        self.network = network
        self.layer_weights = nn.Parameter(torch.zeros(num_layers)) if taken == "sum" else None
        self.backend = backend

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Return embeddings.

        Raises:
            InputError: an utterance is too short for the front end or the back end.
        """
        layers, num_frames = self.network(features, num_frames)
        if self.layer_weights is None:
            frames = torch.cat(layers, -1) if self.taken == "all" else layers[-1]
        else:
            shares = self.layer_weights.softmax(0)
            frames = torch.stack([share * layer for share, layer in zip(shares, layers, strict=True)]).sum(0)
        if self.mean_norm:
            frames = frames - masked_mean(frames, num_frames).unsqueeze(1).to(frames.dtype)
        embedding: Tensor = self.backend(frames, num_frames)
        return embedding


def build(config: Config, num_mels: int) -> SelfSupervised:
    """Return the encoder: samples `(B, S, 1)`, or filterbanks of w2v-BERT, to embeddings `(B, embedding_dim)`.

    Raises:
        InputError: features of another kind, an unknown back end, or an extra that isn't installed.
    """
    sizes = (config.width, config.layers, config.heads, config.feed_forward)
    network: nn.Module
    if config.network == "w2v_bert":
        network = W2vBert(num_mels, *sizes, config.dropout)
    elif num_mels != 1:
        raise InputError(
            f'[encoder] self_supervised: {config.network} takes samples; set features.kind = "waveform" and '
            "features.num_mels = 1"
        )
    else:
        network = Wav2Vec2(
            config.network == "wavlm",
            *sizes,
            config.norm,
            config.conv_channels,
            config.conv_bias,
            config.position_kernel,
            config.position_groups,
            config.dropout,
            config.normalize_waveform,
        )
    num_layers = config.layers + 1
    if hasattr(registry.resolve("encoder", config.backend)[1], "layers"):
        table = {**config.backend, "layers": num_layers}
        backend = encoders.build(table, num_layers * config.width)
        return SelfSupervised(network, backend, "all", num_layers, config.mean_norm)
    backend = encoders.build(config.backend, config.width)
    taken: Taken = "sum" if config.layer_weights else "last"
    return SelfSupervised(network, backend, taken, num_layers, config.mean_norm)
