"""A model of SpeechBrain's own making keeps its embeddings through import, embed, verify, export and onnxruntime."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from speakerverif import load_model
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from tests import foreign_models as foreign


@pytest.mark.parametrize(
    ("network", "mels"),
    [(foreign.SPEECHBRAIN_ECAPA, 80), (foreign.SPEECHBRAIN_XVECTOR, 24), (foreign.SPEECHBRAIN_RESNET, 80)],
    ids=["ecapa", "xvector", "resnet"],
)
def test_a_speechbrain_folder_all_the_way(network: str, mels: int, tiny_corpus: Path, tmp_path: Path) -> None:
    from speechbrain.inference.speaker import SpeakerRecognition

    torch.manual_seed(0)
    source = foreign.speechbrain_folder(tmp_path / "spkrec", network, mels)
    peer = SpeakerRecognition.from_hparams(str(source), savedir=str(tmp_path / "loaded"))
    files = [str(tiny_corpus / name) for name in ("spk0/0.wav", "spk0/3.wav", "spk1/1.wav")]
    waveforms = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in files]
    expected = np.stack([peer.encode_batch(waveform).flatten().numpy() for waveform in waveforms])

    model, table, exported = (str(tmp_path / name) for name in ("model", "e.npz", "m.onnx"))
    assert main(["import", "speechbrain", str(source), "--out", model]) == 0
    assert main(["embed", *files, "--model", model, "--out", table]) == 0
    np.testing.assert_allclose(EmbeddingTable.load(table).embeddings, expected, atol=1e-4)

    assert main(["verify", files[0], files[2], "--model", model, "--json", str(tmp_path / "v.json")]) == 0
    score = json.loads((tmp_path / "v.json").read_text())["score"]
    theirs = peer.verify_batch(waveforms[0][None], waveforms[2][None])[0]
    assert score == pytest.approx(float(theirs), abs=1e-4)

    assert main(["export", model, "--onnx", exported]) == 0
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    lengths = np.array([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).numpy()
    found = session.run(["embedding"], {"waveform": padded, "num_samples": lengths})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(load_model(exported).embed(files), expected, atol=1e-4)
