"""Pre-trained front ends of other toolkits, and transformers' `WavLMForXVector`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from speakerverif.errors import InputError
from speakerverif.exchange.front_ends import load_front_end
from speakerverif.exchange.importers import assumptions, import_model
from speakerverif.models import encoders
from speakerverif.models.encoders.self_supervised import SelfSupervised
from speakerverif.models.folder import read_model_folder
from tests import wavlm_reference as reference

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers, the extra w2v_bert"
)
SIZES = {
    "width": reference.WIDTH,
    "layers": reference.LAYERS,
    "heads": reference.HEADS,
    "feed_forward": reference.INNER,
    "conv_channels": reference.CHANNELS,
    "position_kernel": reference.KERNEL,
    "position_groups": reference.GROUPS,
}
BACKEND = {"name": "mhfa", "heads": 2, "compression": 4}
FAIRSEQ = {
    "feature_projection.projection.": "post_extract_proj.",
    "feature_projection.layer_norm.": "layer_norm.",
    "encoder.pos_conv_embed.conv.": "encoder.pos_conv.0.",
    ".attention.gru_rel_pos_linear.": ".self_attn.grep_linear.",
    ".attention.gru_rel_pos_const": ".self_attn.grep_a",
    ".attention.rel_attn_embed.": ".self_attn.relative_attention_bias.",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".fc1.",
    ".feed_forward.output_dense.": ".fc2.",
    "conv_layers.0.layer_norm.": "conv_layers.0.2.",
    ".conv.weight": ".0.weight",
}


def front_end(**settings: Any) -> SelfSupervised:
    table = {"name": "self_supervised", "backend": BACKEND, **SIZES, **settings}
    encoder = encoders.build(table, 1)
    assert isinstance(encoder, SelfSupervised)
    return encoder.eval()


def wavlm_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return reference.random_state(reference.wavlm_shapes())


def written(folder: Path, state: dict[str, Tensor], **config: object) -> Path:
    """Write a transformers folder, and return it."""
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(reference.CONFIG | config))
    return folder


def fairseq_name(name: str) -> str:
    """Return the name that WavLM's authors give to a tensor of transformers."""
    theirs = next((part for part in FAIRSEQ if part in name), "")
    name = name.replace(theirs, FAIRSEQ[theirs]) if theirs else name
    if name.startswith("encoder.layers.") and name.split(".")[3] == "layer_norm":
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
    return name


def check_frames(encoder: SelfSupervised, state: dict[str, Tensor]) -> None:
    """Compare the frames of all layers with the reference's."""
    waveform = 0.1 * torch.randn(4000)
    with torch.inference_mode():
        layers, _ = encoder.network(waveform[None, :, None], None)
        for ours, theirs in zip(layers, reference.wavlm(state, waveform), strict=True):
            torch.testing.assert_close(ours[0], theirs, atol=1e-4, rtol=1e-4)


def test_a_transformers_folder(tmp_path: Path) -> None:
    state, encoder = wavlm_state(), front_end()
    load_front_end(encoder, str(written(tmp_path / "wavlm", state)))
    check_frames(encoder, state)


def test_a_file_of_wavlms_authors(tmp_path: Path) -> None:
    state, encoder = wavlm_state(), front_end()
    model = {fairseq_name(name): t for name, t in state.items() if name != "masked_spec_embed"}
    assert "encoder.layers.1.self_attn.grep_linear.weight" in model
    assert "encoder.layers.0.self_attn_layer_norm.bias" in model and "layer_norm.bias" in model
    cfg = {"encoder_attention_heads": reference.HEADS, "normalize": False, "layer_norm_first": False}
    torch.save({"cfg": cfg, "model": model | {"mask_emb": torch.zeros(3)}}, tmp_path / "WavLM-Base+.pt")
    load_front_end(encoder, str(tmp_path / "WavLM-Base+.pt"))
    check_frames(encoder, state)


def test_a_state_dict_of_torchaudio(tmp_path: Path) -> None:
    former, encoder = front_end(network="wav2vec2"), front_end(network="wav2vec2")
    torch.save(former.network.state_dict() | {"aux.bias": torch.zeros(3)}, tmp_path / "hubert.pth")
    load_front_end(encoder, str(tmp_path / "hubert.pth"))
    waveform = torch.randn(1, 4000, 1)
    assert torch.equal(former.network(waveform, None)[0][-1], encoder.network(waveform, None)[0][-1])


def test_front_ends_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = wavlm_state()
    source = str(written(tmp_path / "wavlm", state))
    with pytest.raises(InputError, match=r"was trained with heads 2, .* set encoder\.heads = 2"):
        load_front_end(front_end(heads=4), source)
    with pytest.raises(
        InputError, match=r"encoder\.layers\.2.* is missing|transformer\.layers\.2.* is missing"
    ):
        load_front_end(front_end(layers=3), source)
    with pytest.raises(InputError, match=r"was trained with network wavlm"):
        load_front_end(front_end(network="wav2vec2"), source)
    with pytest.raises(InputError, match=r"is for the encoder self_supervised"):
        load_front_end(encoders.build({"name": "xvector", "channels": 8}, 8), source)
    (tmp_path / "wavlm" / "preprocessor_config.json").write_text('{"do_normalize": true}')
    with pytest.raises(InputError, match=r"set encoder\.normalize_waveform = true"):
        load_front_end(front_end(), source)
    state["encoder.layer_norm.bias"] = state["encoder.layer_norm.bias"] * torch.nan
    with pytest.raises(InputError, match="NaN"):
        load_front_end(front_end(), str(written(tmp_path / "nan", state)))
    with pytest.raises(InputError, match="its tensors begin with a"):
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        load_front_end(front_end(), str(tmp_path / "other.safetensors"))


def test_a_wavlm_xvector_is_imported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = reference.random_state(reference.xvector_shapes())
    source = written(tmp_path / "source", state)
    with pytest.raises(InputError, match=r"--set encoder\.normalize_waveform=true"):
        import_model("transformers", source, tmp_path / "model")
    (source / "preprocessor_config.json").write_text('{"do_normalize": false}')
    foreign = import_model("transformers", source, tmp_path / "model")
    assert assumptions(foreign).startswith("samples in [-1, 1] times 1; 16000 Hz; network wavlm")
    model = read_model_folder(tmp_path / "model").model
    waveform = 0.1 * torch.randn(2, 9000)
    with torch.inference_mode():
        expected = torch.stack(
            [reference.xvector(state, waveform[0]), reference.xvector(state, waveform[1, :8000])]
        )
        waveform[1, 8000:] = torch.nan
        found = model(waveform, torch.tensor([9000, 8000]))
    assert cosine_similarity(found, expected).min() > 1 - 1e-4
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["WavLMModel"]}, r"expected \['WavLMForXVector'\].*train\.pretrained"),
        ({"tdnn_kernel": [5, 3, 3, 3, 1]}, r"tdnn_kernel .*: expected \[5, 3, 3, 1, 1\]"),
        ({"tdnn_dim": [12, 8, 12, 12, 20]}, "four equal widths"),
        ({"num_buckets": 32}, "num_buckets 32: expected 320"),
        ({"feat_extract_norm": "layer"}, "expected layer with true"),
        ({"model_type": "bert"}, "model_type 'bert'"),
    ],
)
def test_other_models_of_transformers_are_refused(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    source = written(tmp_path / "source", {"a": torch.zeros(1)}, **config)
    with pytest.raises(InputError, match=message):
        import_model("transformers", source, tmp_path / "model")


@needs_transformers
@pytest.mark.parametrize("weighted", [True, False])
def test_transformers_itself_gives_the_same_embeddings(tmp_path: Path, weighted: bool) -> None:
    from transformers import WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = {**reference.CONFIG, "use_weighted_layer_sum": weighted}
    theirs = WavLMForXVector(WavLMConfig(**config)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "source")
    import_model(
        "transformers", tmp_path / "source", tmp_path / "model", ["encoder.normalize_waveform=false"]
    )
    waveform = 0.1 * torch.randn(2, 9000)
    with torch.inference_mode():
        found = read_model_folder(tmp_path / "model").model(waveform)
        assert cosine_similarity(found, theirs(waveform).embeddings).min() > 1 - 1e-4
