"""Training in several processes started by torchrun, with the results of a single process.

Each process takes its part of every batch. Embeddings are gathered, so every process computes the loss of the whole
batch. Backpropagation then differentiates the sum of the processes' equal losses, so the mean of their gradients is
the gradient of the loss. Losses that compare utterances need no special treatment, and logged figures are those of
the whole batch. Without torchrun every function here returns its input.

DistributedDataParallel isn't used: this code keeps the names of the weights, so that a state fits any number of
processes, and supports heads that compare utterances or update centres. The disadvantage is that gradients are
exchanged after the backward pass rather than during it.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

# The others wait for hours while the first process prepares the corpus or embeds. A process that dies is noticed at
# once, by its closed connection and by torchrun.
PATIENCE = timedelta(days=7)


@contextlib.contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the processes that torchrun started and yield this one's device; without torchrun, yield `device`.

    All but the first print and log nothing: only exceptions reach the caller. On success the others wait for the
    first to finish. After an exception this process ends without waiting, and torchrun ends the others. The process
    group is then not destroyed, since that would wait for processes that never join.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    if torch.device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=torch.device(device))
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    with contextlib.ExitStack() as streams:
        if not is_first():
            nowhere = streams.enter_context(Path(os.devnull).open("w"))
            streams.enter_context(contextlib.redirect_stdout(nowhere))
            streams.enter_context(contextlib.redirect_stderr(nowhere))
            logging.disable()
            streams.callback(logging.disable, logging.NOTSET)
        try:
            yield device
            sys.stdout.flush()
            as_first_says(True)
        except RuntimeError as error:
            if "/gloo/" not in str(error):
                raise
            sys.exit(f"process {rank()}: ends, as another process has ended; that one's error says why")
    dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is the first process, which writes and prints."""
    return rank() == 0


def as_first_says(decision: bool) -> bool:
    """Return the first process's decision in every process; all wait until the first has called this."""
    if size() == 1:
        return decision
    said = torch.tensor(decision)
    dist.broadcast(said, 0)
    return bool(said)


def as_first_finds(find: Callable[[], T]) -> T:
    """Return in every process what a function returns in the first; the others don't call it."""
    if size() == 1:
        return find()
    box = [find() if is_first() else None]
    dist.broadcast_object_list(box, 0)
    return cast(T, box[0])


def any_says(flag: bool) -> bool:
    """Return whether `flag` is True in any process."""
    if size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags)
    return bool(flags)


def gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, equal in shape, concatenated along the first axis by `rank`.

    The gradient is that of the sum of the values that all processes compute from the result.
    """
    return tensor if size() == 1 else _gathered(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(size())[rank()]


_gathered: Callable[[Tensor], Tensor] = _Gather.apply


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in a single all-reduce."""
    if size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= size()
    means = torch.split(together, [g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def shared_batch_norm(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """Return a `SharedBatchNorm` if `wanted` and there are several processes, else an empty context."""
    return SharedBatchNorm() if wanted and size() > 1 else contextlib.nullcontext()


class SharedBatchNorm(TorchFunctionMode):
    """A context in which batch norm in training uses the statistics of the crops of all processes.

    It replaces `torch.nn.functional.batch_norm`, so encoders need no change. It also works on a CPU, unlike
    torch.nn.SyncBatchNorm.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm and kwargs["training"]:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return this process's part of `torch.nn.functional.batch_norm` of all processes' joined inputs (N, C, ...).

    Source: Chan, Golub, LeVeque 1983 for combining means and variances of parts without cancellation.
    """
    given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x, axes, correction=0)
    parts = gather(torch.stack((mean, var, torch.full_like(mean, x.numel() / len(mean))))[None])
    means, variances, counts = parts.unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * count / (count - 1), momentum)
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    y = (x - mean.view(shape)) * scale.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(given)
