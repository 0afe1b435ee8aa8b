"""MUSAN: music, speech and noise to mix into speech (Snyder et al. 2015, arXiv 1510.08484; OpenSLR 17)."""

from pathlib import Path

from speakerverif.corpora._prepared import PreparedRecordings, recordings_in, write_lists
from speakerverif.errors import InputError

EXPECTED = {"music": 660, "noise": 930, "speech": 426}


def prepare(root: Path, out: Path) -> PreparedRecordings:
    """Return the lists `music.txt`, `noise.txt` and `speech.txt`, for `augment.noise_dir` and similar options.

    Args:
        root: the folder that contains `music/`, `noise/` and `speech/`.
        out: folder for the lists.

    Raises:
        InputError: one of these folders without WAV files; files missing, empty or unreadable.
    """
    root = root.resolve()
    files = {name: recordings_in(root / name) for name in EXPECTED}
    lacking = [f"{name}/" for name, paths in files.items() if not paths]
    if lacking:
        inside = root / "musan"
        hint = f"; {inside} looks like it" if (inside / "noise").is_dir() else ""
        raise InputError(
            f"{root}: not MUSAN: no WAV files in {', '.join(lacking)}; "
            f"expected music/fma/*.wav, noise/free-sound/*.wav, speech/librivox/*.wav and so on{hint}"
        )
    return write_lists(files, EXPECTED, root, out)
