"""A training step of an encoder, forward and backward: 32 crops of 2 s."""

import functools

import torch

from benches._case import Case, Work, gflop, product
from benches._models import MODELS


def _step(model: torch.nn.Module, features: torch.Tensor) -> Work:
    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(features).square().mean().backward()

    return run


def _case(threads: int, name: str) -> Case:
    torch.manual_seed(0)
    features = torch.randn(32, 200, 80)
    work = {system: _step(model, features) for system, model in MODELS[name]().items()}
    ours = work.pop("ours")
    return Case(ours, work, {"product": product(gflop(work.get("speechbrain", ours)))})


CASES = {f"{name}, 32 x 2 s": functools.partial(_case, name=name) for name in MODELS}
