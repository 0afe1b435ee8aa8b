"""The base classes of training losses: checks, precision, class weights, cross-entropy and accuracy.

A softmax over cosines derives from `CosineHead` and says only which cosines change (`target`, `replaced`); any other
loss derives from `Head` and computes its own `loss`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.errors import InputError

# Vectors shorter than this are divided by it instead of by their length: their cosines shrink towards 0, and their
# gradient stays below scale / NORM_FLOOR, finite in float16 too. Trained embeddings are far longer.
NORM_FLOOR = 1e-2


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `InputError` with the key `head.<name>`, its value and the allowed values, unless the condition `holds`."""
    if not holds:
        raise InputError(f"head.{name}: found {value!r}, expected {allowed}")


def lengths(vectors: Tensor) -> Tensor:
    """Return the Euclidean norms (N, 1) of vectors (N, D); the gradient at a zero vector is zero."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return norms


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) divided by their lengths, or by `NORM_FLOOR` where they are shorter."""
    return F.normalize(vectors, dim=1, eps=NORM_FLOOR)


class Head(nn.Module):
    """A training loss over embeddings: `head(embeddings, labels) -> (loss, cosines)`.

    Attributes:
        margin_fraction: share of the margin in force, 0 to 1; the training loop sets it before each step.
        needs_balanced_batches: whether a batch must hold two or more utterances of each of its speakers.
        counts_each_alone: whether the loss of a batch is the mean of the losses of its utterances, each by itself.
    """

    needs_balanced_batches: bool = False
    counts_each_alone: bool = True

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__()
        if embedding_dim < 1:
            raise InputError(f"embedding_dim: found {embedding_dim}, expected 1 or more")
        if num_speakers < 2:
            raise InputError(f"number of training speakers: found {num_speakers}, expected 2 or more")
        self.embedding_dim, self.num_speakers = embedding_dim, num_speakers
        self.margin_fraction: float = 1.0

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss over the batch, and the cosines that the training accuracy is computed from.

        Computed in float32 even under autocast (in float64 for float64 embeddings).

        Args:
            embeddings: (B, embedding_dim), any floating type.
            labels: int64 (B,), each in 0..num_speakers-1.

        Returns:
            The loss, a scalar, and the cosines (B, num_speakers) without margin, scale and gradient.

        Raises:
            InputError: wrong embedding width, or a label out of range.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise InputError(
                f"embeddings: found shape {tuple(embeddings.shape)}, expected (B, {self.embedding_dim})"
            )
        if labels.dtype != torch.int64 or labels.shape != embeddings.shape[:1] or not len(labels):
            raise InputError(
                f"labels: found {labels.dtype} of shape {tuple(labels.shape)}, "
                f"expected int64 of shape ({len(embeddings)},), at least one"
            )
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high >= self.num_speakers:
            raise InputError(f"label {low if low < 0 else high}: expected 0..{self.num_speakers - 1}")
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.loss(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), labels)

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `forward` for checked arguments in float32 or float64; each head has its own."""
        raise NotImplementedError

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the share (scalar float32) of utterances whose own class has the greatest cosine."""
        return (cosines.argmax(dim=1) == labels).float().mean()


class ClassifierHead(Head):
    """A head with one weight vector per class, or several (`rows_per_class`).

    Initial weights are drawn uniformly as by Glorot and Bengio (2010), as in WeSpeaker.
    """

    def __init__(self, embedding_dim: int, num_speakers: int, rows_per_class: int = 1):
        super().__init__(embedding_dim, num_speakers)
        self.weight = nn.Parameter(torch.empty(num_speakers * rows_per_class, embedding_dim))
        nn.init.xavier_uniform_(self.weight)


class CosineHead(ClassifierHead):
    """Softmax over scaled cosines to unit class weights, after some cosines are replaced.

    The base class replaces none: it is NormFace with a `scale`, and modified softmax with `scale=None`, where the
    length of each embedding takes the place of the scale.
    """

    def __init__(self, embedding_dim: int, num_speakers: int, scale: float | None, rows_per_class: int = 1):
        require(scale is None or 0 < scale < float("inf"), "scale", scale, "a number > 0")
        super().__init__(embedding_dim, num_speakers, rows_per_class)
        self.scale = scale

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosines (B, num_speakers) between embeddings (B, D) and classes."""
        return F.linear(unit(embeddings), unit(self.weight.to(embeddings.dtype)))

    def target(self, cosine: Tensor) -> Tensor:
        """Return the value that replaces the cosine to the right class, any shape."""
        return cosine

    def replaced(self, cosines: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns (B, k) whose cosines are replaced, and the new values (B, k)."""
        column = labels[:, None]
        return column, self.target(cosines.gather(1, column))

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        cosines = self.cosines(embeddings)
        scale = lengths(embeddings) if self.scale is None else self.scale
        columns, values = self.replaced(cosines, labels)
        # Writing the few changed logits in place saves a second (B, C) matrix beside the scaled one.
        logits = (cosines * scale).scatter_(1, columns, values * scale)
        return F.cross_entropy(logits, labels), cosines.detach()
