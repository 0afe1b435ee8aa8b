"""Modified softmax: softmax over ||x|| cos(theta_j), with unit class weights and without bias."""

from dataclasses import dataclass

from speakerverif.heads._base import CosineHead


@dataclass(frozen=True)
class Config:
    """Modified softmax has no settings."""


class ModifiedSoftmax(CosineHead):
    """Softmax over cosines, scaled by the length of each embedding.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.

    Source:
        Liu, Wen, Yu, Li, Raj, Song, "SphereFace", 2017, arXiv 1704.08063, sec. 3.1.
    """

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__(embedding_dim, num_speakers, scale=None)


def build(config: Config, embedding_dim: int, num_speakers: int) -> ModifiedSoftmax:
    """Return the head."""
    return ModifiedSoftmax(embedding_dim, num_speakers)
