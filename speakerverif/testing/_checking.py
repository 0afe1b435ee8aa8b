"""What the checks share: errors that name the broken promise, comparisons, saving and loading."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from speakerverif._util import registry
from speakerverif.errors import InputError
from speakerverif.models.weights import plain


def name_of(kind: registry.Kind, module: ModuleType | str) -> str:
    """Return the name of a module as a recipe gives it; whoever names it here trusts it."""
    name = module if isinstance(module, str) else module.__name__
    registry.trust([name])
    return name.removeprefix(f"{registry.PACKAGES[kind]}.")


@contextmanager
def checking(what: str) -> Iterator[None]:
    """Name the part in errors, and leave torch's random state and settings as they were."""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:  # whatever its code raises
        raise InputError(f"{what}: {registry.place_of(error)}{type(error).__name__}: {error}") from error


def require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def require_equal(found: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    difference = float(
        (found - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-12)
    )
    require(difference <= tolerance, f"{message} (relative difference {difference:.2g})")


def require_gradients(module: nn.Module, where: str = "") -> None:
    for key, parameter in module.named_parameters():
        require(parameter.grad is not None, f"{where}parameter {key} gets no gradient")
        finite = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        require(finite, f"{where}parameter {key} gets a gradient that is not finite")


def require_refusal(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except InputError:
        return
    raise InputError(f"{what}: expected an InputError, and there is none")


def check_saving(module: nn.Module, other: nn.Module, *inputs: Tensor) -> None:
    """Check that `other`, with the saved weights of `module`, computes the same to the last bit."""
    with torch.no_grad():
        other.load_state_dict(load(save(plain(module.state_dict()))))
        for found, expected in zip(_tensors(other(*inputs)), _tensors(module(*inputs)), strict=True):
            require(torch.equal(found, expected), "saved and loaded, it computes something else")


def _tensors(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def described(value: object) -> str:
    """Return a value's type, and a tensor's precision and shape, for messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
