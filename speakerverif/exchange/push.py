"""A model folder to the Hugging Face hub, with the card that the hub wants."""

from pathlib import Path

from speakerverif.errors import InputError
from speakerverif.models import hub
from speakerverif.models.folder import CARD, CONFIG, OPTIONAL, SPEAKERS, WEIGHTS, read_model_folder


def push(folder: str | Path, name: str, *, license: str = "", private: bool = False) -> str:
    """Upload a model folder and return the repository's address; `load_model(name)` takes it from there.

    Uploaded are config, weights, head, speakers, back end, cohort, calibration and card; no log and no state of
    training.

    Args:
        folder: a model folder.
        name: `org/name`.
        license: for the card, such as `cc-by-4.0`; the licence of the training data governs which it may be.
        private: whether a repository that this call makes is visible to its owner alone.

    Raises:
        InputError: not a model folder, or the hub refuses.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a model folder")
    model = read_model_folder(folder)
    wanted = (CONFIG, WEIGHTS, SPEAKERS, *OPTIONAL)
    files = {file: (folder / file).read_bytes() for file in wanted if (folder / file).is_file()}
    files[CARD] = _card(folder, name, license).encode()
    return hub.upload(name, files, f"Add {model.name} ({model.fingerprint})", private)


def _card(folder: Path, name: str, license: str) -> str:
    """Return the folder's card, with the hub's header where it has none, and how to use the model."""
    path = folder / CARD
    text = path.read_text("utf-8") if path.is_file() else f"# {name}\n"
    if text.startswith("---\n"):
        return text
    header = ["library_name: speakerverif", "tags:", "- speaker-verification", "- speaker-embedding"]
    header += [f"license: {license}"] if license else []
    use = f'```python\nfrom speakerverif import load_model\n\nload_model("{name}").verify("a.wav", "b.wav")\n```\n'
    return "\n".join(["---", *header, "---", "", text]) + f"\n## Use\n\n{use}"
