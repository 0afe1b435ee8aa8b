"""The two data sets that heads are shown on: images of digits and synthetic voices, and a small network for each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.corpora import synthetic
from speakerverif.models import features

DIM = 3  # of the embeddings, so that they can be looked at
BATCH = 128  # images
SPEAKERS, SESSIONS, UTTERANCES = 10, 6, 8  # the last session of each speaker is not trained on
PER_SPEAKER = 4  # crops of each speaker in a batch, as the losses on pairs need
CROP_FRAMES = 100  # 1 s


@dataclass(frozen=True)
class Task:
    """Inputs of ten classes, and how a network learns from them.

    Attributes:
        inputs: float32 (N, ...), all of them.
        labels: int64 (N,), 0 to 9.
        held_out: bool (N,), not trained on.
        network: returns an untrained network, inputs (B, ...) to embeddings (B, 3).
        batch: draws inputs (B, ...) and labels (B,) to train on, from torch's global random state.
    """

    inputs: Tensor
    labels: Tensor
    held_out: Tensor
    network: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]


def digits() -> Task:
    """Return scikit-learn's 1,797 images of handwritten digits, 8 by 8 pixels; every fourth is held out.

    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI repository.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    held_out = torch.arange(len(inputs)) % 4 == 3
    trained = (~held_out).nonzero().squeeze(1)
    classes = torch.from_numpy(labels).long()

    def batch() -> tuple[Tensor, Tensor]:
        chosen = trained[torch.randint(len(trained), (BATCH,))]
        return inputs[chosen], classes[chosen]

    return Task(inputs, classes, held_out, ImageNetwork, batch)


class ImageNetwork(nn.Sequential):
    """Four convolutions and an embedding."""

    def __init__(self, channels: int = 16):
        def convolution(width: int, next_width: int) -> list[nn.Module]:
            return [nn.Conv2d(width, next_width, 3, padding=1), nn.BatchNorm2d(next_width), nn.PReLU()]

        super().__init__(
            *(*convolution(1, channels), *convolution(channels, channels), nn.MaxPool2d(2)),
            *(
                *convolution(channels, 2 * channels),
                *convolution(2 * channels, 2 * channels),
                nn.MaxPool2d(2),
            ),
            *(nn.Flatten(), nn.Linear(2 * channels * 2 * 2, DIM)),
        )


def voices(seed: int) -> Task:
    """Return features of synthetic recordings of 2 s: ten speakers, six sessions each, the last of them held out."""
    shape = synthetic.Shape(SPEAKERS, SESSIONS, UTTERANCES, duration_s=(2.0, 2.0), seed=seed)
    places = np.ndindex(SPEAKERS, SESSIONS, UTTERANCES)
    waveform = torch.from_numpy(np.stack([synthetic.recording(shape, *place) for place in places])).float()
    frontend = features.build(FeatureConfig(num_mels=40))
    inputs, _ = frontend(waveform, torch.full((len(waveform),), waveform.shape[1]))
    speaker, session, _ = np.indices((SPEAKERS, SESSIONS, UTTERANCES)).reshape(3, -1)
    held_out = torch.from_numpy(session == SESSIONS - 1)
    trained = inputs[~held_out].unflatten(0, (SPEAKERS, -1))
    labels = torch.arange(SPEAKERS).repeat_interleave(PER_SPEAKER)

    def batch() -> tuple[Tensor, Tensor]:
        drawn = torch.rand(trained.shape[:2]).argsort(dim=1)[:, :PER_SPEAKER].flatten()
        start = int(torch.randint(trained.shape[2] - CROP_FRAMES + 1, ()))
        return trained[labels, drawn, start : start + CROP_FRAMES], labels

    return Task(inputs, torch.from_numpy(speaker), held_out, lambda: VoiceNetwork(inputs.shape[2]), batch)


class VoiceNetwork(nn.Module):
    """Two convolutions over time, mean and deviation, and an embedding."""

    def __init__(self, num_mels: int, channels: int = 48):
        super().__init__()
        self.frames = nn.Sequential(
            *(nn.Conv1d(num_mels, channels, 5, stride=3), nn.ReLU(), nn.BatchNorm1d(channels)),
            *(nn.Conv1d(channels, channels, 5, stride=3), nn.ReLU(), nn.BatchNorm1d(channels)),
        )
        self.embedding = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.BatchNorm1d(channels), nn.Linear(channels, DIM)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, 3) of features (B, frames, mels)."""
        maps = self.frames(frames.transpose(1, 2))
        embeddings: Tensor = self.embedding(torch.cat([maps.mean(dim=2), maps.std(dim=2)], dim=1))
        return embeddings
