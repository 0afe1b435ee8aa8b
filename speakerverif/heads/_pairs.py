"""Losses between the utterances of one batch, without class weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.errors import InputError
from speakerverif.heads._base import Head, unit


class PairHead(Head):
    """A loss between the utterances of one batch, which must hold two or more of each of two or more speakers.

    The cosines that it returns are (B, S), for the S speakers of the batch in rising order of label: between each
    utterance and the mean unit embedding of each speaker, that of its own speaker without the utterance itself.
    """

    needs_balanced_batches = True
    counts_each_alone = False

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        speakers, row, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        if len(speakers) < 2 or int(counts.min()) < 2:
            lacking = (
                "one speaker"
                if len(speakers) < 2
                else f"one utterance of speaker {speakers[counts.argmin()]}"
            )
            raise InputError(
                f"a batch holds only {lacking}: this head needs two or more utterances of each of two or more "
                "speakers; set train.speakers_per_batch to 2 or more, at most half of train.batch_size"
            )
        vectors = unit(embeddings)
        cosines = cosines_to_means(vectors, row, counts)
        return self.batch_loss(embeddings, vectors, row, cosines), cosines.detach()

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: (B, D).
            vectors: (B, D), the embeddings at length 1.
            row: int64 (B,), the index of each utterance's speaker among the S of the batch.
            cosines: (B, S), as `PairHead` describes them, with their gradient.
        """
        raise NotImplementedError

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the share (scalar float32) of utterances nearest to the mean of their speaker's others."""
        return super().accuracy(cosines, torch.unique(labels, return_inverse=True)[1])


def cosines_to_means(vectors: Tensor, row: Tensor, counts: Tensor) -> Tensor:
    """Return the cosines (B, S) of unit vectors (B, D) to each speaker's mean, without the vector itself."""
    sums = vectors.new_zeros(len(counts), vectors.shape[1]).index_add_(0, row, vectors)
    means = sums / counts[:, None]
    without_self = unit((sums[row] - vectors) / (counts[row, None] - 1))
    own_cosines = (vectors * without_self).sum(dim=1, keepdim=True)
    return F.linear(vectors, unit(means)).scatter(1, row[:, None], own_cosines)


def same_speaker(row: Tensor) -> tuple[Tensor, Tensor]:
    """Return bool (B, B) twice: the pairs of different utterances of one speaker, and the pairs of two speakers."""
    same = row[:, None] == row
    return same & ~torch.eye(len(row), dtype=torch.bool, device=row.device), ~same
