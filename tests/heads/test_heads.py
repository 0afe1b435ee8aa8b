"""Every head: the contract that a new file must keep, and the numerics where losses go wrong."""

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif import heads
from speakerverif._util.toml import from_dict
from speakerverif.errors import InputError
from speakerverif.heads._base import NORM_FLOOR
from speakerverif.heads._margin import add_angle
from speakerverif.heads._psi import annealed, psi
from speakerverif.heads.circle import unified
from speakerverif.testing import check_head

NAMES = sorted(p.stem for p in Path(heads.__path__[0]).glob("*.py") if not p.stem.startswith("_"))
# Options that change the arithmetic enough to be put through the contract as well.
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("am_softmax", {"normalize_features": False}),
    ("am_softmax", {"sub_centers": 3, "top_k": 2}),
    ("aam_softmax", {"easy_margin": True, "margin": 0.5}),
    ("aam_softmax", {"sub_centers": 2, "top_k": 3, "top_k_margin": 0.3}),
    ("sub_center", {"base": {"name": "am_softmax"}}),
    ("inter_top_k", {"base": {"name": "am_softmax", "sub_centers": 2}, "top_k": 2}),
    ("a_softmax", {"margin": 3, "lambda_end": 0.0}),
    ("l_softmax", {"margin": 2, "lambda_end": 0.0}),
    ("sphereface2", {"kind": "A", "margin": 0.15}),
    ("center", {"base": {"name": "am_softmax", "margin": 0.3}, "weight": 0.1}),
    ("center", {"base": {"name": "triplet"}}),
    ("triplet", {"mining": "semi_hard"}),
]
EVERY = [pytest.param(name, {}, id=name) for name in NAMES] + [
    pytest.param(name, options, id=f"{name}-{'-'.join(map(str, options.values()))}")
    for name, options in OPTIONS
]
DIM, SPEAKERS = 6, 8


def make(
    name: str, options: dict[str, Any] | None = None, dim: int = DIM, speakers: int = SPEAKERS
) -> Any:  # the class follows from the name
    module = import_module(f"speakerverif.heads.{name}")
    torch.manual_seed(0)
    return module.build(from_dict(module.Config, options or {}, "head"), dim, speakers)


def batch(dim: int = DIM, speakers: int = 4, each: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return embeddings of `each` utterances of `speakers` speakers, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(speakers).repeat_interleave(each)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return 3 * torch.randn(len(labels), dim, generator=generator), labels


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_contract(name: str, options: dict[str, Any]) -> None:
    check_head(import_module(f"speakerverif.heads.{name}"), options)
    assert make(name, options).margin_fraction == 1.0


@pytest.mark.parametrize("label", [-1, SPEAKERS])
@pytest.mark.parametrize("name", NAMES)
def test_label_out_of_range_is_named(name: str, label: int) -> None:
    embeddings, labels = batch()
    labels[2] = label
    with pytest.raises(InputError, match=rf"label {label}: expected 0\.\.{SPEAKERS - 1}"):
        make(name)(embeddings, labels)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_width_is_named(name: str) -> None:
    embeddings, labels = batch(dim=DIM + 1)
    with pytest.raises(InputError, match=rf"\(12, {DIM + 1}\).*\(B, {DIM}\)"):
        make(name)(embeddings, labels)


def test_wrong_labels_type_or_number_is_named() -> None:
    embeddings, labels = batch()
    for wrong in (labels.float(), labels[:-1], labels[:, None]):
        with pytest.raises(InputError, match="expected int64 of shape"):
            make("am_softmax")(embeddings, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_checked_at_build_time(name: str) -> None:
    with pytest.raises(InputError, match="number of training speakers: found 1"):
        make(name, speakers=1)
    with pytest.raises(InputError, match="embedding_dim: found 0"):
        make(name, dim=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("am_softmax", {"margin": -0.1}, r"head.margin: found -0.1, expected 0\.\.1"),
        ("am_softmax", {"margin": math.nan}, "head.margin: found nan"),
        ("am_softmax", {"scale": 0.0}, "head.scale: found 0.0, expected a number above 0"),
        ("am_softmax", {"sub_centers": 0}, r"head.sub_centers: found 0, expected 1\.\.1,000"),
        ("am_softmax", {"top_k": SPEAKERS}, rf"head.top_k: found {SPEAKERS}, expected 0\.\.{SPEAKERS - 1}"),
        ("aam_softmax", {"margin": 1.6}, r"head.margin: found 1.6, expected 0\.\.1.571"),
        ("aam_softmax", {"top_k_margin": -1.0}, "head.top_k_margin: found -1.0"),
        ("normface", {"scale": math.inf}, "head.scale: found inf"),
        ("a_softmax", {"margin": 5}, r"head.margin: found 5, expected 1\.\.4"),
        ("l_softmax", {"margin": 0}, r"head.margin: found 0, expected 1\.\.4"),
        ("a_softmax", {"lambda_end": 2000.0}, r"head.lambda_end: found 2000.0, expected 0\.\.lambda_start"),
        (
            "sphereface2",
            {"positive_weight": 1.0},
            "head.positive_weight: found 1.0, expected between 0 and 1",
        ),
        ("sphereface2", {"t": 0.5}, "head.t: found 0.5"),
        ("sphereface2", {"kind": "B"}, "head.kind: 'B' is not one of 'C', 'A'"),
        ("sub_center", {"sub_centers": 0}, "head.sub_centers: found 0"),
        (
            "sub_center",
            {"base": {"name": "softmax"}},
            "head.base.name: found 'softmax', expected one of am_softmax",
        ),
        ("inter_top_k", {"base": {"name": "am_softmax", "margn": 1}}, "head.base: unknown key 'margn'"),
        (
            "center",
            {"base": {"name": "nonsense"}},
            "head.base.name: found 'nonsense', expected one of a_softmax",
        ),
        ("center", {"base": {"name": "center"}}, "head.base.name: found 'center'"),
        ("center", {"weight": -1.0}, "head.weight: found -1.0"),
        ("center", {"center_rate": 1.5}, r"head.center_rate: found 1.5, expected 0\.\.1"),
        ("triplet", {"margin": 5.0}, r"head.margin: found 5.0, expected 0\.\.4"),
        ("circle", {"margin": 1.5}, r"head.margin: found 1.5, expected 0\.\.1"),
        ("circle", {"scale": -1.0}, "head.scale: found -1.0"),
    ],
)
def test_values_are_checked_at_build_time(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name, options)


@pytest.mark.parametrize("name", [name for name in NAMES if make(name).needs_balanced_batches])
def test_pair_losses_name_the_recipe_key_when_a_batch_cannot_serve(name: str) -> None:
    head, embeddings = make(name), batch()[0][:4]
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 1]):
        with pytest.raises(InputError, match=r"train\.speakers_per_batch"):
            head(embeddings, torch.tensor(labels))


def test_accuracy_is_read_off_the_plain_cosines() -> None:
    """Nearer to its own class than to any other, though not by the margin: right, whatever the loss says."""
    head = make("am_softmax", {"margin": 0.9}, dim=2, speakers=2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    loss, cosines = head(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    torch.testing.assert_close(cosines, torch.tensor([[0.6, 0.8]]))
    assert head.accuracy(cosines, torch.tensor([1])) == 1
    torch.testing.assert_close(loss, F.softplus(torch.tensor(30 * (0.6 - (0.8 - 0.9)))))


def gradients(head: nn.Module, embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    """Return loss, cosines and the gradients on embeddings and class weights."""
    embeddings = embeddings.clone().requires_grad_()
    loss, cosines = head(embeddings, labels)
    return [loss.detach(), cosines, *torch.autograd.grad(loss, [embeddings, *head.parameters()])]


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("am_softmax", {"margin": 0.0}, "normface"),
        ("aam_softmax", {"margin": 0.0}, "normface"),
        ("aam_softmax", {"margin": 0.0, "easy_margin": True}, "normface"),
        ("am_softmax", {"margin": 0.0, "normalize_features": False}, "modified_softmax"),
        ("am_softmax", {"sub_centers": 1, "top_k": 2, "top_k_margin": 0.0}, "am_softmax"),
        ("sub_center", {"sub_centers": 1, "base": {"name": "am_softmax"}}, "am_softmax"),
        ("sub_center", {"sub_centers": 1}, "aam_softmax"),
        ("inter_top_k", {"top_k": 0}, "aam_softmax"),
    ],
)
def test_head_without_its_refinement_is_the_plain_one_to_the_last_bit(
    name: str, options: dict[str, Any], plain: str
) -> None:
    embeddings, labels = batch()
    # Angles of 0 and pi, where a margin's root is touchiest.
    embeddings[0] = make(plain).weight[labels[0]].detach()
    embeddings[1] = -make(plain).weight[labels[1]].detach()
    embeddings[2] = 0
    found, expected = (gradients(head, embeddings, labels) for head in (make(name, options), make(plain)))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_an_angle_multiplied_by_one_is_plain() -> None:
    embeddings, labels = batch()
    pair = make("a_softmax", {"margin": 1}), make("modified_softmax")
    found, expected = (gradients(head, embeddings, labels) for head in pair)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["am_softmax", "aam_softmax", "inter_top_k", "sub_center"])
def test_schedule_at_zero_is_no_margin_and_at_half_is_half(name: str) -> None:
    base = {"am_softmax": "am_softmax"}.get(name, "aam_softmax")
    nested = name in ("inter_top_k", "sub_center")
    embeddings, labels = batch()

    def loss(margin: float, top_k_margin: float, fraction: float) -> Tensor:
        keys: dict[str, Any] = {"base": {"name": base, "margin": margin}} if nested else {"margin": margin}
        if name == "inter_top_k":
            keys["top_k_margin"] = top_k_margin
        head = make(name, keys)
        head.margin_fraction = fraction
        values: Tensor = head(embeddings, labels)[0]
        return values

    assert torch.equal(loss(0.4, 0.2, 0.0), loss(0.0, 0.0, 1.0))
    assert torch.equal(loss(0.4, 0.2, 0.5), loss(0.2, 0.1, 1.0))
    assert loss(0.4, 0.2, 0.0) < loss(0.4, 0.2, 0.5) < loss(0.4, 0.2, 1.0)


@pytest.mark.parametrize(("name", "options"), [("sphereface2", {}), ("triplet", {"margin": 0.5})])
def test_schedule_moves_every_other_margin_too(name: str, options: dict[str, Any]) -> None:
    head, (embeddings, labels) = make(name, options), batch()
    losses = []
    for fraction in (0.0, 0.5, 1.0):
        head.margin_fraction = fraction
        losses.append(head(embeddings, labels)[0].item())
    assert losses[0] < losses[1] < losses[2]


def test_center_hands_the_schedule_to_the_joined_head() -> None:
    embeddings, labels = batch()
    head, plain = make("center", {"base": {"name": "am_softmax"}, "weight": 0.0}), make("normface")
    head.margin_fraction = 0.0
    assert torch.equal(head(embeddings, labels)[0], plain(embeddings, labels)[0])


def test_annealing_goes_from_lambda_start_to_lambda_end_geometrically() -> None:
    cosine = torch.linspace(-0.99, 0.99, 50, dtype=torch.float64)
    for fraction, weight in [(0.0, 1000.0), (0.5, math.sqrt(1000 * 5)), (1.0, 5.0)]:
        expected = (weight * cosine + psi(cosine, 4)) / (1 + weight)
        torch.testing.assert_close(annealed(cosine, 4, fraction, 1000.0, 5.0), expected)
    torch.testing.assert_close(annealed(cosine, 4, 1.0, 1000.0, 0.0), psi(cosine, 4))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_is_the_multiplied_angle_continued_downwards(m: int) -> None:
    theta = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    values = psi(theta.cos(), m)
    k = (theta * m / math.pi).floor().clamp(max=m - 1)
    torch.testing.assert_close(values, (-1) ** k * (m * theta).cos() - 2 * k, atol=1e-9, rtol=0)
    assert (values.diff() < 0).all()
    assert values[0] == 1 and values[-1] == pytest.approx(1 - 2 * m)
    assert values.diff().abs().max() < 2 * m * math.pi / 4000  # no jump at the joints


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0, math.pi / 2])
def test_added_angle_is_monotone_and_continues_past_pi(margin: float) -> None:
    theta = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    values = add_angle(theta.cos(), margin)
    inside = theta + margin < math.pi
    torch.testing.assert_close(values[inside], (theta[inside] + margin).cos(), atol=1e-6, rtol=0)
    past = theta[theta + margin > math.pi + 1e-9].cos()
    assert torch.equal(add_angle(past, margin), past - margin * math.sin(margin))
    assert (values.diff() < 0).all()


def test_raised_other_classes_are_the_mirror_image_and_monotone() -> None:
    head = make("aam_softmax")
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    raised = -head.lower(-theta.cos(), 0.3)
    inside = theta > 0.3
    torch.testing.assert_close(raised[inside], (theta[inside] - 0.3).cos(), atol=1e-6, rtol=0)
    assert (raised.diff() < 0).all()


def boundary(name: str, options: dict[str, Any], cosine_2: Callable[[float], float]) -> None:
    """Check that own and other logit are equal where theta_1 and theta_2 = arccos(cosine_2(theta_1)) meet."""
    head = make(name, options)
    for theta in (0.1, 0.4, 0.7):
        cosines = torch.tensor([[math.cos(theta), cosine_2(theta)]], dtype=torch.float64)
        columns, values = head.replaced(cosines, torch.tensor([0]))
        own = cosines.scatter(1, columns, values)
        torch.testing.assert_close(own[0, 0], own[0, 1])


def test_decision_boundaries() -> None:
    """On the boundary between two classes the two logits are equal, so each has probability one half."""
    boundary("normface", {}, math.cos)
    boundary("modified_softmax", {}, math.cos)
    boundary("am_softmax", {"margin": 0.35}, lambda t: math.cos(t) - 0.35)
    boundary("aam_softmax", {"margin": 0.5}, lambda t: math.cos(t + 0.5))
    boundary("a_softmax", {"margin": 2, "lambda_end": 0.0}, lambda t: math.cos(2 * t))


def test_softmax_boundary_is_the_plane_between_the_weights() -> None:
    head = make("softmax", dim=2, speakers=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        head.bias.copy_(torch.tensor([0.5, 0.0]))
    loss, _ = head(torch.tensor([[1.0, 2.5]]), torch.tensor([0]))  # 2 * 1 + 0.5 == 2.5
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_short_embeddings_gain_from_normalisation() -> None:
    """The gradient on an embedding grows as it gets shorter under NormFace, not under modified softmax."""
    embeddings, labels = batch()

    def size(name: str, factor: float) -> float:
        return float(gradients(make(name), factor * embeddings, labels)[2].norm())

    assert size("normface", 0.1) == pytest.approx(10 * size("normface", 1.0), rel=1e-4)
    assert size("modified_softmax", 0.1) < 2 * size("modified_softmax", 1.0)


def test_vectors_below_the_floor_keep_a_bounded_gradient() -> None:
    embeddings, labels = batch()
    gradient = gradients(make("normface"), 0 * embeddings, labels)[2]
    assert 0 < gradient.norm(dim=1).max() <= 2 * 30 / NORM_FLOOR / len(labels)


def test_unified_loss_is_am_softmax_when_compared_with_class_weights() -> None:
    head, (embeddings, labels) = make("am_softmax", {"margin": 0.35, "scale": 20.0}), batch()
    loss, cosines = head(embeddings, labels)
    own = F.one_hot(labels, SPEAKERS).bool()
    for delta_p, delta_n in [(0.35, 0.0), (0.8, 0.45)]:
        positives = 20 * (cosines[own][:, None] - delta_p)
        negatives = (20 * (cosines - delta_n)).masked_fill(own, -math.inf)
        torch.testing.assert_close(unified(positives, negatives).mean(), loss)


def test_unified_loss_tends_to_the_hardest_triplet() -> None:
    generator = torch.Generator().manual_seed(1)
    positives = torch.rand(200, 5, generator=generator, dtype=torch.float64) * 2 - 1
    negatives = torch.rand(200, 7, generator=generator, dtype=torch.float64) * 2 - 1
    negatives[:40] -= 2.5  # some rows keep the margin: their triplet costs nothing
    triplet = F.relu(negatives.amax(dim=1) - positives.amin(dim=1) + 0.3)
    assert (triplet == 0).any() and (triplet > 0).any()
    errors = []
    for gamma in (1e1, 1e2, 1e3, 1e4):
        loss = unified(gamma * (positives - 0.3), gamma * negatives) / gamma
        errors.append(float((loss - triplet).abs().max()))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-3


def test_center_moves_each_centre_present_by_the_batch_counts() -> None:
    """Two embeddings of speaker 0 at mean (1, 0): the centre goes from 0 to 0.5 * (2, 0) / (1 + 2)."""
    head = make("center", {"weight": 1.0}, dim=2, speakers=3)
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([0, 0, 2])
    loss, _ = head(embeddings, labels)
    torch.testing.assert_close(head.centers, torch.tensor([[1 / 3, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    plain, _ = head.base(embeddings, labels)
    torch.testing.assert_close(loss - plain, torch.tensor((4 + 0 + 16) / 3 / 2))
    kept = head.centers.clone()
    head.eval()(embeddings, labels)
    assert torch.equal(head.centers, kept)


def test_scale_of_metric_losses_cannot_leave_the_positive() -> None:
    for name in ("ge2e", "angular_prototypical"):
        head, (embeddings, labels) = make(name), batch()
        assert head.affine(torch.tensor(1.0)).item() == pytest.approx(10 - 5)
        optimizer = torch.optim.SGD(head.parameters(), lr=50.0)
        for _ in range(20):
            optimizer.zero_grad()
            head(embeddings, labels)[0].backward()
            optimizer.step()
        assert head.affine(torch.tensor(1.0)) >= head.affine(torch.tensor(-1.0))
