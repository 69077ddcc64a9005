"""``landmarknet-calibrate``: choose and audit calibration sets for INT8 engines, collect and show ranges over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from edge.engines import SHIPPED_RELEASE
from edge.errors import EdgeError

if TYPE_CHECKING:
    from edge.contract import Contract

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()
err = Console(stderr=True)

SetFile = Annotated[Path, typer.Argument(metavar="SET.json", help="calibration set, as `select` writes it")]
Release = Annotated[Path, typer.Option(help="release folder: its contract says how images are fed to the network")]


@app.command()
def select(
    folders: Annotated[list[Path], typer.Argument(help="folders of portal images, searched to the bottom")],
    output: Annotated[Path, typer.Option(help="the manifest, a JSON file")],
    count: Annotated[int, typer.Option(min=1, help="how many images at most")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="the same seed and images give the same calibration set")] = 0,
    exclude_patients: Annotated[
        list[str] | None, typer.Option(help="patient ID, or a file of them, one a line; may be repeated")
    ] = None,
) -> None:
    """Choose a calibration set: views, machines, energies and exposures in turn, near-duplicates dropped."""
    from calibration.calibration_set import write_calibration_set
    from calibration.report import selection_report
    from calibration.select import excluded_patients
    from calibration.select import select as choose

    selection = choose(folders, count, seed, excluded_patients(exclude_patients or ()), _track)
    write_calibration_set(output, selection.calibration_set)
    out.print(*selection_report(selection), f"wrote {output}", sep="\n", soft_wrap=True, markup=False)


@app.command()
def audit(
    calibration_set: SetFile,
    test: Annotated[list[Path] | None, typer.Option(help="folder of test images; may be repeated")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="folder of later images; may be repeated")] = None,
    release: Release = SHIPPED_RELEASE,
) -> None:
    """Report coverage, overlap with test images, patients' data left in, drift; exit status 1: something to act on."""
    from calibration.audit import audit as check
    from calibration.calibration_set import read_calibration_set
    from calibration.report import audit_report

    reading = _contract(release)
    result = check(read_calibration_set(calibration_set), test or (), against or (), reading, _track)
    out.print(*audit_report(result), sep="\n", soft_wrap=True, markup=False)
    raise typer.Exit(1 if result.findings else 0)


@app.command()
def collect(
    calibration_set: SetFile,
    output: Annotated[Path, typer.Option(help="the ranges, a JSON file")],
    release: Release = SHIPPED_RELEASE,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 1,
) -> None:
    """Run the calibration set through a release's fp32 model and record the ranges of its activations."""
    from rich.progress import Progress

    from calibration.calibration_set import read_calibration_set
    from calibration.collect import collect as run
    from calibration.collect import float_model
    from calibration.ranges import write_ranges

    chosen = read_calibration_set(calibration_set)
    contract = _contract(release)
    with Progress(console=err) as progress:
        ranges = run(float_model(release, contract), contract, chosen, progress, threads)
    write_ranges(output, ranges)
    out.print(f"ranges of {len(ranges.histograms)} tensors over {ranges.images} images: {output}", soft_wrap=True)


@app.command()
def show(
    ranges: Annotated[Path, typer.Argument(metavar="RANGES.json", help="ranges, as `collect` writes them")],
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw them into")] = None,
) -> None:
    """Print ranges as a table, and draw them."""
    from calibration.ranges import read_ranges
    from calibration.show import plot_ranges, ranges_table

    found, sha256 = read_ranges(ranges)
    out.print(ranges_table(found))
    out.print(f"ranges {sha256}", f"model {found.onnx_sha256}", f"calibration set {found.calibration_set_sha256}",
              sep="\n", soft_wrap=True)  # fmt: skip
    if plot is not None:
        plot_ranges(found, plot)
        out.print(f"drew {plot}", soft_wrap=True, markup=False)


def _contract(release: Path) -> Contract:
    from edge.contract import read_contract

    return read_contract(release / "contract.json")[0]


def _track(paths: Sequence[Path]) -> Iterable[Path]:
    from rich.progress import track

    return track(paths, "read images", console=err)


def main() -> None:
    """Run the command line; what is wrong with its input is said in one line, without a traceback."""
    from calibration.calibration_set import CalibrationError

    try:
        app()
    except (CalibrationError, EdgeError) as exc:
        _fail(" ".join(str(exc).split()), exc)
    except ModuleNotFoundError as exc:  # the room's install has neither onnx nor matplotlib
        _fail(f"{exc.name} is not installed: this belongs to the bench; pip install '.[build]'", exc)


def _fail(message: str, cause: Exception) -> NoReturn:
    err.print(f"error: {message}", soft_wrap=True, markup=False, highlight=False)
    raise SystemExit(2) from cause


if __name__ == "__main__":
    main()
