"""The contract of scoring back ends."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.scoring import backends
from speakerverif.testing._checking import checking, described, name_of, require, require_refusal


def check_backend(module: ModuleType | str, settings: Mapping[str, Any] | None = None) -> None:
    """Check that a scoring back end keeps its contract; well under a second.

    `build(config)` returns a `scoring.backends.Backend`. Fitted on 40 speakers with 6 utterances each, of 5
    dimensions, it scores targets above non-targets, in float64; the order of the trials and the other trials in a call
    don't matter; a model of several utterances is one score; saved and loaded arrays give the same scores.

    Args:
        module: the back end's module, or its name as in a recipe.
        settings: keys of its `Config` that differ from the defaults.

    Raises:
        InputError: a broken promise, named.
    """
    name = name_of("backend", module)
    rng = np.random.default_rng(0)

    def draw(speakers: int, each: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        owner = np.repeat(np.arange(speakers), each)
        offsets = rng.normal(size=(speakers, 5)) * np.sqrt(np.linspace(2, 0.5, 5))
        return (offsets[owner] + rng.normal(size=(len(owner), 5))).astype(np.float32), owner

    with checking(f"back end {name}"):
        backend = backends.build({"name": name, **(settings or {})})
        require(
            isinstance(backend, backends.Backend),
            f"build: expected a speakerverif.scoring.backends.Backend, found {described(backend)}",
        )
        vectors, _ = draw(20, 2)
        enroll, test = vectors[::2], vectors[1::2]
        i, j = (side.ravel() for side in np.indices((20, 20)))
        if backend.needs_training:
            require_refusal("scoring before training", lambda: backend.score(enroll, test, i, j))
        backend.fit(*draw(40, 6))
        scores = backend.score(enroll, test, i, j)
        require(
            isinstance(scores, np.ndarray) and scores.shape == i.shape and scores.dtype == np.float64,
            f"expected scores float64 of shape {i.shape}, found {described(scores)}",
        )
        require(bool(np.isfinite(scores).all()), "scores are not finite")
        require(
            scores[i == j].mean() > scores[i != j].mean() + 0.2 * scores.std(), "targets don't score higher"
        )
        order = rng.permutation(len(i))[:50]
        require(
            np.allclose(backend.score(enroll, test, i[order], j[order]), scores[order], rtol=1e-9, atol=1e-9),
            "a trial's score depends on the other trials, or on their order",
        )
        models = backend.score(vectors, test, i, j, np.full(20, 2))
        require(models.shape == i.shape, f"enroll_counts: expected {len(i)} scores, found {models.shape}")
        with tempfile.TemporaryDirectory() as scratch:
            backend.save(Path(scratch) / "backend.npz")
            other = backends.build({"name": name, **(settings or {})})
            other.load(Path(scratch) / "backend.npz")
        require(
            np.array_equal(other.score(enroll, test, i, j), scores), "saved and loaded, it scores otherwise"
        )
