"""WeSpeaker's poolings under its tensor names, `pool.*`, which all of its networks share."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speakerverif.models.pooling import Pooling

State = Mapping[str, Tensor]


class PoolingLayout(NamedTuple):
    """A pooling of WeSpeaker in our terms.

    Attributes:
        name: our name.
        vectors: how many vectors of the frames' width it gives.
        modules: their names of its modules and tensors -> ours.
    """

    name: Pooling
    vectors: int
    modules: dict[str, str]


# Its name in a configuration -> ours, where no tensor tells which it is.
WITHOUT_WEIGHTS: dict[str, Pooling] = {"TSTP": "statistics", "TAP": "average", "TSDP": "deviation"}
WITH_WEIGHTS: dict[Pooling, str] = {"attentive": "ASTP", "multi_query": "MQMHASTP", "xi": "XI"}
XI = {
    "pool.lin1_relu_bn.0": "pooling.hidden",
    "pool.lin1_relu_bn.2": "pooling.norm",
    "pool.lin2": "pooling.precision",
    "pool.prior_mean": "pooling.prior_mean",
    "pool.prior_logprec": "pooling.prior_log_precision",
}
QUERIES = 2  # of its multi-query pooling, as `models.pooling.build` makes it
HEAD = re.compile(r"pool\.n_query\.(\d+)\.heads_att_trans\.(\d+)\.att_([01])\.(weight|bias)")


def pooling_layout(state: State) -> PoolingLayout:
    """Return the pooling that the tensors show; "statistics" where it has no weights, whichever of those it is."""
    if "pool.linear1.weight" in state:
        return PoolingLayout(
            "attentive", 2, {"pool.linear1": "pooling.hidden", "pool.linear2": "pooling.logits"}
        )
    if "pool.prior_mean" in state:
        return PoolingLayout("xi", 1, XI)
    if "pool.hidden.weight" in state:
        return PoolingLayout(
            "multi_query",
            2 * QUERIES,
            {"pool.hidden": "pooling.hidden", "pool.logits": "pooling.logits"},
        )
    return PoolingLayout("statistics", 2, {})


def joined_heads(state: State) -> State:
    """Return the tensors with the layers of a multi-query pooling's heads joined into grouped convolutions.

    Theirs are one small layer for each query and head; ours are in the order of heads and, within each, of queries.
    """
    heads = {name: match.groups() for name in state if (match := HEAD.fullmatch(name)) is not None}
    parts: dict[str, dict[tuple[int, int], Tensor]] = {}
    for name, (query, head, layer, leaf) in heads.items():
        joined = f"pool.{('hidden', 'logits')[int(layer)]}.{leaf}"
        parts.setdefault(joined, {})[int(head), int(query)] = state[name]
    if any(len({tensor.shape for tensor in tensors.values()}) > 1 for tensors in parts.values()):
        return state
    rest = {name: tensor for name, tensor in state.items() if name not in heads}
    return rest | {
        name: torch.cat([tensors[at] for at in sorted(tensors)]) for name, tensors in parts.items()
    }


def configured_pooling(
    layout: PoolingLayout, settings: Mapping[str, Any], default: str
) -> tuple[Pooling, str | None]:
    """Return our name of a configuration's pooling, and what is wrong with it, or None.

    Args:
        layout: what the tensors show.
        settings: the configuration's `model_args`.
        default: the model's own pooling, where the configuration names none.
    """
    expected = WITH_WEIGHTS.get(layout.name)
    theirs = settings.get("pooling_func", expected or default)
    if expected is None and theirs in WITHOUT_WEIGHTS:
        return WITHOUT_WEIGHTS[theirs], None
    if theirs == expected:
        return layout.name, None
    alternatives = expected or "TSTP, TAP or TSDP, which have no weights"
    return layout.name, f"model_args.pooling_func {theirs!r}: expected {alternatives}"
