"""The scoring of a model's embeddings: a back end, then normalisation; fitted once, kept in the model folder.

A model folder without `scoring.toml` scores by plain cosine. With it, `backend.npz` holds what was trained and
`cohort.npz` the cohort that scores are normalised against; `score`, `calibrate` and `verify` then all score that way.
"""

import copy
import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import write_atomically
from speakerverif._util.messages import one_line
from speakerverif._util.ranges import Range
from speakerverif._util.toml import format_toml, from_dict, read_toml, to_dict
from speakerverif.config import Recipe
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import EnrollMap, speakers_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.scoring import backends, cosine
from speakerverif.scoring.backends._linear import Adaptation, Backend, LinearCosine
from speakerverif.scoring.facts import BackendFacts, NormFacts
from speakerverif.scoring.normalization import as_norm, cohort_statistics, normalize, speaker_means

NormKind = Literal["none", "znorm", "tnorm", "snorm", "asnorm"]
FILE, ARRAYS, COHORT = "scoring.toml", "backend.npz", "cohort.npz"


@dataclass(frozen=True)
class Plan:
    """The content of `scoring.toml`: a scoring without its arrays."""

    fingerprint: str = ""  # of the model whose embeddings it is for
    backend: dict[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    trained_on: str = ""
    norm: NormKind = "none"
    top_n: Annotated[int, Range(1, 100_000_000)] = 300
    cohort: str = ""  # where its speakers come from
    adapted_to: str = ""  # embeddings of another domain that the trained back end was adapted to, and how


@dataclass(frozen=True)
class Scoring:
    """A back end and a normalisation, fitted and ready to score.

    Attributes:
        plan: their settings.
        backend: trained.
        cohort: one embedding per speaker, as the back end sees them; None where nothing is normalised.
    """

    plan: Plan
    backend: Backend
    cohort: EmbeddingTable | None = None

    @property
    def name(self) -> str:
        """The steps in one line; it differs where the arrays differ."""
        options = " ".join(f"{key} {value}" for key, value in self.plan.backend.items() if key != "name")
        name = " ".join(filter(None, (self.plan.backend["name"], options, _digest(self.backend))))
        if self.cohort is None:
            return name
        members = hashlib.sha256(self.cohort.embeddings.tobytes()).hexdigest()[:8]
        top = f" top {self.plan.top_n}" if self.plan.norm == "asnorm" else ""
        return f"{name}, {self.plan.norm}{top} {members}"

    @property
    def kind(self) -> ScoreKind:
        """The kind of the scores."""
        return self.backend.kind if self.cohort is None else "normalized"

    @property
    def backend_facts(self) -> BackendFacts:
        """The back end as a record states it."""
        options = {key: value for key, value in self.plan.backend.items() if key != "name"}
        return BackendFacts(self.plan.backend["name"], options, self.plan.trained_on or None)

    @property
    def norm_facts(self) -> NormFacts | None:
        """The normalisation as a record states it; None where nothing is normalised."""
        if self.cohort is None:
            return None
        top_n = self.plan.top_n if self.plan.norm == "asnorm" else None
        return NormFacts(self.plan.norm, self.plan.cohort, len(self.cohort), top_n)

    def score(
        self,
        trials: TrialList,
        table: EmbeddingTable,
        enroll_map: EnrollMap | None = None,
        speakers: Mapping[str, str] | None = None,
    ) -> tuple[ScoreList, ScoreList | None]:
        """Return the scores, and the raw ones where the scores are normalised.

        Args:
            trials: pairs of ids; with `enroll_map` the enroll ids are models.
            table: has an embedding for every file.
            enroll_map: model -> ids of its files.
            speakers: id of a file -> speaker, to refuse a cohort of the trials' own speakers; None: unknown.

        Raises:
            InputError: another model's embeddings; files without one; a cohort that shares speakers or ids
                with the trials; arrays of a back end or a cohort that don't fit the embeddings.
        """
        if self.plan.fingerprint and table.fingerprint != self.plan.fingerprint:
            raise InputError(
                f"back end {self.plan.backend['name']} is for embeddings of model {self.plan.fingerprint}, "
                f"found those of {table.fingerprint or 'an unknown one'}"
            )
        try:
            scores, raw = self._score(trials, table, enroll_map, speakers)
        except InputError:
            raise
        except (ValueError, IndexError, OverflowError, np.linalg.LinAlgError) as error:
            raise InputError(
                f"back end {self.plan.backend['name']}: its arrays don't fit embeddings of "
                f"{table.embeddings.shape[1]} dimensions: {one_line(error)}"
            ) from error
        if not np.isfinite(scores.scores).all():
            raise InputError(
                f"back end {self.plan.backend['name']}: its arrays give scores that aren't finite"
            )
        return scores, raw

    def _score(
        self,
        trials: TrialList,
        table: EmbeddingTable,
        enroll_map: EnrollMap | None,
        speakers: Mapping[str, str] | None,
    ) -> tuple[ScoreList, ScoreList | None]:
        seen = transformed(self.backend, table)
        if isinstance(self.backend, LinearCosine):
            scores = cosine.cosine(trials, seen, enroll_map)
        else:
            scores = cosine.with_backend(self.backend, trials, seen, enroll_map)
        if self.cohort is None:
            return scores, None
        if self.plan.norm == "asnorm":
            return as_norm(scores, seen, self.cohort, self.plan.top_n, enroll_map, speakers), scores
        kind: Any = self.plan.norm[0]
        return normalize(scores, seen, self.cohort, kind, enroll_map, speakers), scores

    def cohort_means(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the mean cosine of each embedding (N, D) with the cohort, or with its `top_n` nearest, float64 (N,).

        Raises:
            InputError: this scoring has no cohort.
        """
        if self.cohort is None or not isinstance(self.backend, LinearCosine):
            raise InputError(
                f"the model scores by {self.name}, without a cohort: the quality measure cohort is of models with "
                "a score normalisation"
            )
        seen = self.backend.transform(embeddings) if self.backend.needs_training else embeddings
        top_n = self.plan.top_n if self.plan.norm == "asnorm" else None
        return cohort_statistics(seen, self.cohort.embeddings, top_n)[0]

    def without(self, speakers: Collection[str]) -> "Scoring":
        """Return this scoring with a cohort that lacks some speakers, so that trials between them can be scored.

        Raises:
            InputError: fewer than `top_n` speakers remain, or fewer than 2.
        """
        if self.cohort is None:
            return self
        kept = [row for row, speaker in enumerate(self.cohort.ids) if speaker not in speakers]
        least = self.plan.top_n if self.plan.norm == "asnorm" else 2
        if len(kept) < least:
            raise InputError(
                f"the cohort has {len(kept)} speakers who are not in the trials; expected {least} or more"
            )
        cohort = EmbeddingTable(
            [self.cohort.ids[row] for row in kept],
            self.cohort.embeddings[kept],
            self.cohort.durations[kept],
            self.cohort.speech[kept],
            [self.cohort.status[row] for row in kept],
            self.cohort.fingerprint,
        )
        return dataclasses.replace(self, cohort=cohort)

    def adapted(
        self,
        table: EmbeddingTable,
        domain: str,
        *,
        method: Adaptation = "coral+",
        weight: float = 0.5,
        speakers: Mapping[str, str] | None = None,
    ) -> "Scoring":
        """Return this scoring with its PLDA adapted to another domain; this one is unchanged.

        Args:
            table: embeddings of the new domain, of speakers who are in no trials.
            domain: name of these embeddings, for the record.
            method: "coral+" and "kaldi" need no speakers, "interpolate" does (see `Plda.adapt`).
            weight: 0 keeps the trained covariances, 1 takes the new ones.
            speakers: utterance -> speaker, for "interpolate"; None: from the paths.

        Raises:
            InputError: a back end other than PLDA, one that was adapted before, embeddings of another model, unknown
                speakers, or as `Plda.adapt`.
        """
        if self.plan.adapted_to:
            raise InputError(
                f"the back end was adapted before, to {self.plan.adapted_to}: adapt the one before that"
            )
        if table.fingerprint != self.plan.fingerprint:
            raise InputError(
                f"{domain}: expected embeddings of model {self.plan.fingerprint}, found those of "
                f"{table.fingerprint or 'an unknown one'}"
            )
        labels = None
        if method == "interpolate":
            owner = speakers_of(table.ids, speakers, domain)
            if owner is None:
                raise InputError(
                    f"{domain}: the names of the {len(table)} embeddings don't tell their speakers, which "
                    "interpolate needs; name them, or adapt by coral+ or kaldi"
                )
            labels = np.unique([owner[i] for i in table.ids], return_inverse=True)[1]
        backend = copy.copy(self.backend)  # `adapt` replaces its arrays, and changes none in place
        backend.adapt(table.embeddings, labels, weight, method)
        text = f"{domain} by {method}, weight {weight:g}"
        return dataclasses.replace(
            self, plan=dataclasses.replace(self.plan, adapted_to=text), backend=backend
        )

    def save(self, folder: Path) -> None:
        """Write the files of a model folder, the one that names the arrays last."""
        if self.backend.needs_training:
            self.backend.save(folder / ARRAYS)
        if self.cohort is not None:
            self.cohort.save(folder / COHORT)
        write_atomically(folder / FILE, format_toml(to_dict(self.plan)))

    @staticmethod
    def remove(folder: Path) -> None:
        """Make a model folder score by plain cosine."""
        for name in (FILE, ARRAYS, COHORT):
            (folder / name).unlink(missing_ok=True)

    @classmethod
    def plain(cls, fingerprint: str) -> "Scoring":
        """Return plain cosine, of the embeddings of one model."""
        return cls(Plan(fingerprint), backends.build({"name": "cosine"}))

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> "Scoring":
        """Return the scoring of a model folder; plain cosine where it has none.

        Raises:
            InputError: files that are damaged, missing, or of another model.
        """
        if not (folder / FILE).is_file():
            return cls.plain(fingerprint)
        plan = from_dict(Plan, read_toml(folder / FILE), str(folder / FILE))
        if plan.fingerprint != fingerprint:
            raise InputError(f"{folder / FILE} was made for model {plan.fingerprint}, this is {fingerprint}")
        backend = backends.build(plan.backend)
        if backend.needs_training:
            backend.load(folder / ARRAYS)
        return cls(plan, backend, EmbeddingTable.load(folder / COHORT) if plan.norm != "none" else None)


def plan_of(recipe: Recipe) -> Plan:
    """Return the scoring that a recipe asks for, made of its corpus's training speakers."""
    source = f"{recipe.data.corpus} train"
    norm = recipe.score.norm
    return Plan(
        backend=recipe.backend,
        trained_on=source if needs_training(recipe) else "",
        norm=norm,
        top_n=recipe.score.top_n if norm == "asnorm" else Plan.top_n,
        cohort="" if norm == "none" else source,
    )


def needs_training(recipe: Recipe) -> bool:
    """Return whether a recipe's back end or normalisation needs embeddings of the training speakers."""
    return recipe.score.norm != "none" or backends.build(recipe.backend).needs_training


def fit(
    plan: Plan,
    train: EmbeddingTable | None,
    cohort: EmbeddingTable | None,
    speakers: Mapping[str, str] | None = None,
) -> Scoring:
    """Return a plan with its back end trained and its cohort taken.

    Args:
        plan: what to fit; its fingerprint is set to that of the embeddings.
        train: what to train the back end on; None where it needs no training.
        cohort: embeddings of other speakers' utterances, of which each speaker's mean is taken; where each id is a
            speaker, these embeddings are the cohort. None: no normalisation.
        speakers: utterance -> speaker of `train` and `cohort`; None: from the paths.

    Raises:
        InputError: training embeddings without speakers, too few of them, or needed and lacking; a cohort too
            small for the plan's `top_n`, or of a back end that does not score by cosine.
    """
    check(plan.backend, plan.norm)
    backend = backends.build(plan.backend)
    name = plan.backend["name"]
    if backend.needs_training:
        if train is None:
            raise InputError(
                f"back end {name} learns from embeddings of speakers who are not in the trials: give some"
            )
        owner = speakers_of(train.ids, speakers, plan.trained_on or "training embeddings")
        if owner is None:
            raise InputError(
                f"{plan.trained_on}: the names of the {len(train)} embeddings don't tell their speakers; "
                "back ends learn from who speaks"
            )
        _, labels = np.unique([owner[i] for i in train.ids], return_inverse=True)
        backend.fit(train.embeddings, labels)
    table = train if train is not None else cohort
    plan = from_dict(
        Plan, {**to_dict(plan), "fingerprint": "" if table is None else table.fingerprint}, "plan"
    )
    if plan.norm == "none":
        return Scoring(plan, backend)
    if cohort is None:
        raise InputError(f"{plan.norm} compares with a cohort of other speakers: give one")
    if not isinstance(backend, LinearCosine):
        raise InputError(
            f"{plan.norm} normalises cosines; {name} scores are likelihood ratios: calibrate them"
        )
    if train is not None and cohort.fingerprint != train.fingerprint:
        raise InputError(
            f"the cohort is of model {cohort.fingerprint}, the training embeddings of {train.fingerprint}"
        )
    seen = transformed(backend, cohort)
    owner = speakers_of(cohort.ids, speakers, plan.cohort or "cohort")
    members = seen if owner is None else speaker_means(seen, owner)
    if plan.norm == "asnorm" and not 2 <= plan.top_n <= len(members):
        raise InputError(f"top_n {plan.top_n}: expected 2 to {len(members)}, the speakers of the cohort")
    return Scoring(plan, backend, members)


def check(backend: dict[str, Any], norm: str) -> None:
    """Raise `InputError` for an unknown back end, or one whose scores can't be normalised."""
    if not isinstance(backends.build(backend), LinearCosine) and norm != "none":
        raise InputError(
            f"{norm} normalises cosines; {backend['name']} scores are likelihood ratios: calibrate them"
        )


def transformed(backend: Backend, table: EmbeddingTable) -> EmbeddingTable:
    """Return embeddings as a back end compares them; unchanged for one that doesn't score by cosine."""
    if not (backend.needs_training and isinstance(backend, LinearCosine)):
        return table
    return EmbeddingTable(
        table.ids,
        backend.transform(table.embeddings).astype(np.float32),
        table.durations,
        table.speech,
        table.status,
        f"{table.fingerprint}/{_digest(backend)}",
    )


def _digest(backend: Backend) -> str:
    """Return 8 hex digits that name the trained arrays; empty where nothing was trained."""
    if not backend.needs_training:
        return ""
    digest = hashlib.sha256()
    for name, array in sorted(backend.state().items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:8]
