"""What every training loss shares: checks, precision, class weights, cross-entropy and accuracy.

A classification head is a `CosineHead` that says only which cosines change before the softmax (`replaced`);
what is not a softmax over cosines derives from `Head` and computes its own `loss`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.errors import InputError

# A vector shorter than this counts as having little direction: its cosines shrink towards 0, and the gradient
# that reaches it stays below scale / NORM_FLOOR, finite in float16 too. Trained embeddings are far longer.
NORM_FLOOR = 1e-2


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `InputError` naming the key `head.<name>`, its value and what is allowed, unless it `holds`."""
    if not holds:
        raise InputError(f"head.{name}: found {value!r}, expected {allowed}")


def lengths(vectors: Tensor) -> Tensor:
    """Return the Euclidean norms (N, 1) of vectors (N, D); the gradient at a zero vector is zero."""
    return torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) at length 1; those shorter than `NORM_FLOOR` are only divided by it."""
    return vectors / lengths(vectors).clamp_min(NORM_FLOOR)


class Head(nn.Module):
    """A training loss over embeddings: `head(embeddings, labels) -> (loss, cosines)`.

    Attributes:
        margin_fraction: share of the margin in force, 0 to 1; the trainer sets it before every step.
        needs_balanced_batches: whether every speaker of a batch must come with two utterances or more.
    """

    needs_balanced_batches: bool = False

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__()
        if embedding_dim < 1:
            raise InputError(f"embedding_dim: found {embedding_dim}, expected 1 or more")
        if num_speakers < 2:
            raise InputError(f"number of training speakers: found {num_speakers}, expected 2 or more")
        self.embedding_dim, self.num_speakers = embedding_dim, num_speakers
        self.margin_fraction: float = 1.0

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss over the batch, and the cosines that the training accuracy is read off.

        Everything runs in float32 whatever autocast says (in float64 where the embeddings are).

        Args:
            embeddings: (B, embedding_dim), any floating type.
            labels: int64 (B,), each in 0..num_speakers-1.

        Returns:
            The scalar loss, and plain cosines (B, num_speakers) without margin and without gradient.

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
        """Return what `forward` returns, for checked arguments in float32 or float64."""
        raise NotImplementedError

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the share (scalar float32) of the batch whose own class has the greatest cosine."""
        return (cosines.argmax(dim=1) == labels).float().mean()


class ClassifierHead(Head):
    """A head that owns one weight vector a class (or several: `rows_per_class`).

    Weights start as Glorot & Bengio's (2010) uniform draw, as WeSpeaker's do.
    """

    def __init__(self, embedding_dim: int, num_speakers: int, rows_per_class: int = 1):
        super().__init__(embedding_dim, num_speakers)
        self.weight = nn.Parameter(torch.empty(num_speakers * rows_per_class, embedding_dim))
        nn.init.xavier_uniform_(self.weight)


class CosineHead(ClassifierHead):
    """Softmax over scaled cosines to unit class weights, some cosines replaced beforehand.

    As it stands it replaces nothing: NormFace with a `scale`, modified softmax with `scale=None`, where the
    length of the embedding takes the scale's place.
    """

    def __init__(self, embedding_dim: int, num_speakers: int, scale: float | None, rows_per_class: int = 1):
        require(scale is None or 0 < scale < float("inf"), "scale", scale, "a number > 0")
        super().__init__(embedding_dim, num_speakers, rows_per_class)
        self.scale = scale

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosines (B, num_speakers) between embeddings (B, D) and classes."""
        return F.linear(unit(embeddings), unit(self.weight.to(embeddings.dtype)))

    def target(self, cosine: Tensor) -> Tensor:
        """Return what stands in for the cosine to the own class, any shape."""
        return cosine

    def replaced(self, cosines: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns (B, k) whose cosines change, and the values (B, k) that they change to."""
        own = labels[:, None]
        return own, self.target(cosines.gather(1, own))

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        cosines = self.cosines(embeddings)
        scale = lengths(embeddings) if self.scale is None else self.scale
        columns, values = self.replaced(cosines, labels)
        # Writing the few changed logits in place saves a second (B, C) matrix beside the scaled one.
        logits = (cosines * scale).scatter_(1, columns, values * scale)
        return F.cross_entropy(logits, labels), cosines.detach()
