"""Embeddings as a step of a scikit-learn pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from speakerverif.api.model import load_model
from speakerverif.inference.engines import Engine
from speakerverif.inference.recordings import Recording


class EmbeddingTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Recordings to embeddings, float32 (N, dim); nothing is fitted, `fit` loads the model.

    Args:
        model: what `load_model` takes.
        device: "cpu" or "cuda".
        sample_rate: Hz, where recordings are samples in memory.
        engine: "auto", "torch" or "onnx".
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "cpu",
        sample_rate: int | None = None,
        engine: Engine = "auto",
    ) -> None:
        self.model = model
        self.device = device
        self.sample_rate = sample_rate
        self.engine = engine

    def fit(self, recordings: Sequence[Recording], y: Any = None) -> "EmbeddingTransformer":
        """Load the model."""
        self.model_ = load_model(self.model, self.device, self.engine)
        return self

    def transform(self, recordings: Sequence[Recording]) -> np.ndarray:
        """Return the embedding of every recording; see `Model.embed`."""
        return self.model_.embed(list(recordings), self.sample_rate)
