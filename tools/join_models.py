"""Join trained models into an ensemble whose cosine is the mean of theirs, or whitened.

    python tools/join_models.py recipes/default/joined.toml A B C --manifest train.tsv --data DIR --out MODEL

The whitening (WCCN, of all embeddings side by side) is fitted on the crops that the recipe's `[train]` draws from the
training list, its `[augment]` included: the directions in which noise, rooms and telephone lines move an embedding
count as variation within speakers, and get less weight. The models' own encoders replace the recipe's `[encoder]`;
their features must be equal.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.progress import Progress
from speakerverif.config import Recipe, load_recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.models.encoders.ensemble import Ensemble
from speakerverif.models.folder import ModelFolder, read_model_folder, save_model
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring.backends import wccn as whitening
from speakerverif.training.batches import BatchOrder, CropDataset, batches, make_loader


def join(
    recipe: Recipe, folders: list[ModelFolder], manifest: Manifest, data_dir: Path | None, out: Path
) -> None:
    """Write the joined model folder `out`.

    Raises:
        InputError: models with different features or of the same name; what reading the training list raises.
    """
    members = {folder.name: folder.recipe.encoder for folder in folders}
    if len(members) < len(folders):
        raise InputError(f"models of the same name: {', '.join(folder.name for folder in folders)}")
    if different := [f.name for f in folders if f.recipe.features != recipe.features]:
        raise InputError(f"{', '.join(different)}: other features than the recipe's")
    recipe = dataclasses.replace(
        recipe, encoder={"name": "ensemble", "members": members, "whiten": True}, head={}
    )
    model = SpeakerModel(recipe.features, recipe.encoder).eval()
    ensemble = model.encoder
    assert isinstance(ensemble, Ensemble)
    for folder in folders:
        assert isinstance(folder.model, SpeakerModel)
        ensemble.members[folder.name].load_state_dict(folder.model.encoder.state_dict())

    dataset = CropDataset(manifest, recipe, data_dir)
    order = BatchOrder(manifest.speaker_index, recipe.train, recipe.seed)
    embeddings: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    with Progress(len(order), "whiten", "step") as progress, torch.inference_mode():
        for batch in batches(make_loader(dataset, order, recipe.train.workers)):
            lengths = torch.full((len(batch.waveform),), batch.waveform.shape[1])
            features, _ = model.features(batch.waveform, lengths)
            embeddings.append(ensemble.side_by_side(features).numpy())
            labels.append(batch.labels.numpy())
            progress.update(1)
    wccn = whitening.build(whitening.Config())
    wccn.fit(np.concatenate(embeddings), np.concatenate(labels))
    layer = ensemble.whitening
    assert layer is not None and wccn.mean is not None and wccn.matrix is not None
    layer.weight.data = torch.from_numpy(wccn.matrix.T).float()
    layer.bias.data = torch.from_numpy(-wccn.mean @ wccn.matrix).float()

    trained = {
        "joined": [f"{folder.name} {folder.fingerprint}" for folder in folders],
        "crops": len(order) * recipe.train.batch_size,
        "finished": True,
    }
    save_model(out, model.state_dict(), {}, recipe, dataset.class_names, trained)


def main() -> int:
    """Read the command line and join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--manifest", type=Path, required=True, metavar="TSV", help="training list")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder that noise and room folders are relative to"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        recipe = load_recipe(arguments.recipe, arguments.assignments)
        folders = [read_model_folder(path) for path in arguments.models]
        join(recipe, folders, Manifest.read(arguments.manifest), arguments.data, arguments.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {read_model_folder(arguments.out).fingerprint}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
