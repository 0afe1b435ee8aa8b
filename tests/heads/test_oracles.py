"""Heads against independent arithmetic: naive float64 loops, gradcheck, and pytorch-metric-learning."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speakerverif._util.toml import from_dict

DIM, SPEAKERS = 5, 7


def make(name: str, options: dict[str, Any] | None = None) -> Any:  # the class follows from the name
    module = import_module(f"speakerverif.heads.{name}")
    torch.manual_seed(0)
    return module.build(from_dict(module.Config, options or {}, "head"), DIM, SPEAKERS).double()


def batch(speakers: int = 4, each: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(speakers).repeat_interleave(each)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return 2 * torch.randn(len(labels), DIM, generator=generator, dtype=torch.float64), labels


# Plain Python from here on: lists of floats, arccos where the formula has an angle.


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def norm(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def cos(a: list[float], b: list[float]) -> float:
    return dot(a, b) / norm(a) / norm(b)


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def softmax_loss(logits: list[list[float]], labels: list[int]) -> float:
    """Return the mean cross-entropy."""
    rows = zip(logits, labels, strict=True)
    return sum(math.log(sum(math.exp(z - row[y]) for z in row)) for row, y in rows) / len(labels)


def multiplied(theta: float, m: int) -> float:
    k = min(int(theta * m / math.pi), m - 1)
    return float((-1) ** k * math.cos(m * theta) - 2 * k)


Classifier = Callable[[list[float], list[list[float]], int], list[float]]


def logits_of(kind: str) -> Classifier:
    """Return the function from an embedding, the class weights and the label to the logits, as LOSSES say."""

    def softmax(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return [dot(x, v) for v in w]

    def modified(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return [norm(x) * cos(x, v) for v in w]

    def normface(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return [30 * cos(x, v) for v in w]

    def am(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return [30 * (cos(x, v) - (0.2 if j == y else 0)) for j, v in enumerate(w)]

    def am_lengths(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return [norm(x) * (cos(x, v) - (0.35 if j == y else 0)) for j, v in enumerate(w)]

    def aam(x: list[float], w: list[list[float]], y: int) -> list[float]:
        out = [30 * cos(x, v) for v in w]
        theta = math.acos(cos(x, w[y]))
        out[y] = 30 * (
            math.cos(theta + 0.5) if theta + 0.5 <= math.pi else math.cos(theta) - 0.5 * math.sin(0.5)
        )
        return out

    def aam_easy(x: list[float], w: list[list[float]], y: int) -> list[float]:
        return aam(x, w, y) if cos(x, w[y]) > 0 else normface(x, w, y)

    def l_softmax(x: list[float], w: list[list[float]], y: int) -> list[float]:
        out = softmax(x, w, y)
        out[y] = norm(w[y]) * norm(x) * multiplied(math.acos(cos(x, w[y])), 4)
        return out

    def a_softmax(x: list[float], w: list[list[float]], y: int) -> list[float]:
        out, c = modified(x, w, y), cos(x, w[y])
        out[y] = norm(x) * (5 * c + multiplied(math.acos(c), 3)) / (1 + 5)
        return out

    def sub_center(x: list[float], w: list[list[float]], y: int) -> list[float]:
        nearest = [max(w[2 * j : 2 * j + 2], key=lambda v: cos(x, v)) for j in range(SPEAKERS)]
        return aam(x, nearest, y)

    def top_k_am(x: list[float], w: list[list[float]], y: int) -> list[float]:
        out = am(x, w, y)
        others = sorted((j for j in range(SPEAKERS) if j != y), key=lambda j: -cos(x, w[j]))
        for j in others[:2]:
            out[j] = 30 * (cos(x, w[j]) + 0.1)
        return out

    def top_k_aam(x: list[float], w: list[list[float]], y: int) -> list[float]:
        out = aam(x, w, y)
        others = sorted((j for j in range(SPEAKERS) if j != y), key=lambda j: -cos(x, w[j]))
        for j in others[:3]:
            theta = math.acos(cos(x, w[j]))
            out[j] = 30 * (
                math.cos(theta - 0.06) if theta >= 0.06 else math.cos(theta) + 0.06 * math.sin(0.06)
            )
        return out

    values: Classifier = {k: v for k, v in locals().items() if callable(v)}[kind]
    return values


CLASSIFIERS: list[tuple[str, dict[str, Any], str]] = [
    ("softmax", {}, "softmax"),
    ("modified_softmax", {}, "modified"),
    ("normface", {}, "normface"),
    ("am_softmax", {}, "am"),
    ("am_softmax", {"normalize_features": False, "margin": 0.35}, "am_lengths"),
    ("am_softmax", {"top_k": 2, "top_k_margin": 0.1}, "top_k_am"),
    ("aam_softmax", {"margin": 0.5}, "aam"),
    ("aam_softmax", {"margin": 0.5, "easy_margin": True}, "aam_easy"),
    ("l_softmax", {"margin": 4, "lambda_end": 0.0}, "l_softmax"),
    ("a_softmax", {"margin": 3}, "a_softmax"),
    ("sub_center", {"sub_centers": 2, "base": {"name": "aam_softmax", "margin": 0.5}}, "sub_center"),
    ("inter_top_k", {"top_k": 3, "base": {"name": "aam_softmax", "margin": 0.5}}, "top_k_aam"),
]


@pytest.mark.parametrize(("name", "options", "kind"), CLASSIFIERS, ids=[kind for *_, kind in CLASSIFIERS])
def test_classifier_equals_the_formula(name: str, options: dict[str, Any], kind: str) -> None:
    head, (embeddings, labels) = make(name, options), batch()
    # Angles to the own class on both sides of pi - m and of 0.06, where the formulas change branch.
    embeddings[0] = -2 * head.weight[labels[0] * (2 if kind == "sub_center" else 1)].detach() + 0.02
    embeddings[1] = head.weight[5].detach() * 3 + 1e-3
    loss, cosines = head(embeddings, labels)
    x, w, y = embeddings.tolist(), head.weight.tolist(), labels.tolist()
    expected = softmax_loss([logits_of(kind)(a, w, b) for a, b in zip(x, y, strict=True)], y)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    if kind != "sub_center":
        torch.testing.assert_close(
            cosines, torch.tensor([[cos(a, v) for v in w] for a in x], dtype=torch.float64)
        )
    # And in float32, where training runs.
    assert make(name, options).float()(embeddings.float(), labels)[0].item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize(("kind", "margin"), [("C", 0.2), ("A", 0.15)])
def test_sphereface2_equals_the_formula(kind: str, margin: float) -> None:
    head, (embeddings, labels) = make("sphereface2", {"kind": kind, "margin": margin, "scale": 20.0}), batch()
    nn.init.constant_(head.bias, 0.3)
    embeddings[0] = head.weight[labels[0]].detach()

    def g(z: float) -> float:
        return 2 * ((z + 1) / 2) ** 3 - 1

    total = 0.0
    for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True):
        for j, w in enumerate(head.weight.tolist()):
            c, sign = cos(x, w), 1 if j == y else -1
            if kind == "C":
                logit = 20 * (g(c) - sign * margin) + 0.3
            else:
                logit = 20 * g(math.cos(math.acos(min(1.0, c)) + sign * margin)) + 0.3
            total += (0.7 if j == y else 0.3) * math.log1p(math.exp(-sign * logit))
    assert head(embeddings, labels)[0].item() == pytest.approx(total / len(labels), abs=1e-9)


def test_center_equals_the_formula() -> None:
    head, (embeddings, labels) = make("center", {"weight": 0.01}), batch()
    x, y = embeddings.tolist(), labels.tolist()
    centers = [[0.0] * DIM for _ in range(SPEAKERS)]
    for _ in range(3):
        expected = head.base(embeddings, labels)[0].item()
        expected += sum(
            0.01 / 2 * norm([a - c for a, c in zip(v, centers[j], strict=True)]) ** 2
            for v, j in zip(x, y, strict=True)
        ) / len(y)
        assert head(embeddings, labels)[0].item() == pytest.approx(expected, abs=1e-9)
        for j in set(y):
            own = [v for v, k in zip(x, y, strict=True) if k == j]
            step = [0.5 * sum(c - v[d] for v in own) / (1 + len(own)) for d, c in enumerate(centers[j])]
            centers[j] = [c - s for c, s in zip(centers[j], step, strict=True)]
        torch.testing.assert_close(head.centers, torch.tensor(centers, dtype=torch.float64))


def triplet(x: list[list[float]], y: list[int], mining: str, margin: float) -> float:
    n = range(len(y))
    d = [[2 - 2 * cos(a, b) for b in x] for a in x]
    terms = []
    for a in n:
        positives = [d[a][j] for j in n if j != a and y[j] == y[a]]
        negatives = [d[a][j] for j in n if y[j] != y[a]]
        if mining == "batch_hard":
            terms.append(max(0.0, max(positives) - min(negatives) + margin))
        else:
            for p in positives:
                farther = [q for q in negatives if q > p]
                terms.append(max(0.0, p - min(farther) + margin) if farther else 0.0)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
def test_triplet_equals_the_formula(mining: str) -> None:
    head, (embeddings, labels) = make("triplet", {"mining": mining, "margin": 0.4}), batch()
    expected = triplet(embeddings.tolist(), labels.tolist(), mining, 0.4)
    assert expected > 0
    assert head(embeddings, labels)[0].item() == pytest.approx(expected, abs=1e-9)


def test_circle_equals_the_formula() -> None:
    head, (embeddings, labels) = make("circle", {"margin": 0.3, "scale": 12.0}), batch()
    x, y = embeddings.tolist(), labels.tolist()
    total = 0.0
    for a in range(len(y)):
        own = [cos(x[a], x[j]) for j in range(len(y)) if j != a and y[j] == y[a]]
        other = [cos(x[a], x[j]) for j in range(len(y)) if y[j] != y[a]]
        negative = sum(math.exp(12 * max(0.0, s + 0.3) * (s - 0.3)) for s in other)
        positive = sum(math.exp(-12 * max(0.0, 1.3 - s) * (s - 0.7)) for s in own)
        total += math.log(1 + negative * positive)
    assert head(embeddings, labels)[0].item() == pytest.approx(total / len(y), abs=1e-9)


def test_ge2e_equals_the_formula_and_its_cosines_leave_the_utterance_out() -> None:
    head, (embeddings, labels) = make("ge2e"), batch()
    x, y = [[v / norm(a) for v in a] for a in embeddings.tolist()], labels.tolist()
    similarities = []
    for i, a in enumerate(x):
        row = []
        for k in sorted(set(y)):
            row.append(cos(a, mean([b for j, b in enumerate(x) if y[j] == k and j != i])))
        similarities.append(row)
    expected = softmax_loss([[10 * s - 5 for s in row] for row in similarities], y)
    loss, cosines = head(embeddings, labels)
    assert loss.item() == pytest.approx(
        expected, abs=1e-6
    )  # w = exp(log 10) is kept in float32 before .double()
    torch.testing.assert_close(cosines, torch.tensor(similarities, dtype=torch.float64))
    right = [max(range(4), key=row.__getitem__) == k for row, k in zip(similarities, y, strict=True)]
    assert head.accuracy(cosines, labels).item() == pytest.approx(sum(right) / len(y))


def test_angular_prototypical_equals_the_formula() -> None:
    head, (embeddings, labels) = make("angular_prototypical"), batch()
    x, y = embeddings.tolist(), labels.tolist()
    query = {k: max(i for i, j in enumerate(y) if j == k) for k in sorted(set(y))}
    prototypes = [mean([v for i, v in enumerate(x) if y[i] == k and i != q]) for k, q in query.items()]
    logits = [[10 * cos(x[q], p) - 5 for p in prototypes] for q in query.values()]
    assert head(embeddings, labels)[0].item() == pytest.approx(softmax_loss(logits, list(range(4))), abs=1e-6)


GRADIENTS = [
    *[(name, options) for name, options, _ in CLASSIFIERS],
    ("sphereface2", {}),
    ("sphereface2", {"kind": "A"}),
    ("center", {}),
    ("triplet", {"mining": "batch_hard"}),
    ("triplet", {"mining": "semi_hard"}),
    ("ge2e", {}),
    ("angular_prototypical", {}),
]


@pytest.mark.parametrize(("name", "options"), GRADIENTS, ids=str)
def test_gradients_equal_finite_differences(name: str, options: dict[str, Any]) -> None:
    """Of all inputs and parameters. Circle loss is left out: its weights carry no gradient on purpose."""
    head, (embeddings, labels) = make(name, options).eval(), batch()
    names = [key for key, _ in head.named_parameters()]

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        values: Tensor = torch.func.functional_call(
            head, dict(zip(names, parameters, strict=True)), (x, labels)
        )[0]
        return values

    inputs = [t.detach().clone().requires_grad_() for t in (embeddings, *head.parameters())]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(
    ("name", "options", "theirs", "arguments"),
    [
        ("am_softmax", {"margin": 0.35, "scale": 64.0}, "CosFaceLoss", {"margin": 0.35, "scale": 64}),
        (
            "aam_softmax",
            {"margin": 0.5, "scale": 64.0},
            "ArcFaceLoss",
            {"margin": math.degrees(0.5), "scale": 64},
        ),
        ("normface", {"scale": 20.0}, "NormalizedSoftmaxLoss", {"temperature": 1 / 20}),
        ("l_softmax", {"margin": 4, "lambda_end": 0.0}, "LargeMarginSoftmaxLoss", {"margin": 4, "scale": 1}),
        ("l_softmax", {"margin": 3, "lambda_end": 0.0}, "LargeMarginSoftmaxLoss", {"margin": 3, "scale": 1}),
        ("a_softmax", {"margin": 4, "lambda_end": 0.0}, "SphereFaceLoss", {"margin": 4, "scale": 1}),
        (
            "sub_center",
            {"sub_centers": 2, "base": {"name": "aam_softmax", "margin": 0.5}},
            "SubCenterArcFaceLoss",
            {"margin": math.degrees(0.5), "scale": 30, "sub_centers": 2},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_classifier_equals_pytorch_metric_learning(
    name: str, options: dict[str, Any], theirs: str, arguments: dict[str, Any]
) -> None:
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="the independent oracle is a test extra"
    )
    head, (embeddings, labels) = make(name, options), batch()
    embeddings[0] = -head.weight[labels[0]].detach() + 0.05
    other = getattr(losses, theirs)(num_classes=SPEAKERS, embedding_size=DIM, **arguments).double()
    with torch.no_grad():
        other.W.copy_(head.weight.T)
    ours, reference = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss, expected = head(ours, labels)[0], other(reference, labels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.autograd.backward([loss, expected])
    torch.testing.assert_close(ours.grad, reference.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.weight.grad, other.W.grad.T, atol=1e-4, rtol=1e-4)


def test_triplet_equals_pytorch_metric_learning() -> None:
    pytest.importorskip("pytorch_metric_learning", reason="the independent oracle is a test extra")
    from pytorch_metric_learning import distances, losses, miners, reducers

    squared = distances.LpDistance(power=2)
    other = losses.TripletMarginLoss(margin=0.4, distance=squared, reducer=reducers.MeanReducer())
    embeddings, labels = batch()
    expected = other(embeddings, labels, miners.BatchHardMiner(distance=squared)(embeddings, labels))
    torch.testing.assert_close(make("triplet", {"margin": 0.4})(embeddings, labels)[0], expected)


def test_circle_equals_pytorch_metric_learning() -> None:
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="the independent oracle is a test extra"
    )
    embeddings, labels = batch()
    ours, reference = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss = make("circle", {"margin": 0.4, "scale": 80.0})(ours, labels)[0]
    expected = losses.CircleLoss(m=0.4, gamma=80)(reference, labels)
    torch.testing.assert_close(loss, expected)
    torch.autograd.backward([loss, expected])
    torch.testing.assert_close(ours.grad, reference.grad)
