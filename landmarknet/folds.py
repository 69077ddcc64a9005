"""What the networks of a study's folds find in patients that they never saw, at thresholds chosen on others.

One patient is too few to place a threshold. So a fold's choices are made on its validation patient, found by its own
network, and on the test patients of the other folds, found by theirs; never on its own test patients. Networks of the
other folds were trained on those, but what is chosen on are their findings in other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.contract import KindContract, Reading
from landmarknet.checkpoint import demand_same_training, load_checkpoint, load_network
from landmarknet.closed_jaw import find_under_jaws
from landmarknet.comparators import Network
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import Finding, find
from landmarknet.operating_point import as_toml, operating_point, reading_of
from landmarknet.report import demand_unseen
from landmarknet.robustness import NUISANCES, find_changed, find_in_parallel_beam, find_without_geometry
from landmarknet.simulate_files import EMPTY_FIELDS
from landmarknet.study import Fold, Study


@dataclass(frozen=True, eq=False)
class Unseen:
    """All that a fold's network found in patients it never saw, whatever the score, and where jaws hide landmarks.

    ``validation`` comes with volumes without landmarks, in other poses than those trained on.
    """

    fold: Fold
    validation: list[Finding]
    test: list[Finding]


def open_fold(study: Study, fold: Fold) -> tuple[Network, tuple[str, ...]]:
    """Return a fold's network and the patients it was trained on.

    Raises `ValueError` where it was trained otherwise than the study says, or on a patient that it is tested on.
    """
    config = study.fold_config(fold)
    weights = Path(config.output) / "weights.pt"
    checkpoint = load_checkpoint(weights)
    demand_same_training(checkpoint, config.to_dict(), weights)
    trained_on = tuple(checkpoint.training["patients"])
    held_out = (*fold.test, *fold.validation, *study.test_negatives)
    demand_unseen((*trained_on, *checkpoint.training["negatives"]), held_out)
    return load_network(weights), trained_on


def unseen_findings(study: Study, fold: Fold) -> Unseen:
    """Return what a fold's network finds in patients that it never saw."""
    network, _ = open_fold(study, fold)
    images = Path(study.images)
    validation = all_findings(network, images, (*fold.validation, *study.validation_negatives))
    return Unseen(fold, validation, all_findings(network, images, fold.test))


def all_findings(network: Network, images: Path, patients: Sequence[str]) -> list[Finding]:
    """Return what a network finds whatever the score, in images as they are and in those with a jaw closed."""
    backend, reading = TorchBackend(network), reading_of(network.config)
    as_they_are = find(backend, reading, images, patients, unlabelled_views=True)
    return [*as_they_are, *find_under_jaws(backend, reading, images, patients)]


def choices_of(fold: Fold, unseen: Sequence[Unseen]) -> list[Finding]:
    """Return what a fold's thresholds are chosen on: nothing of its own test patients."""
    own = [f for one in unseen if one.fold.name == fold.name for f in one.validation]
    return [*own, *found_elsewhere(fold.test, [one for one in unseen if one.fold.name != fold.name])]


def operating_point_toml(weights: Path, validation: Sequence[str], study: Study) -> str:
    """Return the ``[[kinds]]`` of a build recipe.

    Chosen on validation patients of the network itself, and on what the networks of the study's folds find in theirs;
    never on a patient that is left for testing the network: neither trained on nor among ``validation``.
    """
    checkpoint, images = load_checkpoint(weights), Path(study.images)
    trained_on = checkpoint.training["patients"]
    demand_unseen(trained_on, validation)
    left_for_testing = set(study.patients) - {*trained_on, *validation}
    own = all_findings(load_network(weights), images, (*validation, *study.validation_negatives))
    elsewhere = found_elsewhere(sorted(left_for_testing), [unseen_findings(study, fold) for fold in study.folds])
    return as_toml(operating_point([*own, *elsewhere], checkpoint.network.kinds))


def found_elsewhere(but: Sequence[str], unseen: Sequence[Unseen]) -> list[Finding]:
    """Return the findings of folds in their test patients, ``but`` some patients."""
    return [f for one in unseen for f in one.test if f.patient not in but]


@dataclass(frozen=True, eq=False)
class FoldResult:
    """Where a fold's network is operated, what it found in patients that it never saw, and in those that it did."""

    fold: Fold
    reading: Reading
    trained_on: tuple[str, ...]
    test: list[Finding]
    under_jaws: list[Finding]  # of the same patients, with a jaw closed over the landmark
    without_geometry: list[Finding]  # in the same images, their scale unknown
    out_of_view: list[Finding]  # Louis angles in AP images, where none is labelled
    other_renderer: Mapping[str, list[Finding]]  # parallel beam, scale unknown; by curve of tissues
    changed: Mapping[str, list[Finding]]  # every third image, by nuisance
    negatives: list[Finding]
    known: list[Finding]  # in patients that it was TRAINED on: a ceiling, no accuracy


def evaluate_fold(study: Study, fold: Fold, unseen: Sequence[Unseen]) -> FoldResult:
    """Choose a fold's operating point, then look at its test patients."""
    network, trained_on = open_fold(study, fold)
    reading = reading_of(network.config, operating_point(choices_of(fold, unseen), network.config.kinds))
    backend, images, ct = TorchBackend(network), Path(study.images), Path(study.recipe().ct_folder)
    test = find(backend, reading, images, fold.test, unlabelled_views=True)
    rendered = [find_in_parallel_beam(backend, reading, ct / f"{patient}.nii.gz") for patient in fold.test]
    return FoldResult(
        fold,
        reading,
        trained_on,
        test=[f for f in test if not f.unlabelled_view],
        under_jaws=find_under_jaws(backend, reading, images, fold.test),
        out_of_view=[f for f in test if f.unlabelled_view],
        other_renderer={curve: [f for found in rendered for f in found[curve]] for curve in rendered[0]},
        changed={one.name: find_changed(backend, reading, images, fold.test, one) for one in NUISANCES},
        without_geometry=find_without_geometry(backend, reading, images, fold.test),
        negatives=find(backend, reading, images, (*study.test_negatives, EMPTY_FIELDS)),
        known=find(backend, reading, images, trained_on),
    )


@dataclass(frozen=True, eq=False)
class KnownPatient:
    """What a network finds in the one patient it was trained on, operated where it is best for it: no accuracy."""

    patient: str
    reading: Reading
    found: list[Finding]


def evaluate_known_patient(study: Study) -> KnownPatient | None:
    """Return what the network that knows one patient finds in it; None where it is not trained.

    Raises `ValueError` where it was trained otherwise than the study says.
    """
    config, patient = study.one_patient_config(), study.one_patient.patient
    weights = Path(config.output) / "weights.pt"
    if not weights.exists():
        return None
    demand_same_training(load_checkpoint(weights), config.to_dict(), weights)
    network = load_network(weights)
    backend, reading, images = TorchBackend(network), reading_of(network.config), Path(study.images)
    found = find(backend, reading, images, (patient,))
    others = find(backend, reading, images, study.validation_negatives)
    kinds = operating_point([*found, *others], network.config.kinds)
    return KnownPatient(patient, reading_of(network.config, kinds), found)


def accepted_findings(results: Sequence[FoldResult], *, nothing_shown: bool = False) -> list[Finding]:
    """Return all folds' findings with nothing but what each fold's own operating point accepts.

    With ``nothing_shown`` also those in images that show no landmark, or hide it.
    """
    accepted = []
    for result in results:
        by_kind = {promise.kind: promise for promise in result.reading.kinds}
        empty = [*result.under_jaws, *result.negatives] if nothing_shown else []
        accepted += [f.accepted(by_kind[f.kind]) for f in (*result.test, *empty)]
    return accepted


def accept_all(kinds: tuple[KindContract, ...]) -> tuple[KindContract, ...]:
    """Return kinds without thresholds: pooled findings have already passed their own folds'."""
    return tuple(k.model_copy(update={"threshold": 0.0}) for k in kinds)
