"""The recipes for VoxCeleb: the published numbers, and a rehearsal of every one on a tree in its shape."""

import json
import zlib
from pathlib import Path

import pytest
import soundfile
import torch

from speakerverif import heads
from speakerverif._util import registry
from speakerverif._util.files import write_json
from speakerverif.cli.entry import main
from speakerverif.config import Recipe, load_recipe
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.models.encoders import redimnet, redimnet2
from speakerverif.models.features import build as build_features
from speakerverif.report import page
from speakerverif.training import plan
from speakerverif.training.batches import BatchOrder
from speakerverif.training.schedules import learning_rate, margin_fraction
from speakerverif.training.stages import run
from speakerverif.training.workspace import finetuned
from tests import voxceleb_tree
from tests.conftest import RATE, voice

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "voxceleb"
SYSTEMS = {  # parameters of the encoder, dimensions of the embedding
    "xvector": (4_610_524, 512),
    "ecapa_512": (6_190_720, 192),
    "ecapa_1024": (14_657_088, 192),
    "resnet34": (6_634_336, 256),
    "campplus": (7_176_224, 512),
    "eres2netv2": (17_859_632, 192),
    "redimnet_b0": (1_001_850, 192),
    "redimnet_b1": (2_123_480, 192),
    "redimnet_b2": (4_888_240, 192),
    "redimnet_b3": (3_220_412, 192),
    "redimnet_b4": (6_432_304, 192),
    "redimnet_b5": (7_650_544, 192),
    "redimnet_b6": (15_006_256, 192),
    "redimnet2_b6": (12_390_176, 192),
    "repvgg": (6_833_792, 256),
    "xi_vector": (5_896_448, 192),
}
SLOW = ("repvgg", "xi_vector")  # rehearsals of which only the encoder is new
NARROW = {  # so that a rehearsal takes seconds
    "xvector": ["channels=8", "pooling_channels=12", "embedding_dim=8"],
    "ecapa": [
        "channels=8",
        "mfa_channels=12",
        "attention_channels=4",
        "res2_scale=4",
        "se_channels=4",
        "embedding_dim=8",
    ],
    "resnet": ["channels=4", "embedding_dim=8"],
    "campplus": ["head_channels=4", "channels=16", "growth=8", "bottleneck_channels=16", "embedding_dim=8"],
    "eres2netv2": ["channels=8", "embedding_dim=8"],
    "redimnet": ["embedding_dim=8"],  # and `narrow_redimnet`
    "redimnet2": ["embedding_dim=8", "head_channels=4"],  # and `narrow_redimnet`
    "repvgg": ["blocks=[1, 1, 1, 1]", "widths=[4, 4, 8, 8]", "embedding_dim=8"],
}
SHORT = ["data.min_duration_s=0", "train.workers=0", "train.crops_per_utterance=1", "score.top_n=20"]
SHORT += ["calibration.short_s=[0.25, 0.3]", "calibration.trials=300"]
SHORT += ["train.learning_rate=1e-3"]  # in two steps there is no warming up
for stage in ("", "finetune."):  # two steps of 15 crops each
    SHORT += [f"{stage}train.{setting}" for setting in ("epochs=0.25", "batch_size=15", "crop_s=0.3")]


def recipe(system: str, *assignments: str) -> Recipe:
    return load_recipe(FOLDER / f"{system}.toml", list(assignments))


def stage_two(system: str) -> Recipe:
    second = finetuned(recipe(system))
    assert second is not None
    return second


def test_every_recipe_is_tested() -> None:
    others = {path.stem for path in FOLDER.glob("w*.toml")}  # `test_self_supervised_recipes`
    assert {path.stem for path in FOLDER.glob("*.toml")} - others == {*SYSTEMS, "common"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_sizes_are_the_published_ones(system: str) -> None:
    size = plan.size_of(recipe(system), num_speakers=5994)
    assert (size.encoder, size.embedding_dim) == SYSTEMS[system]
    bias = 1 if system == "redimnet2_b6" else 0  # SphereFace2's
    assert size.classes == 17_982 and size.head == 17_982 * size.embedding_dim + bias


@pytest.mark.parametrize("system", ["xvector", "ecapa_512", "ecapa_1024", "resnet34", "campplus", "repvgg"])
def test_wespeakers_numbers(system: str) -> None:
    one, two = recipe(system), stage_two(system)
    first = one.train
    assert (first.epochs, first.batch_size, first.optimizer, first.momentum) == (150, 256, "sgd", 0.9)
    assert first.weight_decay == 1e-4 and one.head["scale"] == 32 and one.augment.probability == 0.6
    rates = [learning_rate(first, epoch / 10) for epoch in range(1501)]
    assert max(rates) == pytest.approx(0.295, abs=5e-4) and rates.index(max(rates)) == 60
    assert rates[0] == 0 and rates[30] == pytest.approx(0.4 * 5e-4 ** (3 / 150) / 2)
    assert rates[-1] == pytest.approx(2e-4)
    shares = [margin_fraction(first.margin_schedule, epoch) for epoch in (0, 19, 21, 29, 39, 150)]
    assert shares == pytest.approx([0, 0, 1 - 0.001**0.1, 1 - 0.001**0.5, 1, 1])
    assert (first.average, first.last_k) == ("last_k", 10)
    assert one.augment.noise_snr_db == (0, 15) and one.augment.speech_snr_db == (10, 30)
    assert one.augment.music_snr_db == (5, 15)

    second = two.train
    assert (second.epochs, second.batch_size, two.head["margin"], second.average) == (5, 128, 0.5, "none")
    assert learning_rate(second, 0.5) == pytest.approx(2e-4 * 0.25**0.1 / 2)
    assert learning_rate(second, 5) == pytest.approx(5e-5)
    assert margin_fraction(second.margin_schedule, 0) == 1
    assert two.augment.speeds == (1.0, 0.9, 1.1) and two.augment.speed_probability == 0
    assert two.augment.probability == 0.6 and two.head["scale"] == 32


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name.startswith("redimnet_")])
def test_wespeakers_numbers_for_redimnet(system: str) -> None:
    one, two = recipe(system), stage_two(system)
    first = one.train
    assert (first.epochs, first.batch_size, first.weight_decay) == (120, 512, 2e-5)
    assert one.features.num_mels == (60 if system.endswith("b0") else 72)
    assert one.encoder == {"name": "redimnet", "size": system[-2:].upper()}
    assert learning_rate(first, 6) == pytest.approx(0.8 * 5e-4 ** (6 / 120))
    assert learning_rate(first, 120) == pytest.approx(4e-4)
    assert margin_fraction(first.margin_schedule, 29) == pytest.approx(1 - 0.001**0.5)
    assert (two.train.batch_size, two.train.learning_rate, two.head["margin"]) == (128, 2e-4, 0.5)


def test_wespeakers_numbers_for_redimnet2() -> None:
    one, two = recipe("redimnet2_b6"), stage_two("redimnet2_b6")
    first, second = one.train, two.train
    assert (first.epochs, first.batch_size, first.weight_decay) == (120, 1024, 2e-5)
    assert learning_rate(first, 6) == pytest.approx(1.2 * 6e-4 ** (6 / 120))
    assert learning_rate(first, 120) == pytest.approx(12 * 6e-5)
    assert one.head == {"name": "sphereface2", "margin": 0.2, "scale": 32.0, "t": 3.0, "positive_weight": 0.7}
    assert margin_fraction(first.margin_schedule, 29) == pytest.approx(1 - 0.001**0.5)
    assert (one.augment.probability, two.augment.probability, two.head["margin"]) == (0.6, 0, 0.3)
    assert (second.epochs, second.batch_size, learning_rate(second, 0)) == (5, 256, 1.2e-3)
    assert learning_rate(second, 5) == pytest.approx(1.2e-4)
    for config, frames in ((first, 200), (second, 600)):
        samples = round(config.crop_s * 16000)
        assert (
            build_features(one.features)(torch.zeros(1, samples), torch.tensor([samples]))[1].item() == frames
        )


def test_wespeakers_numbers_for_the_xi_vector() -> None:
    train = recipe("xi_vector").train
    assert (train.epochs, train.batch_size) == (150, 512)
    assert learning_rate(train, 150) == pytest.approx(8 * 5e-5)


def test_3d_speakers_numbers() -> None:
    one, two = recipe("eres2netv2"), stage_two("eres2netv2")
    first, second = one.train, two.train
    assert (first.epochs, first.batch_size, first.crop_s, first.average) == (70, 168, 3.0, "none")
    assert one.features.window == "povey" and one.head["margin"] == 0.3 and one.head["scale"] == 32
    assert learning_rate(first, 5) == 0.2 and learning_rate(first, 70) == pytest.approx(5e-5)
    assert learning_rate(first, 37.5) == pytest.approx((0.2 + 5e-5) / 2)
    shares = [margin_fraction(first.margin_schedule, epoch) for epoch in (20, 35, 50)]
    assert shares == pytest.approx([0, 1 - 0.001**0.5, 1])
    assert one.augment.probability == 0.8 and one.augment.kinds == ("noise", "reverb", "reverb+noise")
    assert (second.epochs, second.batch_size, second.crop_s, two.head["margin"]) == (7, 108, 6.0, 0.5)
    assert learning_rate(second, 1) == 1e-4 and learning_rate(second, 7) == pytest.approx(2e-5)
    assert two.augment.speed_probability == 0 and len(two.augment.speeds) == 3


@pytest.mark.parametrize("stage", [0, 1])
def test_crops_have_wespeakers_frames(stage: int) -> None:
    one = recipe("ecapa_512") if stage == 0 else stage_two("ecapa_512")
    samples = round(one.train.crop_s * 16000)
    _, frames = build_features(one.features)(torch.zeros(1, samples), torch.tensor([samples]))
    assert frames.tolist() == [[200], [600]][stage]


def test_an_epoch_of_vox2_dev_has_its_steps() -> None:
    one = recipe("ecapa_512").train
    speakers = torch.arange(1_092_009) // 183
    assert BatchOrder(speakers.numpy(), one, seed=0).num_steps == round(150 * 1_092_009 / 256)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` writes for 40 speakers to test on, 40 to train on, three recordings each."""
    root = tmp_path_factory.mktemp("voxceleb")
    voxceleb_tree.corpora(root, list(range(10270, 10310)), list(range(12, 52)))
    voxceleb_tree.noises_and_rooms(root, root / "lists")
    vox = ["--vox1", str(root / "voxceleb1"), "--vox2", str(root / "voxceleb2")]
    assert main(["prepare", "voxceleb", *vox, "--partial", "--out", str(root / "lists" / "voxceleb")]) == 0
    return root / "lists"


def stamps(out: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


@pytest.fixture
def narrow_redimnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages of one block for every size, of its own kind: no setting of a recipe makes it smaller."""
    stages = redimnet.Stage(1, 1, 1, 12), redimnet.Stage(2, 1, 1, 12)
    for name, size in redimnet.SIZES.items():
        narrow = size._replace(channels=8, group=min(size.group, 8), stages=stages)
        monkeypatch.setitem(redimnet.SIZES, name, narrow)
    stage2 = redimnet2.Stage(2, 4, 1, 2.0, 36)
    monkeypatch.setitem(redimnet2.SIZES, "B6", redimnet2.Size(2, (stage2,)))


@pytest.mark.parametrize(
    "system", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SYSTEMS]
)
def test_a_rehearsal(
    system: str,
    lists: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    narrow_redimnet: None,
) -> None:
    """All stages on 40 speakers with three recordings each; the second run does nothing."""
    if system != "ecapa_512":  # the page is drawn once: it takes half of the time, and no encoder changes it
        monkeypatch.setattr(page, "write_report", lambda results, out, **_: write_json(out / "drawn", 1))
    narrow = [f"encoder.{setting}" for setting in NARROW[recipe(system).encoder["name"]]]
    sets = [part for text in (*SHORT, *narrow) for part in ("--set", text)]
    command = ["run", str(FOLDER / f"{system}.toml"), "--data", str(lists), "--out", str(tmp_path), *sets]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "EER" in said.out and "minDCF(0.01)" in said.out
    assert "40 speakers, 120 utterances, 0.0 hours" in said.err
    assert f"120 classes, {961 if system == 'redimnet2_b6' else 960} parameters" in said.err
    assert said.err.count("0.25 epochs of 120 crops of 0.3 s, batch 15: 2 steps") == 2
    scored = json.loads((tmp_path / "scores" / "veri_test.json").read_text())
    assert (scored["bootstrap"]["unit"], scored["bootstrap"]["units"]) == ("speaker", 40)
    assert scored["model"]["training_speakers_in_trials"] == 0 and scored["raw"]["eer"] > 0
    trained, tuned = ((tmp_path / folder / "speakers.txt").read_text() for folder in ("model", "finetuned"))
    assert trained == tuned and trained.split()[40] == "id00012@speed0.9"
    assert "begins anew" not in said.err  # the head was carried over
    before = stamps(tmp_path)
    assert main(command) == 0
    assert stamps(tmp_path) == before
    assert capsys.readouterr().err.count("done before, nothing has changed") == 8
    if system == "xvector":  # the model before, without training it again
        assert main([*command, "--stages", "train,finetune,embed", "--set", "finetune={}"]) == 0
        assert "train: done before" in capsys.readouterr().err
        changed = {
            path.relative_to(tmp_path).parts[0] for path, at in stamps(tmp_path).items() if before[path] != at
        }
        assert changed == {"embeddings.npz", "embeddings_train.npz", "stages"}


def test_a_cohort_too_small_is_refused_before_training(lists: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"score\.top_n 300: the cohort is the 40 training speakers"):
        run(recipe("xvector", *SHORT, "score.top_n=300"), tmp_path, data_dir=lists)
    assert not (tmp_path / "model").exists()


def test_a_corpus_named_goes_before_lists_prepared(lists: Path, tmp_path: Path) -> None:
    one = recipe("xvector", *SHORT, "data.partial=true")
    places = {name: lists.parent / f"voxceleb{name[-1]}" for name in ("vox1", "vox2")}
    run(one, tmp_path, data_dir=lists, stages=("prepare",), places=places)
    assert (tmp_path / "data" / "prepared.json").is_file()


def test_lists_prepared_anew_are_noticed(lists: Path, tmp_path: Path) -> None:
    one = recipe("xvector", *SHORT)
    run(one, tmp_path, data_dir=lists, stages=("prepare",))
    stamp = tmp_path / "stages" / "prepare.json"
    former = stamp.read_text()
    prepared = lists / "voxceleb" / "prepared.json"
    text = prepared.read_text()
    prepared.write_text(text.replace('"notes": [', '"notes": ["another", '))
    run(one, tmp_path, data_dir=lists, stages=("prepare",))
    prepared.write_text(text)
    assert stamp.read_text() != former


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finetune.train.epoch=1", r"\[finetune\].train: unknown key 'epoch'; did you mean 'epochs'"),
        ("finetune.head.margin=9", "aam_softmax.margin: found 9"),
        ("encoder.name=ecapo", "unknown name 'ecapo'; did you mean 'ecapa'"),
        ("augment.rir_dir=nowhere", "nowhere: no recordings"),
        ("finetune.augment.noise_dir=nowhere", "nowhere: no recordings"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_done(
    lists: Path, tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(recipe("ecapa_512", setting), tmp_path / "out", data_dir=lists)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", registry.names("head"))
def test_the_plan_counts_what_the_head_holds(name: str) -> None:
    one = recipe("xvector", f"head={{name='{name}'}}", "augment.speeds=[1.0]")
    head = heads.build(one.head, 512, 7)
    size = plan.size_of(one, num_speakers=7)
    assert size.head == sum(p.numel() for p in head.parameters())


def test_the_memory_of_the_head() -> None:
    one = recipe("ecapa_512")
    size = plan.size_of(one, num_speakers=5994)
    assert plan.head_bytes(one, size) == 3 * 4 * 17_982 * 192  # weights, gradients, momentum
    adam = recipe("ecapa_512", "train.optimizer=adamw")
    assert plan.head_bytes(adam, size) == 4 * 4 * 17_982 * 192


def test_a_wrong_tree_ends_a_run_before_training(
    lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vox2").mkdir()
    vox = ["--vox1", str(lists.parent / "voxceleb1"), "--vox2", str(tmp_path / "vox2")]
    settings = [
        part for name in ("noise", "music", "speech", "rir") for part in ("--set", f"augment.{name}_dir=")
    ]
    command = ["run", str(FOLDER / "ecapa_512.toml"), *vox, "--out", str(tmp_path / "out"), *settings]
    assert main(command) == 2
    assert "vox2: the folder is empty" in capsys.readouterr().err
    assert main([*command, "--vox2", str(lists.parent / "voxceleb2")]) == 2
    assert "--set data.partial=true" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()


def test_the_train_command_takes_prepared_lists(lists: Path, tmp_path: Path) -> None:
    settings = [*SHORT, *(f"encoder.{setting}" for setting in NARROW["xvector"])]
    sets = [part for text in settings for part in ("--set", text)]
    command = [
        "train",
        str(FOLDER / "xvector.toml"),
        "--data",
        str(lists),
        "--out",
        str(tmp_path / "m"),
        *sets,
    ]
    assert main(command) == 0
    assert len((tmp_path / "m" / "speakers.txt").read_text().split()) == 120
    assert not (tmp_path / "m" / "data").exists()


@pytest.mark.slow
@pytest.mark.corpus
def test_a_rehearsal_on_every_file_of_the_published_list(
    shared: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = shared / "voxceleb" / "veri_test.txt"
    names = TrialList.read(published).ids
    for name in names:
        path = tmp_path / "voxceleb1" / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(int(name[2:7]) % 12, zlib.crc32(name.encode()) % 999, 0.4), RATE)
    root = lists.parent
    vox = ["--vox1", str(tmp_path / "voxceleb1"), "--vox2", str(root / "voxceleb2")]
    sets = [part for text in (*SHORT, "data.partial=true") for part in ("--set", text)]
    command = ["run", str(FOLDER / "ecapa_512.toml"), *vox, "--trials", str(published), "--data", str(lists)]
    assert main([*command, "--out", str(tmp_path / "out"), *sets]) == 0
    said = capsys.readouterr()
    assert "VoxCeleb1-O (original): 37,720 trials, 18,860 target and 18,860 non-target" in said.out
    assert "EER" in said.out and "minDCF(0.05)" in said.out
    scored = json.loads((tmp_path / "out" / "scores" / "vox1_o.json").read_text())
    assert scored["bootstrap"]["units"] == 40 and len(names) == 4715
    print(said.out)
