"""Preparation of a corpus, given its name and folder, by the modules in `corpora/`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speakerverif._util import registry
from speakerverif.config import Recipe
from speakerverif.corpora._prepared import Prepared, PreparedRecordings
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError

PREPARED = "prepared.json"


def prepare(corpus: str, root: Path | None, out: Path, **options: Any) -> Prepared | PreparedRecordings:
    """Check a corpus and write its lists under `out`: manifests and trials, or noises and room responses.

    Args:
        corpus: a file in `corpora/`.
        root: the corpus's folder.
        out: folder for the lists.
        options: further arguments of the corpus's `prepare`.

    Raises:
        InputError: unknown corpus or option, or a folder with other contents than expected.
    """
    module = registry.find("corpus", corpus, "corpus")
    strange = [name for name in options if name not in inspect.signature(module.prepare).parameters]
    if strange:
        raise InputError(f"--{strange[0]}: the corpus {corpus} takes no such option")
    if root is None and not options:
        raise InputError(f"where is {corpus}? name its folder with --data DIR or --root DIR")
    prepared: Prepared | PreparedRecordings = module.prepare(
        root and root.absolute(), out.absolute(), **options
    )
    if isinstance(prepared, Prepared):
        prepared.save(out / PREPARED)
    return prepared


def prepare_joined(corpora: Sequence[str], folder: Path | None, out: Path) -> Prepared:
    """Prepare several corpora, with the training utterances of all and the trials of the first.

    Args:
        corpora: files in `corpora/`, at least two.
        folder: has a subfolder per corpus, by name: the corpus, or its prepared lists.
        out: folder for the joined lists, and for a subfolder per corpus with its lists.

    Raises:
        InputError: as `prepare`; a corpus without speakers; a speaker or an utterance in two of them.
    """
    if folder is None:
        raise InputError(f"where are {', '.join(corpora)}? name the folder that holds them with --data DIR")
    parts = []
    for name in corpora:
        lists = lists_folder(name, folder, out / name)
        part = Prepared.load(lists / PREPARED) if lists != out / name else prepare(name, folder / name, lists)
        if not isinstance(part, Prepared):
            raise InputError(f"data.also: {name} has no speakers to train on")
        parts.append(part)
    Manifest.join([Manifest.read(part.train) for part in parts]).write(out / "train.tsv")
    notes = [f"{name}: {note}" for name, part in zip(corpora, parts, strict=True) for note in part.notes]
    joined = Prepared(out / "train.tsv", parts[0].trials, parts[0].audio_root, notes, parts[0].test)
    joined.save(out / PREPARED)
    return joined


def lists_folder(corpus: str, data_dir: Path | None, own: Path) -> Path:
    """Return `data_dir`/`corpus` if it has prepared lists, else `own`, where they will be written."""
    if data_dir is not None and (data_dir / corpus / PREPARED).is_file():
        return data_dir / corpus
    return own


def lists_of(recipe: Recipe, data_dir: Path | None, own: Path) -> Path:
    """Return the folder of the recipe's lists: in `data_dir` if prepared there, else `own`, as for joined lists."""
    return own if recipe.data.also else lists_folder(recipe.data.corpus, data_dir, own)


def prepare_recipe(
    recipe: Recipe, data_dir: Path | None, out: Path, places: dict[str, Any] | None = None
) -> None:
    """Prepare the recipe's corpus or corpora in `out`.

    Raises:
        InputError: as `prepare`; several corpora with options of a single one.
    """
    options = {**(places or {}), **options_of(recipe)}
    if not recipe.data.also:
        prepare(recipe.data.corpus, data_dir, out, **options)
        return
    if options:
        raise InputError(
            f"data.also: several corpora take no {', '.join(options)}; prepare each by itself first"
        )
    prepare_joined((recipe.data.corpus, *recipe.data.also), data_dir, out)


def options_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's options for the `prepare` of its corpus."""
    return {"partial": True} if recipe.data.partial else {}
