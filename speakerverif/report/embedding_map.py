"""Embeddings of some speakers in two dimensions, to look at."""

import importlib.util
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from speakerverif.data.embeddings import EmbeddingTable

SPEAKERS, EACH = 16, 20


@dataclass(frozen=True)
class Map:
    """Embeddings in two dimensions.

    Attributes:
        method: name and settings of the method, with the version of its package.
        ids: of the recordings.
        owner: the speaker of each recording.
        speakers: distinct, sorted.
        points: float64 (N, 2).
    """

    method: str
    ids: tuple[str, ...]
    owner: tuple[str, ...]
    speakers: tuple[str, ...]
    points: np.ndarray


def lay_out(table: EmbeddingTable, speaker_of: Mapping[str, str], seed: int = 0) -> Map | None:
    """Return a map of up to 20 recordings of each of up to 16 speakers, both drawn by the seed.

    UMAP where umap-learn is installed, else t-SNE where scikit-learn is, else the first two principal
    components. None where fewer than two speakers have two recordings or more.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(table.ids):
        if name in speaker_of:
            rows[speaker_of[name]].append(i)
    several = sorted(speaker for speaker, own in rows.items() if len(own) > 1)
    if len(several) < 2:
        return None
    rng = np.random.default_rng(seed)
    speakers = sorted(rng.permutation(several)[:SPEAKERS].tolist())
    chosen = [(i, s) for s in speakers for i in sorted(rng.permutation(rows[s])[:EACH].tolist())]
    vectors = np.asarray(table.embeddings, np.float64)[[i for i, _ in chosen]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    method, points = _flattened(vectors, seed)
    ids, owner = tuple(table.ids[i] for i, _ in chosen), tuple(s for _, s in chosen)
    return Map(method, ids, owner, tuple(speakers), points)


def _flattened(vectors: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """Return the method that laid out unit vectors (N, dim), and their points (N, 2)."""
    if importlib.util.find_spec("umap"):
        import umap

        near = min(15, len(vectors) - 1)
        layout = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1)
        named = f"UMAP ({near} neighbours, seed {seed}; umap-learn {umap.__version__})"
        return named, np.asarray(layout.fit_transform(vectors), np.float64)
    if importlib.util.find_spec("sklearn"):
        import sklearn
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(vectors) - 1) / 3)
        layout = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
        named = f"t-SNE (perplexity {perplexity:g}, seed {seed}; scikit-learn {sklearn.__version__})"
        return named, np.asarray(layout.fit_transform(vectors), np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of an axis is arbitrary: the largest component is made positive.
    axes = axes[:2] * np.sign(axes[:2][range(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    share = 100 * (spread[:2] ** 2).sum() / (spread**2).sum()
    return f"PCA (first two components, {share:.0f} % of the variance)", centred @ axes.T
