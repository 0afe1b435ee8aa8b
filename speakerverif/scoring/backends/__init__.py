"""Scoring back ends, one per file: the score of two sides' embeddings."""

from typing import Any

from speakerverif._util import registry
from speakerverif.scoring.backends._linear import Backend, LinearCosine

__all__ = ["Backend", "LinearCosine", "build"]


def build(table: dict[str, Any]) -> Backend:
    """Return the back end of a recipe's `[backend]` table, not trained yet.

    Raises:
        InputError: unknown name, key or value; the alternatives are named.
    """
    module, config = registry.resolve("backend", table)
    backend: Backend = module.build(config)
    return backend
