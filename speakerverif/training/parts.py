"""Parts of the networks in training: frozen ones, learning rates of parts, the head's first epochs, low-rank changes.

A part is named by the beginning of its parameters' names: `encoder`, `encoder.blocks.0`, `head`.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from speakerverif._util.messages import nearest
from speakerverif.config import LoraConfig, TrainConfig
from speakerverif.errors import InputError


class LowRank(nn.Module):
    """A weight matrix (M, N) plus a learnt change of low rank, which starts at zero.

    Source: Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4.1.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, 5**0.5)
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)


def check(config: TrainConfig, encoder: nn.Module, head: nn.Module) -> None:
    """Raise `InputError` where a recipe names a part that the networks don't have, or that can't be trained so."""
    parameters = [name for name, _ in _parameters(encoder, head)]
    modules = [f"encoder.{name}" for name, _ in encoder.named_modules() if name]
    for key, parts in (("freeze", config.freeze), ("rates", tuple(config.rates))):
        for part in parts:
            if not any(_is_in(name, part) for name in parameters):
                raise InputError(
                    f"train.{key}: the networks have no part {part!r} that learns; "
                    f"{nearest(part, ['encoder', 'head', *modules, *parameters])}"
                )
    if config.accumulate > 1 and not getattr(head, "counts_each_alone", True):
        raise InputError(
            f"train.accumulate: found {config.accumulate}, expected 1: the head {type(head).__name__} needs the "
            "whole batch at once"
        )
    if config.lora.rank and not any(_lora_layers(encoder, config.lora)):
        raise InputError(
            f"train.lora: no linear layer of the encoder is named {', '.join(config.lora.layers)}; it is for encoders "
            "with attention"
        )
    if all(any(_is_in(name, part) for part in config.freeze) for name in parameters):
        raise InputError(f"train.freeze: found {list(config.freeze)}, which is all; nothing would learn")


def add_low_rank_changes(encoder: nn.Module, config: LoraConfig) -> None:
    """Give the recipe's attention layers low-rank changes, and freeze their weights."""
    for layer in list(_lora_layers(encoder, config)):
        change = LowRank(layer.weight, config.rank, config.alpha)
        parametrize.register_parametrization(layer, "weight", change)
        layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model whose low-rank changes, if it has any, are added to its weights."""
    tensors = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            layer = name.partition(".parametrizations.")[0]
            for part in [
                tensor for tensor in tensors if tensor.startswith(f"{layer}.parametrizations.weight.")
            ]:
                del tensors[part]
            changed = model.get_submodule(layer)
            assert isinstance(changed, nn.Linear)
            tensors[f"{layer}.weight"] = changed.weight.detach()
    return tensors


def freeze(encoder: nn.Module, head: nn.Module, config: TrainConfig) -> None:
    """Stop the frozen parts from learning; low-rank changes in them go on."""
    for name, parameter in _parameters(encoder, head):
        if any(_is_in(name, part) for part in config.freeze) and ".parametrizations.weight.0." not in name:
            parameter.requires_grad_(False)


def optimizer_groups(encoder: nn.Module, head: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameters that learn in groups of one learning rate, each with its `factor` of that of the recipe."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in _parameters(encoder, head):
        if parameter.requires_grad:
            parts = [part for part in config.rates if _is_in(name, part)]
            factor = float(config.rates[max(parts, key=len)]) if parts else 1.0
            groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def head_alone(config: TrainConfig, epoch: float) -> bool:
    """Return whether only the head learns at `epoch`."""
    return epoch < config.head_epochs


def set_modes(encoder: nn.Module, head: nn.Module, config: TrainConfig, epoch: float) -> None:
    """Put what learns at `epoch` in training mode and the rest in eval mode, where batch norm keeps its statistics."""
    encoder.train(not head_alone(config, epoch))
    head.train()
    for name, module in [*_modules(encoder, "encoder"), *_modules(head, "head")] if config.freeze else []:
        if any(_is_in(name, part) for part in config.freeze):
            module.eval()


def _parameters(encoder: nn.Module, head: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of both networks by the names that recipes use."""
    for part, module in (("encoder", encoder), ("head", head)):
        for name, parameter in module.named_parameters():
            yield f"{part}.{name}", parameter


def _modules(network: nn.Module, part: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's modules by the names that recipes use."""
    for name, module in network.named_modules():
        yield f"{part}.{name}".removesuffix("."), module


def _is_in(name: str, part: str) -> bool:
    """Return whether a name is that of a part, or of something in it."""
    return name == part or name.startswith(f"{part}.")


def _lora_layers(encoder: nn.Module, config: LoraConfig) -> Iterator[nn.Linear]:
    """Yield the linear layers that the recipe names."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.layers:
            yield module
