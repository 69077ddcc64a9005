"""``landmarknet-train``: simulate images, train, evaluate, count the arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()


@app.command()
def simulate(
    ct: Annotated[list[Path], typer.Argument(help="CT volumes, <patient>.nii.gz with landmarks beside them")],
    output: Annotated[Path, typer.Option(help="folder for the DICOM RT Images and truth.json")],
    poses: Annotated[int, typer.Option(min=1, help="poses per view; the first is exactly at 0 and 90 degrees")] = 1,
    seed: Annotated[int, typer.Option(help="the same seed gives the same files")] = 0,
) -> None:
    """Simulate a kV DRR and a megavoltage portal image of the same pose, AP and lateral, as DICOM RT Images."""
    from landmarknet.simulate_files import simulate_files

    for volume in ct:
        folder = output if len(ct) == 1 else output / volume.name.removesuffix(".nii.gz")
        for path in simulate_files(volume, folder, poses, seed):
            out.print(path, soft_wrap=True)


@app.command()
def train(config: Annotated[Path, typer.Argument(help="TOML file, see landmarknet/configs")]) -> None:
    """Train, or go on with a training that was stopped."""
    from landmarknet.train import read_train_config
    from landmarknet.train import train as run

    out.print(f"checkpoint: {run(read_train_config(config))}", soft_wrap=True)


@app.command()
def evaluate(
    release: Annotated[Path, typer.Argument(help="release folder")],
    ct: Annotated[list[Path], typer.Argument(help="CT volumes of patients the network was NOT trained on")],
    cache: Annotated[Path, typer.Option(help="folder for projections")] = Path("work/cache"),
    per_view: Annotated[int, typer.Option(min=1, help="images per view and modality")] = 40,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Print PCK, F1 and deviation of a release on simulated images of unseen patients, as a Markdown table."""
    from landmarknet.report import accuracy_table

    typer.echo(accuracy_table(release, ct, cache, per_view, seed))


@app.command()
def thresholds(
    checkpoint: Annotated[Path, typer.Argument(help="weights.pt of a training")],
    ct: Annotated[list[Path], typer.Argument(help="CT volumes of VALIDATION patients: neither trained nor tested on")],
    cache: Annotated[Path, typer.Option(help="folder for projections")] = Path("work/cache"),
    per_view: Annotated[int, typer.Option(min=1, help="images per view and modality")] = 40,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Print the thresholds of (nearly) best F1 on validation patients, ready for a build recipe."""
    from landmarknet.report import threshold_table

    typer.echo(threshold_table(checkpoint, ct, cache, per_view, seed))


@app.command()
def macs() -> None:
    """Print the multiply-accumulates of the plain and the fast head, for the paper's and the shipped configuration."""
    from landmarknet.report import mac_table

    typer.echo(mac_table())


def main() -> None:
    """Run the command line."""
    app()
