"""Speaker verification: is this the same person speaking?"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speakerverif.api.model import Model, load_model
    from speakerverif.api.transformer import EmbeddingTransformer
    from speakerverif.errors import InputError
    from speakerverif.inference.calibrate_list import calibrate_list
    from speakerverif.inference.calibrate_people import calibrate_people
    from speakerverif.inference.score_list import score_list

__version__ = "0.1.0"
# Messages are shown only by programs that ask for them; the command line does.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "EmbeddingTransformer",
    "InputError",
    "Model",
    "calibrate_list",
    "calibrate_people",
    "load_model",
    "score_list",
]

_HOME = {
    "EmbeddingTransformer": "api.transformer",
    "InputError": "errors",
    "Model": "api.model",
    "calibrate_list": "inference.calibrate_list",
    "calibrate_people": "inference.calibrate_people",
    "load_model": "api.model",
    "score_list": "inference.score_list",
}


def __getattr__(name: str) -> Any:
    """Return a public name from the module it lives in, imported now: the package alone brings no torch in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
