"""Pictures of the heads: what each does to three-dimensional embeddings of ten classes.

A small network is trained under each head, from the same start, with embeddings of only three dimensions, which can be
looked at: on images of digits, which is the experiment of Wang, Cheng, Liu, Liu, "Additive margin softmax for face
verification", 2018, arXiv 1801.05599, fig. 5 (there with Fashion-MNIST), and on synthetic voices.
"""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speakerverif import heads
from speakerverif._util import html
from speakerverif._util.files import write_atomically
from speakerverif._util.progress import Progress
from speakerverif.demos import _sphere_plots as plots
from speakerverif.demos._sphere_plots import DARK, LIGHT, Sphere, Target
from speakerverif.demos._sphere_tasks import DIM, Task, digits, voices

MARGIN_FROM, MARGIN_TO = 0.1, 0.5  # of the steps: the margin grows between them
CLASSES = 10
SCALE = 10.0  # the AM-Softmax paper's in three dimensions


@dataclass(frozen=True)
class Picture:
    """A head, as a recipe's table, and its title in the pictures."""

    title: str
    head: dict[str, Any]


Row = tuple[Picture, ...]


def _am(margin: float) -> Picture:
    return Picture(f"AM-Softmax, m = {margin:g}", {"name": "am_softmax", "margin": margin, "scale": SCALE})


def _aam(margin: float) -> Picture:
    return Picture(f"AAM-Softmax, m = {margin:g}", {"name": "aam_softmax", "margin": margin, "scale": SCALE})


def _a(margin: int) -> Picture:
    return Picture(f"A-Softmax, m = {margin}", {"name": "a_softmax", "margin": margin, "lambda_end": 0.0})


def _joined(title: str, name: str, **settings: Any) -> Picture:
    return Picture(title, {"name": name, "base": {"name": "aam_softmax", "scale": SCALE}, **settings})


SOFTMAX = Picture("Softmax", {"name": "softmax"})
MODIFIED = Picture("Modified softmax (m = 1)", {"name": "modified_softmax"})
NORMFACE = Picture("NormFace (m = 0)", {"name": "normface", "scale": SCALE})
ANNEALED = Picture("A-Softmax, m = 4, λ = 5", {"name": "a_softmax"})
AM_ROW = (SOFTMAX, NORMFACE, _am(0.2), _am(0.35), _am(0.5))
GROWING = (
    AM_ROW,
    (SOFTMAX, NORMFACE, _aam(0.2), _aam(0.35), _aam(0.5)),
    (SOFTMAX, MODIFIED, _a(2), _a(3), _a(4)),
)
EVERY = (
    (SOFTMAX, MODIFIED, NORMFACE, Picture("L-Softmax, m = 4, λ = 5", {"name": "l_softmax"}), ANNEALED),
    (
        _am(0.2),
        _aam(0.2),
        _joined("Sub-center AAM, K = 2", "sub_center", sub_centers=2),
        _joined("Inter-top-K AAM, K = 5", "inter_top_k"),
        Picture("SphereFace2-C, m = 0.2", {"name": "sphereface2", "scale": SCALE}),
    ),
    (
        Picture("Softmax + center loss", {"name": "center"}),
        Picture("Triplet, semi-hard", {"name": "triplet", "mining": "semi_hard"}),
        Picture("Circle, γ = 32", {"name": "circle", "scale": 32.0}),
        Picture("GE2E", {"name": "ge2e"}),
        Picture("Angular prototypical", {"name": "angular_prototypical"}),
    ),
)
KEY = (
    "Embeddings in three dimensions, s = 10. Small dots: trained on; large dots: held out; rings hold nine tenths of a "
    "class; pins: class weights.\nFigures: mean angle between two held-out embeddings of a class, and between the "
    "mean of a class and the nearest other."
)


@dataclass(frozen=True)
class Group:
    """Spheres in rows under a heading, with a note that says what they show."""

    heading: str
    note: str
    rows: list[list[Sphere]]


def write(out: Path, seed: int = 0, steps: int = 300) -> Path:
    """Train every head, write `margins.png`, `heads.png`, `curves.png` and `index.html`; return the page's path.

    Args:
        out: made where it does not exist.
        seed: of the voices, the networks and the batches; the same for every head.
        steps: of training, per head.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown = [(digits(), GROWING), (voices(seed), (*EVERY, AM_ROW))]
    pictures = [{picture.title: picture for row in rows for picture in row} for _, rows in shown]
    spheres: list[dict[str, Sphere]] = []
    with Progress(sum(map(len, pictures)), "heads", "head") as progress:
        for (task, rows), titles in zip(shown, pictures, strict=True):
            trained = {}
            for title, picture in titles.items():
                trained[title] = train(picture, task, seed, steps)
                progress.update(1, title)
            model = facing(trained[rows[0][-1].title])
            spheres.append({title: aligned(sphere, model) for title, sphere in trained.items()})
    groups = groups_of(*spheres)
    images = {
        "margins.png": plots.sphere_rows([(g.heading, g.note, g.rows) for g in groups[:2]], KEY),
        "heads.png": plots.sphere_rows([(g.heading, g.note, g.rows) for g in groups[2:]], KEY),
        "curves.png": plots.curves(*target_curves()),
    }
    for name, image in images.items():
        write_atomically(out / name, image)
    dark = plots.curves(*target_curves(), palette=DARK)
    write_atomically(out / "index.html", page(groups, images["curves.png"], dark))
    return out / "index.html"


def groups_of(of_digits: dict[str, Sphere], of_voices: dict[str, Sphere]) -> list[Group]:
    """Return the groups of spheres, given those of each task by title."""

    def group(what: str, spheres: dict[str, Sphere], rows: tuple[Row, ...], compared: Row) -> Group:
        return Group(
            what,
            change(*(spheres[picture.title] for picture in compared)),
            [[spheres[picture.title] for picture in row] for row in rows],
        )

    ends = (NORMFACE, AM_ROW[-1])
    return [
        group("Images of digits: the margin grows", of_digits, GROWING, ends),
        group("Synthetic voices: the margin grows", of_voices, (AM_ROW,), ends),
        group("Synthetic voices: every head", of_voices, EVERY, (SOFTMAX, _am(0.2))),
    ]


def change(first: Sphere, last: Sphere) -> str:
    """Return in words what the angles do from one sphere to another."""

    def moved(what: str, before: float, after: float) -> str:
        verb = "stays at" if round(before) == round(after) else f"goes from {before:.0f}° to"
        return f"{what} {verb} {after:.0f}°"

    within = moved("the angle within a class", first.within(), last.within())
    nearest = moved("that to the nearest other", first.nearest(), last.nearest())
    return f"From {first.title} to {last.title}: {within}, {nearest}."


def train(picture: Picture, task: Task, seed: int, steps: int) -> Sphere:
    """Return the sphere of a network trained under one head, with the margin growing from 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, head = task.network(), heads.build(picture.head, DIM, CLASSES)
        parameters = [*network.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=1e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for step in range(steps):
            head.margin_fraction = float(np.interp(step / steps, (MARGIN_FROM, MARGIN_TO), (0, 1)))
            inputs, labels = task.batch()
            loss, _ = head(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    with torch.no_grad():
        embeddings = network.eval()(task.inputs).double().numpy()
        owned = [p for name, p in head.named_parameters() if name.endswith("weight")]
        weights = owned[0].double().numpy() if owned else np.empty((0, DIM))
    lengths = np.linalg.norm(embeddings, axis=1)
    return Sphere(
        title=picture.title,
        points=embeddings / lengths[:, None],
        lengths=lengths,
        labels=task.labels.numpy(),
        held_out=task.held_out.numpy(),
        weights=weights / np.linalg.norm(weights, axis=1, keepdims=True),
        weight_labels=np.arange(len(weights)) * CLASSES // max(len(weights), 1),
    )


def facing(sphere: Sphere) -> Sphere:
    """Return the sphere turned so that as many classes as can be face the viewer, far from the edge."""
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    best = directions[np.minimum(directions @ sphere.means().T, 0.5).sum(axis=1).argmax()]
    # The axes of the two frames: the best direction, and that of the eye, each with two at right angles to it.
    here, there = (np.linalg.qr(np.column_stack([d, np.eye(3)[:, :2]]))[0] for d in (best, plots.VIEW[2]))
    sign = np.sign(here[:, 0] @ best) * np.sign(there[:, 0] @ plots.VIEW[2])
    return turned(sphere, here @ np.diag([sign, 1, 1]) @ there.T)


def aligned(sphere: Sphere, like: Sphere) -> Sphere:
    """Return the sphere turned (and mirrored, if need be) so that its classes lie near `like`'s.

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
        head: Any = heads.build(table, DIM, CLASSES)
        return lambda cosine: head.target(torch.from_numpy(cosine)).numpy()

    binary: Any = heads.build({"name": "sphereface2", "scale": 1.0}, DIM, CLASSES)
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
        ("SphereFace2-C, m = 0.2", lambda cosine: binary.positive(torch.from_numpy(cosine)).numpy()),
    ]
    boundaries: list[tuple[str, str, Target]] = [
        ("Modified softmax, NormFace", "cos θ₁ = cos θ₂", plain),
        ("AM-Softmax, m = 0.35", "cos θ₁ − m = cos θ₂", am),
        ("AAM-Softmax, m = 0.5", "cos(θ₁ + m) = cos θ₂", aam),
        ("A-Softmax, m = 2", "cos(m θ₁) = cos θ₂", doubled),
    ]
    return lines, boundaries


def page(groups: list[Group], curves: bytes, dark_curves: bytes) -> str:
    """Return the HTML page: spheres that turn under the pointer, and the curves; it needs no other file."""

    def thousandths(values: np.ndarray) -> list[int]:
        return [int(value) for value in np.rint(1000 * values).ravel()]

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

    data = {
        "colors": LIGHT.classes,
        "view": plots.VIEW.ravel().tolist(),
        "groups": [
            {
                "heading": group.heading,
                "note": group.note,
                "labels": group.rows[0][0].labels.tolist(),
                "heldOut": group.rows[0][0].held_out.astype(int).tolist(),
                "rows": [[plain(sphere) for sphere in row] for row in group.rows],
            }
            for group in groups
        ],
    }
    images = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (curves, dark_curves)]
    template = html.environment("speakerverif.demos").get_template("head_gallery.html")
    return template.render(key=KEY.split("\n"), curves=images[0], dark_curves=images[1], data=data)
