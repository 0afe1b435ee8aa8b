"""The contracts of what a recipe takes from outside, checked before it is trained."""

from speakerverif._util import registry
from speakerverif.config import Recipe
from speakerverif.testing.encoder import check_encoder
from speakerverif.testing.head import check_head

TOLERANCE = 1e-3  # far above rounding, far below what an encoder that ignores num_frames is wrong by


def check_outside_parts(recipe: Recipe) -> None:
    """Check the encoder and the head of a recipe, each where a module from outside this package is part of it.

    Raises:
        InputError: a broken promise, named.
    """
    if registry.dotted_names(recipe.encoder):
        name, settings = _split(recipe.encoder)
        check_encoder(name, settings, num_mels=recipe.features.num_mels, tolerance=TOLERANCE)
    if registry.dotted_names(recipe.head):
        check_head(*_split(recipe.head))


def _split(table: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Return the name in a recipe's table, and its other keys."""
    return str(table["name"]), {key: value for key, value in table.items() if key != "name"}
