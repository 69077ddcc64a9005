"""``landmarknet-train``: simulate images, train, cross-validate, compare, evaluate, count the arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge.errors import EdgeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()


@app.command()
def simulate(
    ct: Annotated[
        list[Path], typer.Argument(help="CT volumes, <patient>.nii.gz; landmarks beside those that have them")
    ],
    output: Annotated[Path, typer.Option(help="folder for the data set: one folder of DICOM RT Images per patient")],
    poses: Annotated[int, typer.Option(min=1, help="poses per view; the first is exactly at 0 and 90 degrees")] = 10,
    negative_poses: Annotated[int, typer.Option(min=1, help="poses per view of a volume without landmarks")] = 4,
    empty_fields: Annotated[int, typer.Option(min=0, help="images without a patient, per modality")] = 0,
    seed: Annotated[int, typer.Option(help="the same seed gives the same files")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="how many patients at once")] = 2,
) -> None:
    """Simulate kV DRRs and portal images by patient, with truth, manifest and contact sheet; goes on if stopped."""
    from landmarknet.simulated_set import CONTACT_SHEET, DataSetPlan, make_data_set

    plan = DataSetPlan(poses, negative_poses, empty_fields, seed)
    folders = make_data_set(ct, output, plan, processes, out)
    out.print(f"{len(folders)} patients in {output}; look at {output / CONTACT_SHEET}", soft_wrap=True)


@app.command()
def train(config: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs")]) -> None:
    """Train, or go on with a training that was stopped."""
    from landmarknet.train import read_train_config
    from landmarknet.train import train as run

    out.print(f"checkpoint: {run(read_train_config(config))}", soft_wrap=True)


@app.command("operating-point")
def operating_point(
    weights: Annotated[Path, typer.Argument(help="weights.pt of a training")],
    study: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs/study.toml; its folds are trained")],
    patients: Annotated[list[str], typer.Argument(help="VALIDATION patients: neither trained nor tested on")],
) -> None:
    """Choose thresholds and uncertainties on patients that were not trained on; prints ``kinds`` of a recipe."""
    from landmarknet.folds import operating_point_toml
    from landmarknet.study import read_study

    typer.echo(operating_point_toml(weights, patients, read_study(study)))


@app.command()
def evaluate(
    release: Annotated[Path, typer.Argument(help="release folder")],
    images: Annotated[Path, typer.Argument(help="data set of `landmarknet-train simulate`")],
    patients: Annotated[list[str], typer.Argument(help="patients that the release was not trained on")],
) -> None:
    """Print a release's accuracy through the room's own pipeline, as a Markdown table."""
    from landmarknet.report import release_report

    typer.echo(release_report(release, images, patients))


@app.command()
def folds(study: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs/study.toml")]) -> None:
    """Train every fold of a study's cross-validation, and one patient alone, or go on with them; hours on a CPU."""
    from landmarknet.study import read_study
    from landmarknet.train import train as run

    plan = read_study(study)
    for fold in plan.folds:
        out.print(f"fold {fold.name}: {run(plan.fold_config(fold))}", soft_wrap=True)
    out.print(f"{plan.one_patient.patient} alone: {run(plan.one_patient_config())}", soft_wrap=True)


@app.command()
def compare(study: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs/study.toml")]) -> None:
    """Train the comparators and ablations of a study, or go on with them, and print the comparison."""
    from landmarknet.compare import comparison_row, comparison_table, train_variants
    from landmarknet.study import read_study

    plan = read_study(study)
    train_variants(plan, out.print)
    typer.echo(comparison_table(plan, [comparison_row(plan, variant) for variant in plan.comparison.rows]))


@app.command()
def accuracy(
    study: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs/study.toml")],
    release: Annotated[Path, typer.Option(help="release folder")] = Path("edge/release"),
    output: Annotated[Path, typer.Option(help="Markdown file; its figures go to a folder beside it")] = Path(
        "docs/accuracy.md"
    ),
) -> None:
    """Evaluate folds, release, scale, robustness and comparators, and write docs/accuracy.md with its figures."""
    from landmarknet.accuracy import write_accuracy
    from landmarknet.study import read_study

    write_accuracy(read_study(study), study, release, output, out.print)
    out.print(f"wrote {output}")


@app.command()
def macs() -> None:
    """Print the multiply-accumulates of the plain and the fast head, for the paper's and the shipped configuration."""
    from landmarknet.report import mac_table

    typer.echo(mac_table())


def main() -> None:
    """Run the command line; what is wrong with its input is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError, EdgeError) as exc:
        Console(stderr=True).print(f"[red]error:[/red] {exc}", soft_wrap=True)
        raise SystemExit(2) from exc
