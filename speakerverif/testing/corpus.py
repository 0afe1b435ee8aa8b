"""The contract of corpora."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from speakerverif.audio import reading
from speakerverif.corpora import _prepare
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.testing._checking import checking, name_of, require, require_refusal


def check_corpus(module: ModuleType | str, root: str | Path, **options: Any) -> None:
    """Check that a corpus module prepares the corpus in a folder as recipes need it.

    `prepare(root, out)` returns a `corpora.Prepared` (or, for noise, music and rooms, a `corpora.PreparedRecordings`).
    Every file of its lists is there and is audio; every id of its trial lists is an utterance; a second run writes the
    same lists; a folder that isn't the corpus is refused with an `InputError`.

    Args:
        module: the corpus's module, or its name as in a recipe.
        root: the corpus's folder; a small copy with a few files is enough.
        options: further arguments of its `prepare`.

    Raises:
        InputError: a broken promise, named; or what is wrong with the corpus.
    """
    name = name_of("corpus", module)
    with checking(f"corpus {name}"), tempfile.TemporaryDirectory() as scratch:
        outs = [Path(scratch, str(n)) for n in range(2)]
        first, _ = (_prepare.prepare(name, Path(root), out, **options) for out in outs)
        kept = ["prepare.json", "prepared.json"]  # what may name the folder that they were written to
        texts = [
            {
                path.relative_to(out): path.read_bytes()
                for path in out.rglob("*")
                if path.is_file() and path.name not in kept
            }
            for out in outs
        ]
        require(
            texts[0] == texts[1],
            "a second run writes other lists: sort what you find, and seed what you draw",
        )
        if isinstance(first, Prepared):
            paths = [utterance.path for utterance in Manifest.read(first.train)]
            for trials in first.trials.values():
                paths += [utterance.path for utterance in first.utterances(TrialList.read(trials).ids)]
        else:
            paths = [line for path in first.lists.values() for line in path.read_text("utf-8").splitlines()]
        require(bool(paths), "its lists are empty")
        for path in dict.fromkeys(paths):
            reading.info(Path(path))
        (Path(scratch) / "empty").mkdir()
        require_refusal(
            "an empty folder", lambda: _prepare.prepare(name, Path(scratch, "empty"), Path(scratch, "none"))
        )
