"""A table in a recipe, `{name = "ecapa", channels = 512}`, becomes a module.

Every file of `encoders/`, `heads/` and `backends/` is found by its name: a new idea is one new file.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, Any

from speakerverif.config import from_dict, nearest
from speakerverif.errors import InputError

if TYPE_CHECKING:  # scoring with a back end needs no torch
    from torch import nn

    from speakerverif.heads._base import Head


def names(folder: str) -> list[str]:
    """Return the names that `folder` ("encoders", "heads" or "backends") offers, sorted."""
    package = importlib.import_module(f"speakerverif.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def encoder(table: dict[str, Any], num_mels: int) -> "nn.Module":
    """Return the encoder that a recipe's `[encoder]` table describes: features (B, T, mels) to (B, dim).

    An encoder whose own table holds tables of `members` is built of those.

    Raises:
        InputError: unknown name, key or value; the alternatives are named; an ensemble of nobody.
    """
    module, config = _resolve("models.encoders", table)
    if not hasattr(config, "members"):
        return module.build(config, num_mels)
    if not config.members:
        raise InputError(f"[encoder] {table['name']}: expected encoders in [encoder.members.NAME]")
    members = {name: encoder(member, num_mels) for name, member in config.members.items()}
    return module.build(config, num_mels, members)


def head(table: dict[str, Any], embedding_dim: int, num_speakers: int) -> "Head":
    """Return the training head of a recipe's `[head]` table, for `num_speakers` classes.

    Raises:
        InputError: as `encoder`, and for values out of range.
    """
    module, config = _resolve("heads", table)
    return module.build(config, embedding_dim, num_speakers)


def backend(table: dict[str, Any]) -> Any:
    """Return the scoring back end of a `[backend]` table.

    Raises:
        InputError: as `encoder`.
    """
    module, config = _resolve("scoring.backends", table)
    return module.build(config)


def _resolve(folder: str, table: dict[str, Any]) -> tuple[ModuleType, Any]:
    """Return the module that `table["name"]` picks and its `Config` filled from the other keys."""
    where = f"[{folder.rpartition('.')[2].removesuffix('s')}]"
    known = names(folder)
    name = table.get("name")
    if name not in known:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(str(name), known)}")
    module = importlib.import_module(f"speakerverif.{folder}.{name}")
    options = {key: value for key, value in table.items() if key != "name"}
    return module, from_dict(module.Config, options, f"{where} {name}")
