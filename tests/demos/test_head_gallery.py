"""The pictures of the heads: what they measure, that they turn nothing wrong, and that they can be drawn."""

import io
import json
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from speakerverif._util import registry
from speakerverif.demos import _sphere_plots as plots
from speakerverif.demos import _sphere_tasks as tasks
from speakerverif.demos import head_gallery
from speakerverif.demos._sphere_plots import Sphere

RIGHT_ANGLES = np.eye(3)


def around(centers: np.ndarray, angle: float, each: int = 4) -> Sphere:
    """Return a sphere whose recordings lie evenly at `angle` rad around their speaker's center."""
    points = np.concatenate([plots.circle(c, angle)[: 96 : 96 // each] for c in centers])
    labels = np.repeat(np.arange(len(centers)), each)
    return Sphere(
        "made",
        points,
        np.ones(len(points)),
        labels,
        np.ones(len(points), bool),
        centers,
        np.arange(len(centers)),
    )


def test_caption_and_caps_of_recordings_on_circles() -> None:
    """Four points on a circle of radius r: two neighbours and one opposite, at 2 r."""
    radius = math.radians(10)
    sphere = around(RIGHT_ANGLES, radius)
    np.testing.assert_allclose(sphere.means(), RIGHT_ANGLES, atol=1e-12)
    np.testing.assert_allclose(sphere.caps(), radius)
    neighbour = math.acos(math.cos(radius) ** 2)
    within = math.degrees((2 * neighbour + 2 * radius) / 3)
    assert sphere.caption() == f"within {within:.0f}°, nearest other 90°"


def test_circle_lies_on_the_sphere_around_its_center() -> None:
    center = np.array([2.0, -1.0, 2.0]) / 3
    points = plots.circle(center, 0.4)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points @ center, math.cos(0.4))


def test_view_turns_without_distortion() -> None:
    np.testing.assert_allclose(plots.VIEW @ plots.VIEW.T, np.eye(3), atol=2e-3)


def test_alignment_undoes_a_turn_and_a_mirror_and_keeps_angles() -> None:
    centers = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8], [0, -0.6, 0.8]])
    sphere = around(centers, 0.2)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    for other in (turn, -turn):
        back = head_gallery.aligned(head_gallery.turned(sphere, other), sphere)
        np.testing.assert_allclose(back.points, sphere.points, atol=1e-12)
        np.testing.assert_allclose(back.weights, centers, atol=1e-12)
        assert back.caption() == sphere.caption()


def test_facing_brings_the_speakers_to_the_front() -> None:
    """All of them where they lie in one half of the sphere; angles stay."""
    sphere = around(-RIGHT_ANGLES, 0.2)
    found = head_gallery.facing(sphere)
    assert (found.means() @ plots.VIEW[2] > 0.4).all()
    np.testing.assert_allclose(found.points @ found.points.T, sphere.points @ sphere.points.T, atol=1e-12)


def test_gaps_are_those_of_the_formulas() -> None:
    """On an arc of p: none; 2 arcsin(m / (2 sin(p / 2))); m; p (m - 1) / (m + 1)."""
    _, boundaries = head_gallery.target_curves()
    plain, am, aam, multiplied = (target for *_, target in boundaries)
    for p in (1.0, 2.0, 3.0):
        assert plots.gap(plain, p) == pytest.approx(0, abs=1e-3)
        assert plots.gap(am, p) == pytest.approx(2 * math.asin(0.35 / (2 * math.sin(p / 2))), abs=1e-3)
        assert plots.gap(aam, p) == pytest.approx(0.5, abs=1e-3)
        assert plots.gap(multiplied, p) == pytest.approx(p / 3, abs=1e-3)
    assert plots.gap(am, 0.5) == 0.5  # too near each other: nowhere is enough


def test_every_head_has_its_picture() -> None:
    drawn = {picture.head["name"] for row in head_gallery.EVERY for picture in row}
    assert drawn == set(registry.names("head"))


def test_notes_say_what_the_angles_do() -> None:
    narrow, wide = around(RIGHT_ANGLES, math.radians(5)), around(RIGHT_ANGLES, math.radians(10))
    note = head_gallery.change(wide, narrow)
    angles = f"the angle within a class goes from {wide.within():.0f}° to {narrow.within():.0f}°"
    assert note == f"From made to made: {angles}, that to the nearest other stays at 90°."


def test_pictures_keep_the_colours_of_all_classes() -> None:
    figure = Figure(figsize=(2, 1))
    for k, color in enumerate(plots.LIGHT.classes):
        figure.add_artist(Rectangle((k / 10, 0), 0.1, 1, color=color))
    noise = np.random.default_rng(0).random((100, 100, 3))  # many more colours than a palette could hold
    figure.figimage(np.rint(noise * 255).astype(np.uint8), 0, 0)
    pixels = np.array(Image.open(io.BytesIO(plots.png(figure)))).reshape(-1, 3)
    drawn = {"#{:02x}{:02x}{:02x}".format(*pixel) for pixel in pixels.tolist()}
    assert set(plots.LIGHT.classes) <= drawn


def short_voices(monkeypatch: pytest.MonkeyPatch) -> tasks.Task:
    monkeypatch.setattr(tasks, "SESSIONS", 4)
    monkeypatch.setattr(tasks, "UTTERANCES", 2)
    return tasks.voices(seed=0)


def test_held_out_embeddings_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (tasks.digits(), short_voices(monkeypatch)):
        assert 0.2 < task.held_out.float().mean() < 0.3 and len(task.labels.unique()) == 10
        held_out = {row.numpy().tobytes()[:200] for row in task.inputs[task.held_out].flatten(1)}
        for _ in range(3):
            inputs, labels = task.batch()
            assert len(inputs) == len(labels) and task.network()(inputs).shape == (len(labels), 3)
            if inputs[0].shape == task.inputs[0].shape:
                assert not held_out & {row.numpy().tobytes()[:200] for row in inputs.flatten(1)}


def test_short_trainings_repeat_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page and the pictures of two heads; so short a training says nothing yet of what a margin does."""
    task = short_voices(monkeypatch)
    shown = [head_gallery.NORMFACE, head_gallery.AM_ROW[-1]]
    spheres = [head_gallery.train(picture, task, seed=0, steps=60) for picture in shown]
    again = head_gallery.train(shown[0], task, seed=0, steps=60)
    np.testing.assert_array_equal(spheres[0].points, again.points)
    for sphere in spheres:
        assert ((sphere.caps() > 0) & (sphere.caps() < np.pi)).all()
    assert np.abs(spheres[0].points - spheres[1].points).max() > 0.01
    assert spheres[0].held_out.sum() == tasks.SPEAKERS * tasks.UTTERANCES
    np.testing.assert_allclose(np.linalg.norm(spheres[0].points, axis=1), 1)

    assert plots.sphere_rows([("heading", "note", [spheres])], "key").startswith(b"\x89PNG")
    curves = [plots.curves(*head_gallery.target_curves(), palette) for palette in (plots.LIGHT, plots.DARK)]
    assert all(curve.startswith(b"\x89PNG") for curve in curves)
    groups = [head_gallery.Group("</script><b>", "note", [spheres])] * 2
    page = head_gallery.page(groups, *curves)
    held = re.search(r"const data = (\{.*\});\n", page)
    assert held and not re.search(r"https?://|</script><b>", page)
    data = json.loads(held[1])
    (row,) = data["groups"][0]["rows"]
    assert data["groups"][0]["heading"] == "</script><b>" and row[1]["title"] == "AM-Softmax, m = 0.5"
    assert len(row[1]["points"]) == 3 * len(data["groups"][0]["labels"]) == 3 * 80
    np.testing.assert_allclose(np.reshape(row[1]["points"], (-1, 3)) / 1000, spheres[1].points, atol=5e-4)


@pytest.mark.slow
def test_the_larger_the_margin_the_tighter_the_classes() -> None:
    """The AM-Softmax paper's experiment on digits, as docs/heads.md shows it."""
    task = tasks.digits()
    row = [head_gallery.train(picture, task, seed=0, steps=300) for picture in head_gallery.AM_ROW[1:]]
    within, nearest = [s.within() for s in row], [s.nearest() for s in row]
    assert within == sorted(within, reverse=True) and within[-1] < 0.8 * within[0]
    assert nearest == sorted(nearest)
