"""What a compiler is asked for and what it gives, whichever it is; and the rule that it gives what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from build_engine.quantize import BuildError
from edge.contract import Flavour


class CompileError(BuildError):
    """A graph that cannot be compiled as asked; the message names the node, or says what was delivered instead."""


class CompileSettings(BaseModel):
    """How to compile; ``[engine]`` of a recipe. All but ``flavour`` is TensorRT's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flavour: Flavour = "onnxruntime"
    compute_capability: Annotated[
        str | None,
        Field(
            pattern=r"^\d+\.\d$",
            description='"8.9"; null: tensorrt takes this machine\'s GPU, tensorrt_rtx compiles for all from 8.0 on',
        ),
    ] = None
    workspace_mib: Annotated[int, Field(ge=1)] = 1024
    builder_level: Annotated[int, Field(ge=0, le=5, description="how long TensorRT searches for fast kernels")] = 3
    timing_cache: Annotated[
        Path | None, Field(description="a file that TensorRT's measurements are kept in between builds; null: none")
    ] = None


@dataclass(frozen=True, eq=False)
class Compiled:
    """An engine and how it came to be.

    ``delivered`` counts layers that multiply by what they compute in: "int8", "fp16", "fp32". ``compute_capability`` is
    None where it was not compiled for one alone; ``gpu`` and ``driver`` where there was none, or one that the engine is
    not for. ``notes`` are for people.
    """

    data: bytes
    file_name: Literal["model.onnx", "model.plan"]
    flavour: Flavour
    version: str
    delivered: dict[str, int]
    compute_capability: str | None = None
    gpu: str | None = None
    driver: str | None = None
    notes: tuple[str, ...] = ()


class Progress(Protocol):
    """Hears of a compiler's phases, which nest; from a thread of the compiler. An exception stops the compilation."""

    def phase(self, name: str, steps: int) -> None:
        """Hear that a phase of so many steps begins."""
        ...

    def step(self, name: str, done: int) -> None:
        """Hear how many steps of a phase are done."""
        ...

    def finished(self, name: str) -> None:
        """Hear that a phase ends, be it with steps left."""
        ...


class SilentProgress:
    """Nobody looks."""

    def phase(self, name: str, steps: int) -> None:
        pass

    def step(self, name: str, done: int) -> None:
        pass

    def finished(self, name: str) -> None:
        pass


def demand_delivered(requested: Mapping[str, int], delivered: Mapping[str, int], hint: str) -> None:
    """Raise `CompileError` where layers do not compute in what the graph asks for."""
    if {k: n for k, n in requested.items() if n} != {k: n for k, n in delivered.items() if n}:
        raise CompileError(f"requested {in_words(requested)}, delivered {in_words(delivered)}: {hint}")


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts of layers by precision, such as "32 int8, 19 fp16"."""
    return ", ".join(f"{number} {precision}" for precision, number in counts.items() if number) or "nothing"
