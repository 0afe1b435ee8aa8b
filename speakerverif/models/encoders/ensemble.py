"""Several encoders as one: their embeddings concatenated, each of unit length.

The cosine of two such embeddings is the mean of the members' cosines, so this is score fusion with equal weights, by
plain cosine scoring. A whitened copy may be appended: a linear layer, fitted after training by `tools/join_models.py`,
scales down the directions in which one speaker's recordings differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Config:
    """The members' `[encoder]` tables by name; all get the same features."""

    members: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"a": {"name": "ecapa"}, "b": {"name": "xvector"}}
    )
    whiten: bool = False


class Ensemble(nn.Module):
    """The encoder; `embedding_dim` is the sum of the members' dimensions, twice that with whitening.

    Args:
        members: encoders, by name.
        whiten: whether a whitened copy of the embeddings is appended; until that is fitted, it is an unchanged copy.
    """

    def __init__(self, members: Mapping[str, nn.Module], whiten: bool) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members)
        dims: list[int] = [member.embedding_dim for member in members.values()]  # type: ignore[misc]
        dim = sum(dims)
        self.whitening = unchanged(dim) if whiten else None
        self.embedding_dim = dim * (2 if whiten else 1)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        embeddings = self.side_by_side(features, num_frames)
        if self.whitening is None:
            return embeddings
        return torch.cat([embeddings, F.normalize(self.whitening(embeddings), dim=1)], 1)

    def side_by_side(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Return the members' embeddings, concatenated: `(B, sum of dimensions)`, equal lengths, total length 1."""
        embeddings = [F.normalize(member(features, num_frames), dim=1) for member in self.members.values()]
        return F.normalize(torch.cat(embeddings, 1), dim=1)


def unchanged(dim: int) -> nn.Linear:
    """Return the linear layer that is the identity."""
    layer = nn.Linear(dim, dim)
    # Not by nn.init.eye_: on the meta device it imports torch's compiler, which takes seconds.
    with torch.no_grad():
        layer.weight.zero_().fill_diagonal_(1)
        layer.bias.zero_()
    return layer


def build(config: Config, num_mels: int, members: Mapping[str, nn.Module]) -> Ensemble:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return Ensemble(members, config.whiten)
