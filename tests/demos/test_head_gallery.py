"""The pictures of the heads: what they measure, that they turn nothing wrong, and that they can be drawn."""

import json
import math
import re

import numpy as np
import pytest

from speakerverif._util import registry
from speakerverif.demos import _sphere_plots as plots
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


def test_short_trainings_repeat_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page and all pictures of a few heads; so short a training says nothing yet of what a margin does."""
    monkeypatch.setattr(head_gallery, "SESSIONS", 4)
    monkeypatch.setattr(head_gallery, "UTTERANCES", 2)
    speech = head_gallery.synthetic_features(seed=0)
    shown = [head_gallery.NORMFACE, head_gallery.GROWING[0][-1]]
    found = [head_gallery.train(picture, speech, seed=0, steps=60) for picture in shown]
    again = head_gallery.train(shown[0], speech, seed=0, steps=60)
    np.testing.assert_array_equal(found[0].points, again.points)
    for sphere in found:
        assert ((sphere.caps() > 0) & (sphere.caps() < np.pi)).all()
    assert np.abs(found[0].points - found[1].points).max() > 0.01
    assert found[0].unheard.sum() == head_gallery.SPEAKERS * head_gallery.UTTERANCES
    np.testing.assert_allclose(np.linalg.norm(found[0].points, axis=1), 1)

    assert plots.sphere_rows([found], "title", "subtitle").startswith(b"\x89PNG")
    curves = plots.curves(*head_gallery.target_curves())
    assert curves.startswith(b"\x89PNG")
    page = head_gallery.page([[found]] * 2, curves)
    held = re.search(r"const data = (\{.*\});\n", page)
    assert held and not re.search(r"%[A-Z]+%|https?://", page)
    data = json.loads(held[1])
    sphere = data["groups"][0]["spheres"][1]
    assert sphere["title"] == "AM-Softmax, m = 0.5"
    assert len(sphere["points"]) == 3 * len(data["labels"]) == 3 * 80
    np.testing.assert_allclose(np.reshape(sphere["points"], (-1, 3)) / 1000, found[1].points, atol=5e-4)
