"""RIRS_NOISES: recorded and simulated room impulse responses (Ko et al. 2017, ICASSP; OpenSLR 28)."""

from pathlib import Path

from speakerverif.corpora._prepared import PreparedRecordings, write_lists
from speakerverif.data import _text
from speakerverif.errors import InputError

EXPECTED = {"real": 325, "simulated": 60000}
SHAPE = (
    "real_rirs_isotropic_noises/rir_list and simulated_rirs/{smallroom,mediumroom,largeroom}/rir_list "
    "with the recordings that they name"
)


def prepare(root: Path, out: Path) -> PreparedRecordings:
    """Return the lists `real.txt` and `simulated.txt`, either of which `augment.rir_dir` may name.

    The files are those in the corpus's lists, since the folder of real responses also contains noises.

    Args:
        root: the folder RIRS_NOISES.
        out: folder for the lists.

    Raises:
        InputError: not the corpus's folder; files missing, empty or unreadable.
    """
    root = root.resolve()
    lists = {
        "real": [root / "real_rirs_isotropic_noises" / "rir_list"],
        "simulated": sorted((root / "simulated_rirs").glob("*/rir_list")),
    }
    if not lists["real"][0].is_file() or not lists["simulated"]:
        inside = root / "RIRS_NOISES"
        hint = f"; {inside} looks like it" if inside.is_dir() else ""
        raise InputError(f"{root}: not RIRS_NOISES; expected {SHAPE}{hint}")
    files = {
        name: [path for rir_list in paths for path in _read(rir_list, root)] for name, paths in lists.items()
    }
    return write_lists(files, EXPECTED, root, out)


def _read(rir_list: Path, root: Path) -> list[Path]:
    """Return the files of a Kaldi `rir_list`: the last field of every line, below the corpus's parent."""
    files = []
    for line in _text.lines(rir_list):
        parts = Path(line.fields[-1]).parts
        if parts[:1] != ("RIRS_NOISES",) or ".." in parts:
            raise InputError(
                f"{rir_list}:{line.number}: found {line.text[:80]!r}; expected a line that ends in RIRS_NOISES/..."
            )
        # The folder may have been renamed, so its name in the list is ignored.
        files.append(root.joinpath(*parts[1:]))
    return files
