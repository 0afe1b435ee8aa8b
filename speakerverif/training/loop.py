"""The training loop: from a manifest to a model folder.

Every random choice follows from (seed, step), so on a CPU a run that was interrupted and resumed is bit-identical to
an uninterrupted one. Schedules are counted in samples. Under torchrun every process runs this loop on its part of each
batch (see `distributed`), and only the first writes and reports.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from speakerverif import heads
from speakerverif._util.progress import Progress
from speakerverif.audio.reading import Files
from speakerverif.config import Recipe, TrainConfig
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.models._cpu.swap import accelerate
from speakerverif.models.model import SpeakerModel
from speakerverif.training import distributed, parts, plan
from speakerverif.training.averaging import make_average, takes_part
from speakerverif.training.batches import Batch, BatchOrder, CropDataset, batches, make_loader
from speakerverif.training.checkpoints import Checkpoints, former_speakers, is_finished, resume
from speakerverif.training.interruption import Interruption
from speakerverif.training.log import StepFigures, TrainingLog
from speakerverif.training.recordings import REFUSE, BadFiles, readable
from speakerverif.training.schedules import learning_rate, margin_fraction
from speakerverif.training.spec_augment import spec_augment
from speakerverif.training.start import load_weights, speakers_with_former, start_of, with_network
from speakerverif.training.state import TrainingState

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
    source: Files | None = None,
    bad_files: BadFiles = REFUSE,
) -> Path:
    """Train a model and return its folder; a state of the same recipe in `out/training` is continued.

    When it continues, utterances may be missing, or new ones of known speakers may be added. SIGINT (Ctrl-C) and
    SIGTERM end it after a checkpoint; a second signal ends it at once.

    Args:
        recipe: settings of the model and its training.
        manifest: the training utterances; its speakers become the classes.
        out: the model folder, a working model at every checkpoint.
        data_dir: the folder that the recipe's relative noise and response folders start from.
        device: "cpu", "cuda" or "cuda:0".
        validate: called with the model in eval mode; its figures are logged.
        start_from: a model folder with initial weights (fine-tuning); None: the recipe's `train.start_from`.
        stop_after_steps: stop early and keep the state (to simulate an interruption).
        source: reads the recordings; None: `Files` without a default channel.
        bad_files: policy for recordings that can't be read.

    Raises:
        InputError: wrong recipe or data, recordings that can't be read, another recipe's model in `out`, a loss that
            is not finite (with the utterances of the batch).
        KeyboardInterrupt: SIGINT or SIGTERM, after the checkpoint.
    """
    recipe = with_network(recipe)
    if is_finished(out, recipe):
        logger.info(f"{out}: trained before by the same recipe")
        return out
    start = start_of(recipe, start_from)
    plan.check(recipe, len(manifest.speakers))
    manifest, left_out = readable(manifest, bad_files, source or Files())
    torch.manual_seed(recipe.seed)
    speakers = former_speakers(out, recipe)
    if speakers is None and start is not None and recipe.train.old_classes == "keep":
        speakers = speakers_with_former(manifest.speakers, start)
    dataset = CropDataset(manifest, recipe, data_dir, source, speakers, bad_files.skip)
    training = new_training(recipe, dataset.class_names, device, start)
    changes, left_out_before = resume(training, out, manifest)
    left_out = list(dict.fromkeys([*left_out_before, *left_out]))
    part = (distributed.rank(), distributed.size())
    order = BatchOrder(manifest.speaker_index, recipe.train, recipe.seed, training.step, part)
    checkpoints = Checkpoints(out, recipe, dataset.class_names, manifest, order.epoch_size, left_out, changes)
    pin_memory = torch.device(device).type != "cpu"
    crops = batches(make_loader(dataset, order, recipe.train.workers, pin_memory))
    last_step = min(order.num_steps, stop_after_steps or order.num_steps)
    _take_steps(training, order, crops, checkpoints, last_step, validate)
    return out


def _take_steps(
    training: TrainingState,
    order: BatchOrder,
    crops: Iterator[Batch],
    checkpoints: Checkpoints,
    last_step: int,
    validate: Validate | None,
) -> None:
    """Train until `last_step` or a signal, and save a checkpoint at the end.

    Raises:
        InputError: a recording that can't be read, a loss that is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM, after the checkpoint.
    """
    recipe, manifest, out = checkpoints.recipe, checkpoints.manifest, checkpoints.out
    batch_size, steps_per_epoch = recipe.train.batch_size, order.steps_per_epoch
    validations = _validation_steps(recipe, order)
    with (
        TrainingLog(out, training.step) if distributed.is_first() else contextlib.nullcontext() as written,
        Progress(order.num_steps * batch_size, "train", "crop", done=training.step * batch_size) as progress,
        Interruption() as interruption,
    ):
        while training.step < last_step and not interruption.requested():
            started = time.monotonic()
            try:
                batch = next(crops)
            except InputError as error:
                raise InputError(f"{error}{_saved_at_error(checkpoints, training)}") from error
            waited_s = time.monotonic() - started
            checkpoints.leave_out(batch.unreadable)
            figures = train_step(training, recipe, batch, training.step / steps_per_epoch, manifest)
            if takes_part(recipe.train, training.step, order.num_steps, steps_per_epoch):
                training.average_weights()
            if written is None:
                continue  # the others wait for the first process in the next step
            seconds = time.monotonic() - started
            written.step(training.step, batch_size, steps_per_epoch, figures, seconds, waited_s)
            progress.update(batch_size, written.summary())
            if validate is not None and training.step in validations:
                logger.info(written.validation(training.step, _validated(training, validate)))
            if training.step < last_step:
                checkpoints.save_when_due(training)
        if distributed.is_first():
            checkpoints.save(training, finished=training.step >= order.num_steps)
        distributed.as_first_says(True)  # no process ends before the checkpoint is written
    if training.step < last_step:
        logger.warning(
            f"{interruption.name}: checkpoint saved after step {training.step}; the same command continues"
        )
        raise KeyboardInterrupt


def _saved_at_error(checkpoints: Checkpoints, training: TrainingState) -> str:
    """Save a checkpoint when a recording that can't be read ends training; return a message for the user."""
    if not distributed.is_first() or training.step == 0:
        return ""
    checkpoints.save(training, finished=False)
    return f" (checkpoint saved after step {training.step}; mend the recording or continue with --skip-bad)"


def new_training(
    recipe: Recipe, class_names: list[str], device: str, start_from: Path | None
) -> TrainingState:
    """Return the state of a training before its first step, with random weights or those of `start_from`.

    Raises:
        InputError: a wrong value in the recipe, or a model that does not match it.
    """
    device_type, precision = torch.device(device).type, recipe.train.precision
    model = SpeakerModel(recipe.features, recipe.encoder).to(device)
    if device_type == "cpu" and not recipe.train.lora.rank:  # fast layers read weights as they are stored
        accelerate(model)
    head = heads.build(recipe.head, model.embedding_dim, len(class_names)).to(device)
    config = recipe.train
    if start_from is not None:
        load_weights(model, head, class_names, start_from, config.old_classes == "keep")
    elif config.pretrained:
        from speakerverif.exchange.front_ends import load_front_end

        load_front_end(model.encoder, config.pretrained)
    if config.lora.rank:
        parts.add_low_rank_changes(model.encoder, config.lora)
    parts.freeze(model.encoder, head, config)
    return TrainingState(
        model.train(),
        head.train(),
        make_optimizer(config, parts.optimizer_groups(model.encoder, head, config)),
        GradScaler(device_type, enabled=precision == "float16" and device_type != "cpu"),
        make_average(config, model),
    )


def train_step(
    training: TrainingState, recipe: Recipe, batch: Batch, epoch: float, manifest: Manifest
) -> StepFigures:
    """Update the networks on one batch, with the learning rate and margin at `epoch`, and return its figures.

    Raises:
        InputError: a loss that is not finite, with the utterances of the batch.
    """
    model, head, optimizer, scaler = training.model, training.head, training.optimizer, training.scaler
    precision = PRECISIONS[recipe.train.precision]
    rate = learning_rate(recipe.train, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    head.margin_fraction = margin_fraction(recipe.train.margin_schedule, epoch)

    if recipe.train.freeze or recipe.train.head_epochs:
        parts.set_modes(model.encoder, head, recipe.train, epoch)

    device = next(model.parameters()).device
    waveform = batch.waveform.to(device, non_blocking=True)
    features = _masked_features(model, waveform, recipe, training.step)
    optimizer.zero_grad(set_to_none=True)
    computed = []
    for part, own in zip(
        features.chunk(recipe.train.accumulate),
        batch.labels.to(device, non_blocking=True).chunk(recipe.train.accumulate),
        strict=True,
    ):
        labels = distributed.gather(own)
        with (
            torch.set_grad_enabled(not parts.head_alone(recipe.train, epoch)),
            torch.autocast(device.type, precision, enabled=precision != torch.float32),
            distributed.shared_batch_norm(recipe.train.shared_batch_norm),
        ):
            embeddings = model.encoder(part, None)
        embeddings = distributed.gather(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        loss, cosines = head(embeddings, labels)
        scaler.scale(loss * (len(part) / len(features))).backward()
        accuracy = head.accuracy(cosines, labels)
        computed.append((embeddings.detach(), torch.stack([loss.detach(), accuracy]), len(part)))
    distributed.average_gradients(training.parameters)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(training.parameters, recipe.train.max_grad_norm or float("inf"))
    scaler.step(optimizer)
    scaler.update()
    # Read together and last: each reading waits for all pending work of a GPU.
    means = torch.stack([figure * (count / len(features)) for _, figure, count in computed]).sum(0)
    figures = torch.cat([means, norm[None]]).tolist()
    if not math.isfinite(figures[0]):
        embeddings = torch.cat([part for part, _, _ in computed])
        rows = distributed.gather(batch.utterances).tolist()
        ids = [manifest[row].id for row in rows]
        raise InputError(non_finite_loss(figures[0], training.step, embeddings, ids))
    training.step += 1
    return StepFigures(figures[0], figures[1], rate, head.margin_fraction, figures[2])


@torch.no_grad()
def _masked_features(model: SpeakerModel, waveform: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return the features of a batch with SpecAugment's masks; also seeds the rest of this step."""
    part = rank, _ = distributed.rank(), distributed.size()
    step_seed = recipe.seed * 1_000_003 + step
    torch.manual_seed(step_seed * 1_009 + 1 + rank)  # dropout: different units in every process
    lengths = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    features, num_frames = model.features(waveform, lengths)
    generator = torch.Generator(waveform.device).manual_seed(step_seed)
    return spec_augment(features, num_frames, recipe.augment.spec, generator, part)


def _validation_steps(recipe: Recipe, order: BatchOrder) -> set[int]:
    """Return the steps after which the model is validated; they always include the last."""
    every = recipe.train.validate_every_epochs * order.steps_per_epoch
    regular = range(0, order.num_steps, max(1, round(every))) if every else ()
    return {*regular, order.num_steps} - {0}


def _validated(training: TrainingState, validate: Validate) -> dict[str, float]:
    """Return the validation figures of the model that would be saved now."""
    figures = validate(training.result.eval())
    training.model.train()
    return figures


def make_optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW, for the groups of `parts.optimizer_groups`.

    Weight decay applies to every parameter, as in the recipes of WeSpeaker and SpeechBrain.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
    nesterov = config.momentum > 0
    return torch.optim.SGD(
        groups, config.learning_rate, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov
    )


def non_finite_loss(loss: float, step: int, embeddings: Tensor, ids: list[str]) -> str:
    """Return the message for a loss that is not finite, with the utterances that cause it or the whole batch."""
    finite = torch.isfinite(embeddings).all(dim=1).tolist()
    bad = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
    cause = "their embeddings are not finite" if bad else "every embedding is finite; the batch was"
    return (
        f"the loss is {loss} at step {step}: {cause}: {', '.join(bad or ids)}. "
        "Lower train.learning_rate, or listen to these recordings."
    )
