"""A study of one training recipe: which patients are left out in which fold, and what is compared with what."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from landmarknet.train import TrainConfig, read_train_config


@dataclass(frozen=True)
class Fold:
    """One grouped fold: trained on all labelled patients but these. Choices are made on ``validation`` alone."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str
    test: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Several networks on one fold: the same data, the same number of images, the same evaluation."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    fold: str
    steps: int
    seeds: tuple[int, ...]
    variants: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Return what the table shows: the variants, and the fold's own network for reference."""
        return (*self.variants, "fold")


@dataclass(frozen=True)
class OnePatient:
    """A network that is tested on the patient it was trained on: what it does not find there, it cannot learn."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    patient: str
    steps: int


@dataclass(frozen=True)
class Study:
    """``train`` names the recipe's file; relative paths start at the working directory."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    train: str
    images: str  # the simulated data set that everything is evaluated on
    output: str
    validation: tuple[str, ...]  # where the shipped model's choices were made
    validation_negatives: tuple[str, ...]
    test_negatives: tuple[str, ...]  # neither trained nor tuned on
    fold_steps: int
    folds: tuple[Fold, ...]
    comparison: Comparison
    one_patient: OnePatient

    @property
    def patients(self) -> tuple[str, ...]:
        """Return every labelled patient: each is tested on in exactly one fold."""
        return tuple(patient for fold in self.folds for patient in fold.test)

    def recipe(self) -> TrainConfig:
        """Return the shipped model's training."""
        return read_train_config(Path(self.train))

    def fold_config(self, fold: Fold) -> TrainConfig:
        """Return the training of a fold."""
        held_out = {*fold.test, *fold.validation}
        return replace(
            self.recipe(),
            output=f"{self.output}/fold_{fold.name}",
            patients=tuple(p for p in self.patients if p not in held_out),
            steps=self.fold_steps,
        )

    def one_patient_config(self) -> TrainConfig:
        """Return the training on one patient alone: no other bodies, and nothing without landmarks."""
        return replace(
            self.recipe(),
            output=f"{self.output}/one_patient",
            patients=(self.one_patient.patient,),
            negatives=(),
            mixed=False,
            steps=self.one_patient.steps,
            finish_steps=0,
        )

    def fold(self, name: str) -> Fold:
        """Return the fold of a name."""
        return next(fold for fold in self.folds if fold.name == name)


def read_study(path: Path) -> Study:
    """Read a study; raise `ValueError` naming what is wrong."""
    try:
        study = TypeAdapter(Study).validate_python(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as exc:
        raise ValueError(f"{path}: not a study: {exc}") from exc
    if len(set(study.patients)) != len(study.patients):
        raise ValueError(f"{path}: a patient is tested on in two folds")
    for fold in study.folds:
        if set(fold.test) & set(fold.validation):
            raise ValueError(f"{path}: fold {fold.name} makes its choices on patients that it tests on")
        if unknown := set(fold.validation) - set(study.patients):
            raise ValueError(f"{path}: fold {fold.name} validates on {sorted(unknown)}, which no fold tests on")
    return study
