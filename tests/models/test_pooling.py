"""Pooling against hand-worked values, NumPy and itself without padding."""

from typing import Any

import numpy as np
import pytest
import torch

from speakerverif.models import pooling
from speakerverif.models._cpu import pooling as fast
from speakerverif.models._cpu import swap
from speakerverif.models.frames import FrameNorm, frame_mask


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    frames, num_frames = torch.randn(4, 9, 5), torch.tensor([9, 1, 4, 7])
    for row, n in zip(frames, num_frames, strict=True):
        row[n:] = 1e3
    return frames, num_frames


def poolings() -> list[torch.nn.Module]:
    torch.manual_seed(1)
    attentive = [
        pooling.AttentiveStatisticsPooling(5, 3, context, norm, unbiased)
        for context, norm, unbiased in [(True, True, False), (True, False, True), (False, True, False)]
    ]
    several = pooling.MultiQueryPooling(5, queries=1, heads=1, attention_channels=3)
    return [pooling.TemporalAveragePooling(5), pooling.StatisticsPooling(5), *attentive, several]


def without_the_mean() -> list[torch.nn.Module]:
    """Poolings whose result does not begin with the mean of constant frames."""
    torch.manual_seed(1)
    xi = pooling.XiPooling(5, 3)
    torch.nn.init.normal_(xi.prior_mean)
    torch.nn.init.normal_(xi.prior_log_precision)
    return [pooling.DeviationPooling(5), xi]


@pytest.fixture(autouse=True, params=["plain", "fast"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs over plain and over fast layers."""
    if request.param == "fast":
        for plain in (pooling.MeanAndDeviation, pooling.AttendedMeanAndDeviation):
            monkeypatch.setattr(pooling, plain.__name__, swap.FAST[plain])


def test_statistics_by_hand() -> None:
    frames = torch.tensor([[[1.0], [3.0], [8.0], [99.0]]])
    # Mean 4; squared distances 9, 1, 16 sum to 26, and 26 / 2 = 13.
    result = pooling.StatisticsPooling(1)(frames, torch.tensor([3]))
    torch.testing.assert_close(result, torch.tensor([[4.0, 13.0**0.5]]))
    assert pooling.TemporalAveragePooling(1)(frames, torch.tensor([3])).item() == 4.0


def test_attention_by_hand() -> None:
    """Weights 1/4 and 3/4 on frames 0 and 4: mean 3, variance 9/4 + 3/4 = 3."""
    pool = pooling.AttentiveStatisticsPooling(1, 1, global_context=False, norm=False)
    with torch.no_grad():
        # tanh(50 x) is 0 and 1 at the two frames, so the logits differ by log 3.
        pool.hidden.weight.fill_(50.0)
        pool.hidden.bias.zero_()
        pool.logits.weight.fill_(np.log(3.0))
    result = pool(torch.tensor([[[0.0], [4.0]]]))
    torch.testing.assert_close(result, torch.tensor([[3.0, 3.0**0.5]]))


def test_attentive_pooling_equals_its_formula() -> None:
    """The formula in NumPy: context concatenated to every frame, as the paper writes it."""
    pool: Any = poolings()[3]
    frames, _ = ragged()
    with torch.no_grad():
        found = pool(frames).numpy()
    hidden, bias, logits = (
        p.detach().numpy() for p in (pool.hidden.weight, pool.hidden.bias, pool.logits.weight)
    )
    for row, result in zip(frames.numpy(), found, strict=True):
        context = np.concatenate([row.mean(0), row.std(0, ddof=1)])
        inputs = np.concatenate([row, np.tile(context, (len(row), 1))], 1)
        scores = np.tanh(inputs @ hidden.T + bias) @ logits.T
        weights = np.exp(scores - scores.max(0))
        weights /= weights.sum(0)
        mean = (weights * row).sum(0)
        expected = np.concatenate([mean, np.sqrt((weights * (row - mean) ** 2).sum(0))])
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_deviation_by_hand() -> None:
    frames = torch.tensor([[[1.0], [3.0], [8.0], [99.0]]])
    result = pooling.DeviationPooling(1)(frames, torch.tensor([3]))
    torch.testing.assert_close(result, torch.tensor([[13.0**0.5]]))


def test_xi_pooling_by_hand() -> None:
    """Precisions 1 and 4 of frames 2 and 6, and a prior of mean 10 and precision 3: (2 + 24 + 30) / 8 = 7."""
    pool = pooling.XiPooling(1, 1).eval()
    with torch.no_grad():
        # A precision is the square of log(1 + exp(a)): a is log(e - 1) and log(e^2 - 1) at the two frames.
        first, second = np.log(np.e - 1), np.log(np.e**2 - 1)
        pool.hidden.weight.fill_(1.0)
        pool.hidden.bias.zero_()
        slope = (second - first) / 4
        pool.precision.weight.fill_(slope * (1 + pool.norm.eps) ** 0.5)
        pool.precision.bias.fill_(first - 2 * slope)
        pool.prior_mean.fill_(10.0)
        pool.prior_log_precision.fill_(np.log(3.0))
    result = pool(torch.tensor([[[2.0], [6.0], [np.nan]]]), torch.tensor([2]))
    torch.testing.assert_close(result, torch.tensor([[7.0]]))


def test_xi_pooling_of_frames_without_precision_is_the_prior() -> None:
    pool = pooling.XiPooling(2, 1)
    torch.nn.init.constant_(pool.precision.bias, -1e4)
    frames = torch.randn(1, 3, 2, requires_grad=True)
    result = pool(frames)
    result.sum().backward()
    torch.testing.assert_close(result, torch.zeros(1, 2))
    assert frames.grad is not None and frames.grad.isfinite().all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_multi_query_pooling_equals_its_formula(per_channel: bool) -> None:
    """Every query and head on its own in NumPy, in a ragged batch."""
    torch.manual_seed(0)
    queries, heads, hidden = 3, 2, 4
    pool = pooling.MultiQueryPooling(6, queries, heads, hidden, per_channel)
    frames, num_frames = torch.randn(3, 7, 6), torch.tensor([7, 1, 4])
    with torch.no_grad():
        found = pool(frames, num_frames).numpy()
    width = 3 if per_channel else 1
    first = pool.hidden.weight.detach().numpy().reshape(heads, queries, hidden, 3)
    assert pool.hidden.bias is not None
    first_bias = pool.hidden.bias.detach().numpy().reshape(heads, queries, hidden)
    second = pool.logits.weight.detach().numpy().reshape(heads, queries, width, hidden)
    for row, n, result in zip(frames.numpy(), num_frames, found, strict=True):
        expected = []
        for query in range(queries):
            for head in range(heads):
                x = row[:n, 3 * head : 3 * head + 3]
                scores = np.tanh(x @ first[head, query].T + first_bias[head, query]) @ second[head, query].T
                weights = np.exp(scores) / np.exp(scores).sum(0)
                mean = (weights * x).sum(0)
                expected += [mean, np.sqrt((weights * (x - mean) ** 2).sum(0).clip(1e-10))]
        np.testing.assert_allclose(result, np.concatenate(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", range(8))
def test_padding_changes_nothing(index: int) -> None:
    pool = [*poolings(), *without_the_mean()][index].eval()
    frames, num_frames = ragged()
    together = pool(frames, num_frames)
    assert together.shape == (4, pool.output_dim)
    for row, n, result in zip(frames, num_frames, together, strict=True):
        torch.testing.assert_close(pool(row[None, :n])[0], result)


@pytest.mark.parametrize("index", range(8))
def test_order_of_frames_does_not_matter(index: int) -> None:
    pool = [*poolings(), *without_the_mean()][index].eval()
    frames = torch.randn(2, 8, 5)
    torch.testing.assert_close(pool(frames.flip(1)), pool(frames))


@pytest.mark.parametrize("value", [0.0, 3.0, 1e3])
@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("index", range(6))
def test_constant_frames_have_no_deviation_and_finite_gradients(
    index: int, length: int, value: float
) -> None:
    pool = poolings()[index]
    frames = torch.full((2, length, 5), value, requires_grad=True)
    result = pool(frames)
    result.sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    torch.testing.assert_close(result[:, :5], frames[:, 0].detach())
    if pool.output_dim == 10:
        assert result[:, 5:].max() < 2e-4


def test_small_deviations_survive_a_large_mean() -> None:
    """E[x^2] - mean^2 in float32 would give 0 or worse here."""
    frames = 1000 + torch.tensor([[[0.25], [-0.25]]])
    statistics = pooling.MeanAndDeviation(1e-10, unbiased=False)
    assert statistics(frames, None)[1].item() == 0.25


@pytest.mark.parametrize("num_frames", [None, torch.tensor([6, 3])])
def test_gradients_of_the_closed_forms(num_frames: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    mask = None if num_frames is None else frame_mask(num_frames, 6).unsqueeze(-1)
    count = torch.tensor([6.0, 6.0 if num_frames is None else 3.0], dtype=torch.float64).view(2, 1, 1)

    def moments(x: torch.Tensor) -> Any:
        return fast._Moments.apply(x if mask is None else x.masked_fill(~mask, 0), count, mask)  # type: ignore[no-untyped-call]

    def attention(given: torch.Tensor, x: torch.Tensor) -> Any:
        given = given if mask is None else given.masked_fill(~mask, -torch.inf)
        return fast._SoftmaxMoments.apply(given, x)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(moments, (frames,))
    assert torch.autograd.gradcheck(attention, (logits, frames))


def test_statistics_stay_float32_under_autocast() -> None:
    frames = torch.randn(2, 50, 5)
    for pool in [*poolings(), *without_the_mean()]:
        with torch.autocast("cpu", torch.bfloat16):
            assert pool(frames.bfloat16()).dtype == torch.float32


def test_batch_norm_leaves_padding_out() -> None:
    norm = FrameNorm(5)
    frames, num_frames = ragged()
    result = norm(frames, num_frames)
    real = result[frame_mask(num_frames, 9)]
    torch.testing.assert_close(real.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.var(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)
