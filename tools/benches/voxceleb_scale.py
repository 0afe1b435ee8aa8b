"""VoxCeleb2 dev at its real size, 1,092,009 recordings: preparing it, and its manifest's cost in training.

The tree is made of links to tiny WAV files in a temporary folder; making and removing it takes longer than the
measurements.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from torch.utils.data import DataLoader, Dataset

from speakerverif.config import Recipe, TrainConfig
from speakerverif.corpora import _voxtree, voxceleb
from speakerverif.data.manifest import Manifest
from speakerverif.training.batches import BatchOrder, CropDataset
from tools.benches import _voxceleb_tree as tree
from tools.benches._case import Case

CROPS = 300  # read by the data-loading process whose memory is measured
CONFIG = TrainConfig(batch_size=256, epochs=150, crop_s=0.2)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="voxceleb_scale"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _prepare(threads: int) -> Case:
    root = _folder()
    files = tree.grow(root / "vox2" / "wav", 12, tree.DEV2) + tree.grow(
        root / "vox1" / "wav", 10270, tree.TEST1
    )
    (root / "vox1" / "veri_test.txt").write_text(tree.trials(10270, tree.TEST1))
    facts: dict[str, float | str] = {"files": files}

    def run() -> None:
        shutil.rmtree(root / "out", ignore_errors=True)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _status_mb("VmRSS")
        voxceleb.prepare(None, root / "out", vox1=root / "vox1", vox2=root / "vox2")
        # Only the first run counts: later ones reuse its memory.
        facts.setdefault("MB more at the peak", _status_mb("VmHWM") - before)

    return Case(run, rounds=1, facts=facts)


def _manifest(rows: int) -> Path:
    """Write a manifest of `rows` rows, all of one tiny recording, and return its path."""
    folder = _folder()
    recording = folder / "a.wav"
    soundfile.write(recording, np.zeros(16000, np.int16), 16000)
    speakers, videos, utterances = tree.DEV2
    path = folder / "train.tsv"
    done = 0
    with open(path, "wb") as file:
        file.write(_voxtree.HEADER)
        for name, count in tree.names(12, speakers, videos, utterances):
            if done >= rows:
                break
            done += count
            file.writelines(
                f"{name}/{n:05d}.wav\t{recording}\t{name[:7]}\t0.0\t1.0\n".encode()
                for n in range(1, count + 1)
            )
    return path


def _load(threads: int) -> Case:
    path = _manifest(tree.DEV2[2])
    manifest = Manifest.read(path)
    arrays = (manifest.ids, manifest.paths, manifest.speaker_index, manifest.start_s, manifest.duration_s)
    facts: dict[str, float | str] = {"rows": len(manifest), "MB held": sum(a.nbytes for a in arrays) / 1e6}
    return Case(lambda: Manifest.read(path), facts=facts)


def _first_batch(threads: int) -> Case:
    index = Manifest.read(_manifest(tree.DEV2[2])).speaker_index
    return Case(lambda: next(iter(BatchOrder(index, CONFIG, seed=0))))


class _PrivateMemory(Dataset[float]):
    """Dataset that reads crops and returns the private memory of the reading process in MB."""

    def __init__(self, path: Path) -> None:
        self.crops = CropDataset(Manifest.read(path), Recipe(train=CONFIG), None)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> float:
        for n in range(CROPS):
            self.crops[(0, n * 7919 % len(self.crops))]
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Private_"))


def _worker(threads: int) -> Case:
    large, small = _PrivateMemory(_manifest(tree.DEV2[2])), _PrivateMemory(_manifest(1000))
    facts: dict[str, float | str] = {}

    def run() -> None:
        mb = [next(iter(DataLoader(one, num_workers=1, batch_size=None))) for one in (large, small)]
        facts["MB of a worker"] = float(mb[0])
        facts["MB more than with 1,000 rows"] = float(mb[0] - mb[1])

    return Case(run, facts=facts)


CASES = {
    "prepare a tree of its size": _prepare,
    "load its manifest": _load,
    "first batch of the sampler": _first_batch,
    "memory of a data-loading process": _worker,
}
