"""Small trees in the shape of VoxCeleb, of made-up voices."""

from pathlib import Path

import soundfile

from speakerverif.corpora import musan, rirs
from tests.conftest import RATE, voice

VIDEO = "1zcIwhmdeo4"


def recordings(folder: Path, speakers: list[int], files: int, seconds: float = 0.4) -> list[str]:
    """Write `folder`/id…/video/00001.wav and so on, two videos a speaker, and return their ids."""
    names = []
    for k, speaker in enumerate(speakers):
        for n in range(files):
            name = f"id{speaker:05d}/{VIDEO[:-1]}{n % 2}/{n + 1:05d}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, voice(k % 12, speaker + n, seconds), RATE)
            names.append(name)
    return names


def trials(names: list[str]) -> str:
    """Return a trial list: every pair of a speaker, and every file with the next speaker's."""
    of = [name.split("/")[0] for name in names]
    rows = [
        (a, b) for i, a in enumerate(names) for j, b in enumerate(names[i + 1 :], i + 1) if of[i] == of[j]
    ]
    each = names[:: max(1, len(names) // len(set(of)))]
    rows += [(a, b) for k, a in enumerate(each) for b in each[k + 1 : k + 4]]
    return "".join(f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n" for a, b in rows)


def corpora(root: Path, tested: list[int], trained: list[int], files: int = 3) -> Path:
    """Write `root`/voxceleb1 with a list of its own, and `root`/voxceleb2."""
    names = recordings(root / "voxceleb1" / "wav", tested, files)
    recordings(root / "voxceleb2" / "dev" / "wav", trained, files)
    (root / "voxceleb1" / "veri_test.txt").write_text(trials(names))
    return root


def noises_and_rooms(root: Path, lists: Path) -> None:
    """Write small MUSAN and RIRS_NOISES trees, and their lists under `lists`."""
    for kind in ("noise", "music", "speech"):
        path = root / "musan" / kind / "some" / "a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, voice(len(kind), 0, 0.5), RATE)
    musan.prepare(root / "musan", lists / "musan")
    for kind in ("real_rirs_isotropic_noises", "simulated_rirs/smallroom"):
        folder = root / "RIRS_NOISES" / kind
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", voice(3, 1, 0.1), RATE)
        (folder / "rir_list").write_text(f"--rir-id 1 --room-id 1 RIRS_NOISES/{kind}/a.wav\n")
    rirs.prepare(root / "RIRS_NOISES", lists / "rirs")
