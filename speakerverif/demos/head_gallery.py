"""Pictures of the heads: what each does to three-dimensional embeddings of ten speakers.

A small network is trained anew under every head, on the same synthetic speech, with an embedding of only three
dimensions, which can be looked at. After Wang, Cheng, Liu, Liu, "Additive margin softmax for face verification",
2018, arXiv 1801.05599, fig. 5, which shows Fashion-MNIST.
"""

import base64
import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speakerverif import heads
from speakerverif._util.files import write_atomically
from speakerverif._util.progress import Progress
from speakerverif.config import FeatureConfig
from speakerverif.corpora import synthetic
from speakerverif.demos import _sphere_plots as plots
from speakerverif.demos._sphere_plots import Sphere, Target
from speakerverif.models import features

SPEAKERS, SESSIONS, UTTERANCES = 10, 6, 8  # the last session of every speaker is not trained on
PER_SPEAKER = 4  # crops of every speaker in a batch, as the losses on pairs need
CROP_FRAMES = 100  # 1 s
MARGIN_FROM, MARGIN_TO = 0.1, 0.5  # of the steps: the margin grows between them


@dataclass(frozen=True)
class Picture:
    """A head, as a recipe's table, and what the pictures call it."""

    title: str
    head: dict[str, Any]


def _am(margin: float) -> Picture:
    return Picture(f"AM-Softmax, m = {margin:g}", {"name": "am_softmax", "margin": margin})


def _aam(margin: float) -> Picture:
    return Picture(f"AAM-Softmax, m = {margin:g}", {"name": "aam_softmax", "margin": margin})


NORMFACE = Picture("NormFace (m = 0)", {"name": "normface"})
GROWING = (
    (NORMFACE, _am(0.1), _am(0.2), _am(0.35), _am(0.5)),
    (NORMFACE, _aam(0.1), _aam(0.2), _aam(0.35), _aam(0.5)),
)
EVERY = (
    (
        Picture("Softmax", {"name": "softmax"}),
        Picture("Modified softmax", {"name": "modified_softmax"}),
        NORMFACE,
        Picture("L-Softmax, m = 4", {"name": "l_softmax"}),
        Picture("A-Softmax, m = 4", {"name": "a_softmax"}),
    ),
    (
        _am(0.2),
        _aam(0.2),
        Picture("Sub-center AAM, K = 2", {"name": "sub_center", "sub_centers": 2}),
        Picture("Inter-top-K AAM, K = 5", {"name": "inter_top_k"}),
        Picture("SphereFace2-C, m = 0.2", {"name": "sphereface2"}),
    ),
    (
        Picture("Softmax + center loss", {"name": "center"}),
        Picture("Triplet, semi-hard", {"name": "triplet", "mining": "semi_hard"}),
        Picture("Circle, γ = 32", {"name": "circle", "scale": 32.0}),
        Picture("GE2E", {"name": "ge2e"}),
        Picture("Angular prototypical", {"name": "angular_prototypical"}),
    ),
)
HEADINGS = (
    "The margin grows, and the speakers draw apart",
    "Every head, on the same speech",
)
KEY = (
    "Embeddings in three dimensions, of ten synthetic speakers. Small dots: recordings trained on; large: a session "
    "never heard; rings hold nine tenths of a speaker; pins: class weights.\nFigures: mean angle between two "
    "recordings of one speaker (session never heard), and from a speaker's mean to that of the nearest other."
)


class Encoder(nn.Module):
    """Two convolutions over time, mean and deviation, and an embedding of three dimensions."""

    def __init__(self, num_mels: int, channels: int = 48):
        super().__init__()
        self.frames = nn.Sequential(
            *(nn.Conv1d(num_mels, channels, 5, stride=3), nn.ReLU(), nn.BatchNorm1d(channels)),
            *(nn.Conv1d(channels, channels, 5, stride=3), nn.ReLU(), nn.BatchNorm1d(channels)),
        )
        self.embedding = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.BatchNorm1d(channels), nn.Linear(channels, 3)
        )

    def forward(self, found: Tensor) -> Tensor:
        """Return embeddings (B, 3) of features (B, frames, mels)."""
        frames = self.frames(found.transpose(1, 2))
        return self.embedding(torch.cat([frames.mean(dim=2), frames.std(dim=2)], dim=1))


def write(out: Path, seed: int = 0, steps: int = 300) -> Path:
    """Train every head, write `margins.png`, `heads.png`, `curves.png` and `index.html`; return the page's path.

    Args:
        out: made where it does not exist.
        seed: of the speech, of the network and of the batches; the same for every head.
        steps: of training, a head.
    """
    out.mkdir(parents=True, exist_ok=True)
    speech = synthetic_features(seed)
    pictures = {picture.title: picture for group in (GROWING, EVERY) for row in group for picture in row}
    spheres: dict[str, Sphere] = {}
    with Progress(len(pictures), "heads", "head") as progress:
        for title, picture in pictures.items():
            spheres[title] = train(picture, speech, seed, steps)
            progress.update(1, title)
    model = facing(spheres[GROWING[0][-1].title])
    spheres = {title: aligned(sphere, model) for title, sphere in spheres.items()}
    groups = [[[spheres[p.title] for p in row] for row in group] for group in (GROWING, EVERY)]
    images = [plots.sphere_rows(g, heading, KEY) for g, heading in zip(groups, HEADINGS, strict=True)]
    images.append(plots.curves(*target_curves()))
    for name, image in zip(("margins", "heads", "curves"), images, strict=True):
        write_atomically(out / f"{name}.png", image)
    write_atomically(out / "index.html", page(groups, images[-1]))
    return out / "index.html"


def synthetic_features(seed: int) -> Tensor:
    """Return features (speakers, sessions, utterances, frames, mels) of synthetic recordings of 2 s."""
    shape = synthetic.Shape(SPEAKERS, SESSIONS, UTTERANCES, duration_s=(2.0, 2.0), seed=seed)
    places = np.ndindex(SPEAKERS, SESSIONS, UTTERANCES)
    waveform = torch.from_numpy(np.stack([synthetic.recording(shape, *place) for place in places])).float()
    frontend = features.build(FeatureConfig(num_mels=40))
    found, _ = frontend(waveform, torch.full((len(waveform),), waveform.shape[1]))
    return found.reshape(SPEAKERS, SESSIONS, UTTERANCES, *found.shape[1:])


def train(picture: Picture, speech: Tensor, seed: int, steps: int) -> Sphere:
    """Return the sphere of a network trained under one head, with the margin growing from 0."""
    speakers, sessions, utterances, num_frames, num_mels = speech.shape
    heard = speech[:, :-1].flatten(1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, head = Encoder(num_mels), heads.build(picture.head, 3, speakers)
        parameters = [*encoder.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=1e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        labels = torch.arange(speakers).repeat_interleave(PER_SPEAKER)
        for step in range(steps):
            head.margin_fraction = float(np.interp(step / steps, (MARGIN_FROM, MARGIN_TO), (0, 1)))
            drawn = torch.rand(heard.shape[:2]).argsort(dim=1)[:, :PER_SPEAKER].flatten()
            start = int(torch.randint(num_frames - CROP_FRAMES + 1, ()))
            loss, _ = head(encoder(heard[labels, drawn, start : start + CROP_FRAMES]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    with torch.no_grad():
        embeddings = encoder.eval()(speech.flatten(0, 2)).double().numpy()
        found = [p for name, p in head.named_parameters() if name.endswith("weight")]
        weights = found[0].double().numpy() if found else np.empty((0, 3))
    lengths = np.linalg.norm(embeddings, axis=1)
    speaker, session, _ = np.indices((speakers, sessions, utterances)).reshape(3, -1)
    return Sphere(
        title=picture.title,
        points=embeddings / lengths[:, None],
        lengths=lengths,
        labels=speaker,
        unheard=session == sessions - 1,
        weights=weights / np.linalg.norm(weights, axis=1, keepdims=True),
        weight_labels=np.arange(len(weights)) * speakers // max(len(weights), 1),
    )


def facing(sphere: Sphere) -> Sphere:
    """Return the sphere turned so that as many speakers as can be face the viewer, far from the edge."""
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    best = directions[np.minimum(directions @ sphere.means().T, 0.5).sum(axis=1).argmax()]
    # The axes of the two frames: the direction found, and that of the eye, each with two at right angles to it.
    here, there = (np.linalg.qr(np.column_stack([d, np.eye(3)[:, :2]]))[0] for d in (best, plots.VIEW[2]))
    sign = np.sign(here[:, 0] @ best) * np.sign(there[:, 0] @ plots.VIEW[2])
    return turned(sphere, here @ np.diag([sign, 1, 1]) @ there.T)


def aligned(sphere: Sphere, like: Sphere) -> Sphere:
    """Return the sphere turned (and mirrored, if need be) so that its speakers lie near `like`'s.

    A turn changes no angle, and training has no reason to prefer one; so pictures compare more easily.

    Source:
        The orthogonal Procrustes problem, Schoenemann 1966.
    """
    left, _, right = np.linalg.svd(sphere.means().T @ like.means())
    return turned(sphere, left @ right)


def turned(sphere: Sphere, turn: np.ndarray) -> Sphere:
    """Return the sphere with every direction multiplied by an orthogonal matrix (3, 3) from the right."""
    return replace(sphere, points=sphere.points @ turn, weights=sphere.weights @ turn)


def target_curves() -> tuple[list[tuple[str, Target]], list[tuple[str, str, Target]]]:
    """Return the curves and boundaries that `plots.curves` draws, as functions of the cosine."""

    def target(**table: Any) -> Target:
        head: Any = heads.build(table, 3, SPEAKERS)
        return lambda cosine: head.target(torch.from_numpy(cosine)).numpy()

    binary: Any = heads.build({"name": "sphereface2"}, 3, SPEAKERS)
    multiplied, annealed, doubled = (
        target(name="a_softmax", margin=m, lambda_end=end) for m, end in ((4, 0.0), (4, 5.0), (2, 0.0))
    )
    am, aam = target(name="am_softmax", margin=0.35), target(name="aam_softmax", margin=0.5)
    plain = target(name="normface")
    lines: list[tuple[str, Target]] = [
        ("Softmax, NormFace: cos θ", plain),
        ("AM-Softmax, m = 0.35", am),
        ("AAM-Softmax, m = 0.5", aam),
        ("L-, A-Softmax, m = 2", doubled),
        ("L-, A-Softmax, m = 4", multiplied),
        ("as trained, λ = 5", annealed),
        (
            "SphereFace2-C, m = 0.2",
            lambda c: binary.positive(torch.from_numpy(c)).numpy() / binary.config.scale,
        ),
    ]
    boundaries: list[tuple[str, str, Target]] = [
        ("Modified softmax, NormFace", "cos θ₁ = cos θ₂", plain),
        ("AM-Softmax, m = 0.35", "cos θ₁ − m = cos θ₂", am),
        ("AAM-Softmax, m = 0.5", "cos(θ₁ + m) = cos θ₂", aam),
        ("A-Softmax, m = 2", "cos(m θ₁) = cos θ₂", doubled),
    ]
    return lines, boundaries


def page(groups: list[list[list[Sphere]]], curves: bytes) -> str:
    """Return the HTML page: spheres that turn under the pointer, and the curves; it needs no other file."""

    def thousandths(values: np.ndarray) -> list[int]:
        return np.rint(1000 * values).astype(int).ravel().tolist()

    def plain(sphere: Sphere) -> dict[str, Any]:
        return {
            "title": sphere.title,
            "caption": sphere.caption(),
            "points": thousandths(sphere.points),
            "lengths": thousandths(sphere.lengths / np.quantile(sphere.lengths, 0.98)),
            "means": thousandths(sphere.means()),
            "caps": thousandths(sphere.caps()),
            "weights": thousandths(sphere.weights),
            "weightLabels": sphere.weight_labels.tolist(),
        }

    first = groups[0][0][0]
    data = {
        "colors": plots.COLORS,
        "view": plots.VIEW.ravel().tolist(),
        "labels": first.labels.tolist(),
        "unheard": first.unheard.astype(int).tolist(),
        "groups": [
            {"heading": heading, "spheres": [plain(s) for row in group for s in row]}
            for heading, group in zip(HEADINGS, groups, strict=True)
        ],
    }
    template = resources.files("speakerverif.demos").joinpath("head_gallery.html").read_text("utf-8")
    image = f"data:image/png;base64,{base64.b64encode(curves).decode()}"
    return (
        template.replace("%KEY%", KEY.replace("\n", "<br>"))
        .replace("%CURVES%", image)
        .replace("%DATA%", json.dumps(data))
    )
