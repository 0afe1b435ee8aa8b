"""The training loop: from a manifest to a model folder.

Every random choice follows from (seed, step), so a run that was interrupted and resumed equals the uninterrupted
one bit for bit on a CPU. Schedules are counted in samples. Under torchrun every process runs this loop on its part
of each batch (see `distributed`), and the first writes what there is to write."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif import heads
from speakerverif._util.progress import Progress
from speakerverif._util.toml import to_dict
from speakerverif.config import Recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.models import folder
from speakerverif.models.model import SpeakerModel
from speakerverif.training import distributed, state
from speakerverif.training.averaging import Average
from speakerverif.training.batches import BatchOrder, CropDataset, batches, make_loader
from speakerverif.training.log import TrainingLog
from speakerverif.training.schedules import learning_rate, margin_fraction
from speakerverif.training.spec_augment import spec_augment

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Validate = Callable[[SpeakerModel], dict[str, float]]


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    data_dir: Path | None = None,
    device: str = "cpu",
    validate: Validate | None = None,
    start_from: Path | None = None,
    stop_after_steps: int | None = None,
) -> Path:
    """Train a model and return its folder; continue where `out/training` holds the state of the same recipe.

    Args:
        recipe: what to train and how.
        manifest: the training utterances; its speakers become the classes.
        out: the model folder, a working model at every checkpoint.
        data_dir: what the noise and room folders of the recipe are relative to.
        device: "cpu", "cuda" or "cuda:0".
        validate: called with the model in eval mode; its figures are logged.
        start_from: a model folder whose weights to begin with (fine-tuning).
        stop_after_steps: stop early, leaving the state behind (a rehearsal of an interruption).

    Raises:
        InputError: wrong recipe or data, another recipe's model in `out`, a loss that is not finite (the
            utterances of the batch are named).
    """
    if finished_before(out, recipe):
        logger.info(f"{out}: trained before by the same recipe")
        return out
    torch.manual_seed(recipe.seed)
    config, precision = recipe.train, PRECISIONS[recipe.train.precision]
    device_type = torch.device(device).type
    rank, processes = distributed.rank(), distributed.size()
    dataset = CropDataset(manifest, recipe, data_dir)
    model = SpeakerModel(recipe.features, recipe.encoder).to(device)
    head = heads.build(recipe.head, model.embedding_dim, dataset.num_classes).to(device)
    if start_from is not None:
        load_weights(model, head, dataset.class_names, start_from)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = make_optimizer(recipe, parameters)
    scaler = torch.amp.GradScaler(device_type, enabled=precision == torch.float16 and device_type != "cpu")
    average = Average.make(recipe, model)
    shared = config.shared_batch_norm and processes > 1
    norms = distributed.SharedBatchNorm() if shared else contextlib.nullcontext()

    step = 0
    if (resumed := resume(out, manifest)) is not None:
        tensors, facts = resumed
        step = facts["step"]
        model.load_state_dict(state.unprefixed(tensors, "model."))
        head.load_state_dict(state.unprefixed(tensors, "head."))
        average.load(tensors, facts, device)
        state.restore_optimizer(optimizer, tensors)
        if facts["scaler"]:  # empty from a device that needs none
            scaler.load_state_dict(facts["scaler"])
    order = BatchOrder(dataset.manifest.speaker_index, config, recipe.seed, step, (rank, processes))
    steps_per_epoch = order.epoch_size / config.batch_size
    loader = make_loader(dataset, order, config.workers, pin_memory=device_type != "cpu")

    def save(finished: bool) -> None:
        """Write the model as it stands and, while training goes on, what it takes to continue."""
        if not finished:
            # Before the model: a folder with a model but no state could not be continued.
            tensors = {
                **state.prefixed(model, "model."),
                **state.prefixed(head, "head."),
                **average.tensors(),
                **state.flatten_optimizer(optimizer),
            }
            facts = {
                "step": step,
                "average_count": average.count,
                "scaler": scaler.state_dict(),
                **identity(manifest),
            }
            state.save_state(out, tensors, facts)
        samples = step * config.batch_size
        trained = {"samples": samples, "epochs": samples / order.epoch_size, "finished": finished}
        weights = average.weights if average.weights else model.state_dict()
        folder.save_model(out, weights, head.state_dict(), recipe, dataset.class_names, trained)
        if finished:
            state.finish_training(out)

    def run_validation() -> dict[str, float]:
        """Validate with the weights that would be saved, then put the training weights back."""
        assert validate is not None
        training_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if average.weights:
            model.load_state_dict(average.weights)
        figures = validate(model.eval())
        model.load_state_dict(training_weights)
        model.train()
        return figures

    model.train()
    head.train()
    saved_at = time.monotonic()
    validate_every = (
        max(1, round(config.validate_every_epochs * steps_per_epoch)) if config.validate_every_epochs else 0
    )
    last_step = min(order.num_steps, stop_after_steps or order.num_steps)
    total = order.num_steps * config.batch_size
    with (
        TrainingLog(out, step) if distributed.is_first() else contextlib.nullcontext() as log,
        Progress(total, "train", "crop", done=step * config.batch_size) as progress,
    ):
        crops = batches(loader)
        while step < last_step:
            step_started = time.monotonic()
            batch = next(crops)
            waited_s = time.monotonic() - step_started

            epoch = step / steps_per_epoch
            rate = learning_rate(config, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            head.margin_fraction = margin_fraction(config.margin_schedule, epoch)
            step_seed = recipe.seed * 1_000_003 + step
            torch.manual_seed(step_seed * 1_009 + 1 + rank)  # dropout: other units in every process

            waveform, labels = (
                tensor.to(device, non_blocking=True) for tensor in (batch.waveform, batch.labels)
            )
            with torch.no_grad():
                lengths = torch.full((len(waveform),), waveform.shape[1], device=device)
                features, num_frames = model.features(waveform, lengths)
                generator = torch.Generator(device).manual_seed(step_seed)
                features = spec_augment(
                    features, num_frames, recipe.augment.spec, generator, (rank, processes)
                )
            with torch.autocast(device_type, precision, enabled=precision != torch.float32), norms:
                embeddings = model.encoder(features, None)
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            embeddings, labels = distributed.gather(embeddings), distributed.gather(labels)
            loss, cosines = head(embeddings, labels)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            distributed.average_gradients(parameters)
            scaler.unscale_(optimizer)
            grad_norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or float("inf"))
            scaler.step(optimizer)
            scaler.update()
            # Read together and last: each reading waits for all that a GPU still has to do.
            loss_value, accuracy, norm = torch.stack(
                [loss.detach(), head.accuracy(cosines, labels), grad_norm]
            ).tolist()
            if not math.isfinite(loss_value):
                rows = distributed.gather(batch.utterances).tolist()
                raise InputError(
                    non_finite_loss(loss_value, step, embeddings, [manifest[r].id for r in rows])
                )
            step += 1
            average.after_step(model, step, order.num_steps, steps_per_epoch)
            if log is None:
                continue  # the rest is the first process's; the others wait for it in the next step

            step_s = time.monotonic() - step_started
            figures = {
                "step": step,
                "samples": step * config.batch_size,
                "epoch": step / steps_per_epoch,
                "loss": loss_value,
                "accuracy": accuracy,
                "learning_rate": rate,
                "margin_fraction": head.margin_fraction,
                "grad_norm": norm,
                "crops_per_s": config.batch_size / step_s,
                "data_wait": waited_s / step_s,
            }
            if (
                validate is not None
                and validate_every
                and step % validate_every == 0
                and step < order.num_steps
            ):
                figures |= run_validation()
            log.write(figures)
            progress.update(config.batch_size, log.summary())
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save(finished=False)
                saved_at = time.monotonic()
        if log is not None and validate is not None and step == order.num_steps:
            figures = run_validation()
            log.write({"step": step, **figures})
            logger.info("validation: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    if distributed.is_first():
        save(finished=step == order.num_steps)
    return out


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW; weight decay falls on every parameter, as in the peers' recipes."""
    config = recipe.train
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            parameters,
            config.learning_rate,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=nesterov,
        )
    return torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)


def identity(manifest: Manifest) -> dict[str, Any]:
    """Return what must be the same for a training to be continued, besides the recipe."""
    return {"utterances": len(manifest), "speakers": len(manifest.speakers)}


def finished_before(out: Path, recipe: Recipe) -> bool:
    """Return whether `out` holds the finished model of this very recipe.

    Raises:
        InputError: it holds the model or the training of another recipe.
    """
    if not (out / folder.CONFIG).is_file():
        return False
    former, trained = folder.read_config(out)
    if former != recipe:
        changed = [key for key, value in to_dict(recipe).items() if to_dict(former)[key] != value]
        raise InputError(
            f"{out} holds the model of a recipe that differs in {', '.join(changed)}; choose another --out"
        )
    return bool(trained.get("finished"))


def resume(out: Path, manifest: Manifest) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the state that a former run left in `out`, or None to start anew.

    Raises:
        InputError: it was trained on other data, or its state is gone.
    """
    if not (out / folder.CONFIG).is_file():
        return None
    loaded = state.load_state(out)
    if loaded is None:
        raise InputError(f"{out}: the training is not finished, and its state {state.STATE} is missing")
    for name, value in identity(manifest).items():
        if loaded[1][name] != value:
            raise InputError(f"{out}: trained on {loaded[1][name]} {name} so far, the data now have {value}")
    return loaded


def load_weights(model: SpeakerModel, head: nn.Module, class_names: list[str], start_from: Path) -> None:
    """Put the weights of a model folder into `model`, and its head into `head` where the classes are the same.

    Raises:
        InputError: the folder's model has other features or another encoder.
    """
    former = folder.load_model(start_from)
    if not isinstance(former.model, SpeakerModel):
        raise InputError(f"{start_from}: an ONNX file can't be trained on; name a model folder")
    try:
        model.load_state_dict(former.model.state_dict())
    except RuntimeError as error:
        raise InputError(f"{start_from} does not fit the recipe's features and encoder: {error}") from error
    weights = folder.load_head(start_from)
    shapes = {name: tensor.shape for name, tensor in head.state_dict().items()}
    if former.speakers == class_names and {name: tensor.shape for name, tensor in weights.items()} == shapes:
        head.load_state_dict(weights)
    else:
        logger.warning(f"{start_from} was trained on other classes or another head: this one begins anew")


def non_finite_loss(loss: float, step: int, embeddings: Tensor, ids: list[str]) -> str:
    """Return the message for a loss that is not finite: the utterances to blame, or the whole batch."""
    bad = [
        name for name, ok in zip(ids, torch.isfinite(embeddings).all(dim=1).tolist(), strict=True) if not ok
    ]
    found = "their embeddings are not finite" if bad else "every embedding is finite; the batch was"
    return (
        f"the loss is {loss} at step {step}: {found}: {', '.join(bad or ids)}. "
        "Lower train.learning_rate, or look at these recordings."
    )
