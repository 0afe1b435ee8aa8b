"""The main job on an embedded default, offline: synthesise, train, embed, score, report."""

from importlib.resources import files
from pathlib import Path

import torch

from speakerverif._util.toml import from_dict, read_toml
from speakerverif.config import Recipe
from speakerverif.corpora._prepare import PREPARED
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Utterance
from speakerverif.data.trials import TrialList
from speakerverif.evaluation.evaluate import evaluate
from speakerverif.evaluation.records import ScoringRecord
from speakerverif.inference.embed import embed
from speakerverif.inference.engines import load_for_inference
from speakerverif.models.folder import save_model
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring import cosine
from speakerverif.training.stages import run


def demo(out: Path, *, device: str = "cpu", seed: int | None = None) -> None:
    """Run the demo's recipe on synthetic speech under `out` and compare the network before and after it."""
    tables = read_toml(Path(str(files("speakerverif.demos") / "demo.toml")))
    recipe = from_dict(Recipe, tables if seed is None else {**tables, "seed": seed}, "demo.toml")
    records = run(recipe, out, data_dir=out / "corpus", device=device)
    name, record = next(iter(records.items()))
    untrained = _untrained(recipe, out, name, device)
    print(_table({"untrained": untrained, "trained": record}))
    print(
        f"\nmodel   {out / 'model'}\nscores  {out / 'scores' / f'{name}.txt'}\n"
        f"report  {out / 'report' / 'index.html'}"
    )


def _untrained(recipe: Recipe, out: Path, name: str, device: str) -> ScoringRecord:
    """Return the record of the same network before training, by the same code."""
    torch.manual_seed(recipe.seed)
    folder = out / "untrained"
    save_model(
        folder, SpeakerModel(recipe.features, recipe.encoder).state_dict(), {}, recipe, [], {"samples": 0}
    )
    trained = EmbeddingTable.load(out / "embeddings.npz")
    prepared = Prepared.load(out / "data" / PREPARED)
    utterances = [Utterance(i, str(prepared.audio_root / i), "") for i in trained.ids]
    table = embed(
        load_for_inference(folder, device, "torch"), utterances, device=device, label="embed untrained"
    )
    return evaluate(cosine.cosine(TrialList.read(prepared.trials[name]), table))


def _table(records: dict[str, ScoringRecord]) -> str:
    """Return EER and minDCF with 95 % intervals, one line a system."""
    lines = [f"{'':10} {'EER %':>22} {'minDCF(0.01)':>26} {'minDCF(0.05)':>26}"]
    for name, record in records.items():
        eer, ci95 = record.figures.eer, record.figures.eer_ci95
        cells = [f"{100 * eer:.2f}" + (f" [{100 * ci95.low:.2f}, {100 * ci95.high:.2f}]" if ci95 else "")]
        for cost in record.figures.costs:
            limits = f" [{cost.ci95.low:.3f}, {cost.ci95.high:.3f}]" if cost.ci95 else ""
            cells.append(f"{cost.minimum:.3f}{limits}")
        lines.append(f"{name:10} {cells[0]:>22} {cells[1]:>26} {cells[2]:>26}")
    return "\n".join(lines)
