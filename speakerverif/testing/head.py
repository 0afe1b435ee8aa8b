"""The contract of training heads."""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif import heads
from speakerverif.testing._checking import (
    check_saving,
    checking,
    described,
    name_of,
    require,
    require_gradients,
    require_refusal,
)

DIM, SPEAKERS = 6, 8


def check_head(module: ModuleType | str, settings: Mapping[str, Any] | None = None) -> None:
    """Check that a training head keeps its contract; about a second.

    `build(config, embedding_dim, num_speakers)` returns a `heads.Head`, which turns embeddings (batch, embedding_dim)
    and labels int64 (batch,) into a loss and plain cosines. Both are float32, finite for any embeddings and under
    autocast, and so is the gradient of every parameter. The order of the rows doesn't matter, following the gradient
    brings utterances to their speakers, and wrong labels and widths are named.

    Args:
        module: the head's module, or its name as in a recipe.
        settings: keys of its `Config` that differ from the defaults.

    Raises:
        InputError: a broken promise, named.
    """
    name = name_of("head", module)

    def build(dim: int = DIM, speakers: int = SPEAKERS) -> heads.Head:
        torch.manual_seed(0)
        return heads.build({"name": name, **(settings or {})}, dim, speakers)

    with checking(f"head {name}"):
        head = build()
        require(
            isinstance(head, heads.Head),
            f"build: expected a speakerverif.heads.Head, found {described(head)}",
        )
        _check_loss(head)
        _check_extremes(build())
        _check_row_order(build().eval())
        _check_learning(build())
        _check_refusals(build)
        embeddings, labels = utterances()
        head(embeddings, labels)  # moves what a head keeps beside its parameters
        other = build()
        for parameter in other.parameters():
            nn.init.ones_(parameter)
        check_saving(head.eval(), other.eval(), embeddings, labels)


def utterances(dim: int = DIM, speakers: int = 4, each: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return embeddings (batch, dim) of `each` utterances of each speaker, shuffled, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(speakers).repeat_interleave(each)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return 3 * torch.randn(len(labels), dim, generator=generator), labels


def _check_loss(head: heads.Head) -> None:
    embeddings, labels = utterances()
    embeddings.requires_grad_()
    loss, cosines = head(embeddings, labels)
    columns = len(torch.unique(labels)) if head.needs_balanced_batches else SPEAKERS
    require(
        loss.shape == () and loss.dtype == torch.float32 and loss.item() > 0,
        f"expected a loss float32 > 0 without dimensions, found {described(loss)}",
    )
    require(
        cosines.shape == (len(labels), columns) and cosines.dtype == torch.float32,
        f"expected cosines float32 of shape {(len(labels), columns)}, found {described(cosines)}",
    )
    require(not cosines.requires_grad, "the cosines carry a gradient: detach them")
    require(
        float(cosines.abs().max()) <= 1 + 1e-6, "the cosines exceed 1: return them without margin and scale"
    )
    loss.backward()
    require(embeddings.grad is not None and bool(embeddings.grad.any()), "the embeddings get no gradient")
    require_gradients(head)
    accuracy = head.accuracy(cosines, labels)
    require(
        accuracy.shape == () and 0 <= float(accuracy) <= 1,
        f"accuracy: expected a share without dimensions, found {described(accuracy)}",
    )


def _check_extremes(head: heads.Head) -> None:
    """Check embeddings equal and opposite to a class weight, zero, tiny and all alike, in three precisions."""
    weights = [p.detach() for p in head.parameters() if p.ndim == 2 and p.shape[1] == DIM and len(p) >= 4]
    weight = weights[0][:4] if weights else torch.eye(4, DIM)
    same_row = weight[:1].expand(4, DIM)
    cases = {
        "equal to class weights": weight.repeat(2, 1),
        "opposite to class weights": -weight.repeat(2, 1),
        "unit vectors": torch.eye(4, DIM).repeat(2, 1),
        "zero": torch.zeros(8, DIM),
        "of length 1e-7": torch.full((8, DIM), 1e-7),
        "in two opposite directions": torch.cat([same_row, -same_row]),
        "a thousand times as long as others": torch.cat([same_row * 1000, torch.zeros(4, DIM)]),
        "zero among others": torch.cat([torch.zeros(1, DIM), utterances()[0][:7]]),
    }
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    layer = nn.Linear(DIM, DIM, bias=False)
    nn.init.eye_(layer.weight)
    for precision in (torch.float32, torch.bfloat16, torch.float16):
        for case, vectors in cases.items():
            inputs = vectors.clone().requires_grad_()
            head.zero_grad()
            layer.zero_grad()
            with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
                loss, cosines = head(layer(inputs), labels)
            loss.backward()
            assert inputs.grad is not None
            where = f"embeddings {case}, {precision}"
            require(loss.dtype == cosines.dtype == torch.float32, f"{where}: loss or cosines are not float32")
            require(bool(loss.isfinite() and cosines.isfinite().all()), f"{where}: the loss is not finite")
            require(bool(inputs.grad.isfinite().all()), f"{where}: the gradient is not finite")
            require_gradients(layer, f"{where}: ")
            require_gradients(head, f"{where}: ")


def _check_row_order(head: heads.Head) -> None:
    embeddings, labels = utterances()
    # Some losses take each speaker's last row as the query, so each speaker's rows keep their order.
    order = labels.argsort(stable=True)
    loss, cosines = head(embeddings, labels)
    sorted_loss, sorted_cosines = head(embeddings[order], labels[order])
    require(
        torch.allclose(loss, sorted_loss) and torch.allclose(cosines[order], sorted_cosines, atol=1e-6),
        "the order of the rows changes the loss or the cosines",
    )
    rounded = embeddings.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = head(rounded, labels)
    require(
        torch.equal(half, head(rounded.float(), labels)[0]), "under autocast it doesn't compute in float32"
    )


def _check_learning(head: heads.Head) -> None:
    values, labels = utterances()
    embeddings = nn.Parameter(values)
    optimizer = torch.optim.Adam([embeddings, *head.parameters()], lr=0.1)
    first = head(embeddings, labels)[0].item()
    for _ in range(100):
        optimizer.zero_grad()
        order = torch.randperm(len(labels))  # every utterance becomes the query of its speaker
        head(embeddings[order], labels[order])[0].backward()
        optimizer.step()
    loss, cosines = head(embeddings, labels)
    require(
        loss.item() < first / 2 and float(head.accuracy(cosines, labels)) > 0.9,
        f"a hundred steps along the gradient bring the loss from {first:.3g} to {loss.item():.3g} only",
    )


def _check_refusals(build: Callable[..., heads.Head]) -> None:
    embeddings, labels = utterances()
    for label in (-1, SPEAKERS):
        wrong = torch.cat([torch.tensor([label]), labels[1:]])
        require_refusal(f"label {label}", partial(build(), embeddings, wrong))
    require_refusal("embeddings that are too wide", lambda: build()(utterances(DIM + 1)[0], labels))
    require_refusal("a single training speaker", lambda: build(speakers=1))
    require_refusal("embedding_dim 0", lambda: build(dim=0))
