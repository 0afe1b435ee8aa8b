"""Scoring back ends: embeddings of two sides to a score, one a file."""

from typing import Any

from speakerverif._util import registry


def build(table: dict[str, Any]) -> Any:
    """Return the back end of a recipe's `[backend]` table, not trained yet.

    Raises:
        InputError: unknown name, key or value; the alternatives are named.
    """
    module, config = registry.resolve("backend", table)
    return module.build(config)
