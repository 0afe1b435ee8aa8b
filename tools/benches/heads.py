"""A step of each head against plain softmax: 17,982 classes, batch 256, dimension 192; with peak memory."""

import functools

import torch

from speakerverif import heads
from speakerverif._util import registry
from tools.benches._case import Case, Work

NUM_CLASSES, BATCH, DIM = 17_982, 256, 192

# The losses on pairs need several utterances of each speaker; the others take any batch.
LABELS = torch.arange(BATCH) // 4


def _step(table: dict[str, object]) -> Work:
    torch.manual_seed(0)
    head = heads.build(table, DIM, NUM_CLASSES)
    embeddings = torch.randn(BATCH, DIM, requires_grad=True)

    def run() -> None:
        for tensor in (embeddings, *head.parameters()):
            tensor.grad = None
        head(embeddings, LABELS)[0].backward()

    return run


def _case(threads: int, table: dict[str, object]) -> Case:
    return Case(_step(table), {"softmax": _step({"name": "softmax"})}, memory=True)


CASES = {
    name: functools.partial(_case, table={"name": name})
    for name in registry.names("head")
    if name != "softmax"
}
