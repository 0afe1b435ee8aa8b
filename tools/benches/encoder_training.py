"""A training step of an encoder, forward and backward: 32 crops of 2 s."""

import copy
import functools

import torch

from speakerverif.models._cpu.swap import accelerate
from tools.benches._case import Case, Work, product
from tools.benches._models import MODELS


def _step(model: torch.nn.Module, features: torch.Tensor) -> Work:
    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(features).square().mean().backward()

    return run


def _case(threads: int, name: str) -> Case:
    torch.manual_seed(0)
    models = MODELS[name]()
    features = torch.randn(32, 200, 80)
    plain = copy.deepcopy(models.ours)
    accelerate(models.ours)  # as training on a CPU does
    work = models.works(lambda model: _step(model, features))
    ours = work.pop("ours")
    work["plain layers"] = _step(plain, features)
    total = models.gflop(features, _step)
    limits = {"product": product(total)}
    if models.width is not None:
        limits["product of its size"] = product(total, 32 * 200, models.width)
    return Case(ours, work, limits)


CASES = {f"{name}, 32 x 2 s": functools.partial(_case, name=name) for name in MODELS}
