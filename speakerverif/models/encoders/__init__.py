"""Encoders: features (batch, frames, mels) to embeddings (batch, dim), one network per file."""

from typing import TYPE_CHECKING, Any

from speakerverif._util import registry
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def build(table: dict[str, Any], num_mels: int) -> "nn.Module":
    """Return the encoder that a recipe's `[encoder]` table describes.

    An encoder whose table holds tables of `members` is built from them.

    Raises:
        InputError: unknown name, key or value (the alternatives are named), values that contradict each other, or an
            ensemble without members.
    """
    module, config = registry.resolve("encoder", table)
    if not hasattr(config, "members"):
        try:
            network: nn.Module = module.build(config, num_mels)
        except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"[encoder] {table['name']}: its values don't go together with {num_mels} mel bands: {error}"
            ) from error
        return network
    if not config.members:
        raise InputError(f"[encoder] {table['name']}: expected encoders in [encoder.members.NAME]")
    members = {name: build(member, num_mels) for name, member in config.members.items()}
    return module.build(config, num_mels, members)
