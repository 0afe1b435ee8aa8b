"""Modified softmax: softmax over ||x|| cos(theta_j), that is with unit class weights and no bias."""

from dataclasses import dataclass

from speakerverif.heads._base import CosineHead


@dataclass(frozen=True)
class Config:
    """Modified softmax has nothing to set."""


def build(config: Config, embedding_dim: int, num_speakers: int) -> CosineHead:
    """Return the head.

    Source:
        Liu, Wen, Yu, Li, Raj, Song, "SphereFace", 2017, arXiv 1704.08063, sec. 3.1.
    """
    return CosineHead(embedding_dim, num_speakers, scale=None)
