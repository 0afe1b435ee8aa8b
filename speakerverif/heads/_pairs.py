"""What the losses on embeddings share: they compare the utterances of a batch, and own no class weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.errors import InputError
from speakerverif.heads._base import Head, unit


class PairHead(Head):
    """A loss between the utterances of one batch, which needs two or more of each of two or more speakers.

    The `cosines` it returns are (B, S), for the S speakers of the batch in rising order of label: those of
    each utterance to each speaker's mean unit embedding, its own speaker's taken without the utterance.
    `accuracy` reads them so.
    """

    needs_balanced_batches = True

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        speakers, row, counts = labels.unique(return_inverse=True, return_counts=True)
        if len(speakers) < 2 or int(counts.min()) < 2:
            found = (
                "one speaker"
                if len(speakers) < 2
                else f"one utterance of speaker {speakers[counts.argmin()]}"
            )
            raise InputError(
                f"a batch holds only {found}: this head needs two or more utterances of each of two or more "
                "speakers; set train.speakers_per_batch to 2 or more, at most half of train.batch_size"
            )
        vectors = unit(embeddings)
        cosines = cosines_to_means(vectors, row, counts)
        return self.batch_loss(embeddings, vectors, row, cosines), cosines.detach()

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            embeddings: (B, D).
            vectors: (B, D), the embeddings at length 1.
            row: int64 (B,), the place of each utterance's speaker among the S of the batch.
            cosines: (B, S), as described above, with their gradient.
        """
        raise NotImplementedError

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the share (scalar float32) of utterances nearest to the mean of their speaker's others."""
        return super().accuracy(cosines, labels.unique(return_inverse=True)[1])


def cosines_to_means(vectors: Tensor, row: Tensor, counts: Tensor) -> Tensor:
    """Return the cosines (B, S) of unit vectors (B, D) to each speaker's mean, without the vector itself."""
    sums = vectors.new_zeros(len(counts), vectors.shape[1]).index_add_(0, row, vectors)
    means = sums / counts[:, None]
    own = unit((sums[row] - vectors) / (counts[row, None] - 1))
    own_cosines = (vectors * own).sum(dim=1, keepdim=True)
    return F.linear(vectors, unit(means)).scatter(1, row[:, None], own_cosines)


def same_speaker(row: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs (B, B) are two utterances of one speaker, and which are of two."""
    same = row[:, None] == row
    return same & ~torch.eye(len(row), dtype=torch.bool, device=row.device), ~same
