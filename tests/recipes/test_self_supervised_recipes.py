"""The recipes with self-supervised front ends: their sizes, and a rehearsal of both files with a tiny WavLM."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speakerverif.config import Recipe, load_recipe
from speakerverif.models.folder import WEIGHTS
from speakerverif.training import plan
from speakerverif.training.stages import run
from speakerverif.training.workspace import finetuned
from tests import wavlm_reference as reference
from tests.models.test_self_supervised import needs_transformers

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "voxceleb"
TINY = [
    *("data.corpus=own", "data.validation_trials=validation", "data.min_duration_s=0"),
    *("augment.kinds=['noise']", "augment.kind_weights=[]", "augment.noise_dir="),
    *("augment.music_dir=", "augment.speech_dir=", "augment.rir_dir="),
    *(
        "train.workers=0",
        "train.epochs=0.5",
        "train.batch_size=8",
        "train.crop_s=0.5",
        "train.warmup_epochs=0",
    ),
    *(
        "train.average=none",
        "score.norm=none",
        "calibration.trials=0",
        "head.top_k=0",
        "train.learning_rate=1e-3",
    ),
    *(
        f"encoder.width={reference.WIDTH}",
        f"encoder.layers={reference.LAYERS}",
        f"encoder.heads={reference.HEADS}",
    ),
    *(f"encoder.feed_forward={reference.INNER}", f"encoder.conv_channels={reference.CHANNELS}"),
    *(f"encoder.position_kernel={reference.KERNEL}", f"encoder.position_groups={reference.GROUPS}"),
    *("encoder.backend.heads=2", "encoder.backend.compression=4", "encoder.backend.embedding_dim=8"),
]
SECOND = [
    f"finetune.train.{text}" for text in ("epochs=0.5", "batch_size=8", "crop_s=0.5", "warmup_epochs=0")
]


def recipe(system: str, *assignments: str) -> Recipe:
    return load_recipe(FOLDER / f"{system}.toml", list(assignments))


@pytest.mark.parametrize(
    ("system", "encoder", "classes"),
    [
        ("wavlm_base_plus_mhfa", 94_381_168 + 2_302_554, 5_994),
        ("wavlm_large_ecapa", 324_059_481, 17_982),
        pytest.param("w2v_bert2_mfa", 580_492_096 + 6_160_640, 17_982, marks=needs_transformers),
    ],
)
def test_sizes_and_stages(system: str, encoder: int, classes: int) -> None:
    first = recipe(f"{system}_{'lora' if 'bert' in system else 'frozen'}")
    joint = recipe(system)
    for stage in (first, joint):
        size = plan.size_of(stage, num_speakers=5994)
        assert (size.encoder, size.classes) == (encoder, classes)
    assert first.train.freeze == ("encoder.network",) and finetuned(first) is None
    assert joint.train.freeze == () and joint.train.lora.rank == 0
    assert joint.train.start_from == f"out/{first.name}/model"
    last = finetuned(joint)
    assert last is not None and last.head["margin"] == 0.5 and joint.head["margin"] == 0.2


def test_a_rehearsal_with_a_tiny_wavlm(tiny_corpus: Path, tmp_path: Path) -> None:
    """All stages of both files, from a folder of transformers: frozen, then together, then with a large margin."""
    torch.manual_seed(0)
    (tmp_path / "wavlm").mkdir()
    save_file(reference.random_state(reference.wavlm_shapes()), tmp_path / "wavlm" / "model.safetensors")
    (tmp_path / "wavlm" / "config.json").write_text(json.dumps(reference.CONFIG))
    stages = ("prepare", "train", "finetune", "embed", "backend", "score")
    first = recipe("wavlm_base_plus_mhfa_frozen", *TINY, f"train.pretrained={tmp_path / 'wavlm'}")
    run(first, tmp_path / "first", data_dir=tiny_corpus, stages=stages)
    frozen = load_file(tmp_path / "first" / "model" / WEIGHTS)
    bias = "encoder.layer_norm.bias"
    given = load_file(tmp_path / "wavlm" / "model.safetensors")[bias]
    name = f"encoder.network.{bias.replace('encoder.', 'encoder.transformer.')}"
    assert torch.equal(frozen[name], given)

    start = f"train.start_from={tmp_path / 'first' / 'model'}"
    records = run(
        recipe("wavlm_base_plus_mhfa", *TINY, *SECOND, start),
        tmp_path / "second",
        data_dir=tiny_corpus,
        stages=stages,
    )
    assert records["validation"].trials > 0 and 0 <= records["validation"].figures.eer <= 1
    tuned = load_file(tmp_path / "second" / "finetuned" / WEIGHTS)
    assert tuned.keys() == frozen.keys() and not torch.equal(tuned[name], given)
