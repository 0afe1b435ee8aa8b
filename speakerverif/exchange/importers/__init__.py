"""Other toolkits' checkpoints become model folders: one file a kind, found by its `KIND`.

A kind reads what its toolkit wrote into a `Foreign`: features, network, and every tensor under the name it has
here. What a file lacks, what it holds besides and what has another shape is listed tensor by tensor; nothing is
left out in silence. Nothing of a checkpoint is executed: pickles are read for tensors alone, YAML as data.
"""

import hashlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import torch

from speakerverif._util.messages import nearest
from speakerverif.config import Recipe
from speakerverif.errors import InputError
from speakerverif.exchange.importers._foreign import Foreign, fitted
from speakerverif.models import hub
from speakerverif.models.folder import CONFIG, save_model


def kinds() -> dict[str, ModuleType]:
    """Return what can be imported: the kind's name and its module."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in found]
    return {module.KIND: module for module in modules}


def import_model(kind: str, source: str | Path, out: str | Path) -> Foreign:
    """Write the model folder of another toolkit's checkpoint, and return what was read.

    Args:
        kind: one of `kinds()`.
        source: a file or folder as the toolkit writes it; or `org/name` on the Hugging Face hub, where no such
            folder exists.
        out: the model folder; must not hold one yet.

    Raises:
        InputError: unknown kind, no such source, a file that is not of that kind, tensors that don't fit.
    """
    known, out = kinds(), Path(out)
    if kind not in known:
        raise InputError(f"unknown kind {kind!r}; {nearest(kind, list(known))}")
    if (out / CONFIG).exists():
        raise InputError(f"{out}: holds a model already; name another folder with --out")
    path = Path(source) if Path(source).exists() else hub.fetch(str(source), known[kind].FILES)
    foreign = known[kind].read(path)
    weights = fitted(foreign)
    recipe = Recipe(
        name=foreign.name or path.resolve().stem,
        features=foreign.features,
        encoder=foreign.network.encoder,
        head={},  # the other toolkit's class weights stay behind
    )
    digest = hashlib.sha256(foreign.weights_file.read_bytes()).hexdigest()
    facts = {"imported_from": kind, "source": str(source), "source_sha256": digest, **foreign.facts}
    with torch.inference_mode():
        save_model(out, weights, {}, recipe, foreign.speakers, facts)
    return foreign
