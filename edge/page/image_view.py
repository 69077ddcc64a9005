"""The view of one image: its picture with layers, all that its result says, and the pixels that the picture is made of.

The pixels are the original's, only while that is the very file of the result; they are read by a process of their own
(`edge.page.pixels`). Everything else comes from the result.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge import __version__
from edge.by_hand import couch_scale
from edge.config import Config
from edge.contract import KindContract, read_contract
from edge.engines import SHIPPED_RELEASE
from edge.errors import NotAnImage, TryAgain
from edge.page.answers import html
from edge.page.files import DICOM_KINDS
from edge.page.found_result import Found, found_result
from edge.page.image_model import ResultView, output_kind, result_view
from edge.page.pixels import Busy, Made, Pixels, Wanted
from edge.page.render import render
from edge.page.shown_file import overlay_of
from edge.page.sources import WITH_RESULT, Seen, Sources
from edge.registration.reference import Reference, find_reference
from edge.results.document import RegistrationEntry, Result
from edge.results.publish import OVERLAY_SUFFIX, output_stem
from edge.service.status import NOTICE
from edge.settle import State
from edge.source_file import signature

AGAIN_S = 2  # when to come again where too many ask for pixels
PIXELS_TYPE, PICTURE_TYPE = "application/octet-stream", "image/png"
KEPT: Final = "private, no-cache"  # kept, and asked about each time
NOT_LINKED = "DICOM objects name the patient, so they are linked only where the configuration says dicom_links."

Look = Literal["plain", "warn", "bad", "idle"]  # never good: a shift that is known may be a large one


@dataclass(frozen=True)
class Heading:
    """How an image stands: a word, the shape that goes with it, and a sentence."""

    look: Look
    word: str
    sentence: str | None


@dataclass(frozen=True)
class Picture:
    """What the viewer has to draw on: the original's pixels, or only the overlay that was published, or nothing."""

    pixels: bool
    overlay: bool
    why: str | None  # why there are no pixels


@dataclass(frozen=True)
class File:
    """A file of a result, and where the page serves it; None: it does not."""

    name: str  # what it is
    file: str
    address: str | None


def image_routes(sources: Sources, maker: Pixels) -> list[Route]:
    """Return the addresses of the view, its pixels and its heatmaps, which ``maker`` makes."""
    contract, _ = read_contract(SHIPPED_RELEASE / "contract.json")
    return [
        Route("/image/{ord:int}", partial(_view, sources, contract.kinds)),
        Route("/image/{ord:int}/pixels", partial(_pixels, sources, maker)),
        Route("/image/{ord:int}/heatmaps.png", partial(_heatmaps, sources, maker)),
    ]


# --- the view ---


async def _view(sources: Sources, kinds: Sequence[KindContract], request: Request) -> Response:
    return html(request, await run_in_threadpool(_page, sources, kinds, request.path_params["ord"]))


def _page(sources: Sources, kinds: Sequence[KindContract], order: int) -> str:
    seen = _seen(sources, order)
    found = found_result(sources, seen)
    view = picture = None
    if isinstance(found.result, Result):
        reference = _reference(sources.config, found.result)
        view = result_view(found.result, kinds, reference, couch_scale(sources.config.couch).name)
        picture = _picture(seen, found)
    linked = sources.config.page.dicom_links
    return render(
        "image.html",
        here="Now",
        as_of=sources.now(),
        seen=seen,
        heading=_heading(seen, found.result),
        view=view,
        picture=picture,
        scene=_scene(seen, view, picture),
        files=_files(seen, found, linked=linked),
        not_linked=NOT_LINKED if view and _names_the_patient(view) and not linked else None,
    )


def _seen(sources: Sources, order: int) -> Seen:
    found = sources.seen(order)
    if found is None:
        raise HTTPException(404, "there is no such image")
    return found


def _heading(seen: Seen, result: Result | str | None) -> Heading:
    if isinstance(result, str):
        return Heading("warn", "Result not shown", f"{seen.result_path.name}: {result}")
    if result is None:
        return _without_result(seen)
    if result.status == "refused":
        return Heading("bad", "Refused", result.reason)
    if result.status == "no_landmarks":
        return Heading("warn", "No landmarks", "The network found no landmark that it may report.")
    return _with_landmarks(result.registration)


def _with_landmarks(registration: RegistrationEntry | None) -> Heading:
    if registration is None:
        return Heading("plain", "Landmarks found", "No reference belongs to this image, so there is no shift.")
    if registration.status != "ok":
        return Heading("warn", "Shift withheld", registration.reason)
    return Heading("plain", "Shift known", None)


def _without_result(seen: Seen) -> Heading:
    if seen.state is State.REFUSED:
        return Heading("bad", "Refused", seen.reason)
    if seen.state in WITH_RESULT:
        return Heading("warn", "Result gone", f"{seen.result_path.name} is not there any more, or is torn.")
    if seen.state is State.INCOMPLETE:
        return Heading("warn", "Incomplete", seen.reason)
    if seen.state is State.RETRY_WAIT:
        return Heading("warn", "To be tried again", seen.reason)
    return Heading("idle", "In the queue", "It has no result yet.")


def _reference(config: Config, result: Result) -> Reference | str | None:
    """Return the reference that a result was made with, or why its landmarks cannot be drawn; None: it had none."""
    used = result.registration.reference if result.registration else None
    if used is None:
        return None
    if config.references is None:
        return "its landmarks are not drawn: the configuration names no folder of references any more"
    found = find_reference(config.references, used.key)
    if isinstance(found, Reference) and found.sha256() == used.sha256:
        return found
    if isinstance(found, str):
        return f"its landmarks are not drawn: {found}"
    how = "is not in the store any more" if found is None else "was replaced since"
    return f"its landmarks are not drawn: the reference {how}"


def _picture(seen: Seen, found: Found) -> Picture:
    overlay = found.document is not None and overlay_of(seen, found.document) is not None
    if isinstance(found.result, Result) and found.result.status == "refused":
        return Picture(pixels=False, overlay=False, why="A refused image is not shown.")
    try:
        signature(seen.path, seen.name)
    except (NotAnImage, TryAgain):
        return Picture(pixels=False, overlay=overlay, why="The image file is not there any more, or cannot be read.")
    return Picture(pixels=True, overlay=overlay, why=None)


def _scene(seen: Seen, view: ResultView | None, picture: Picture | None) -> str | None:
    """Return what the viewer is told, JSON; None where there is nothing to draw."""
    if view is None or picture is None or not (picture.pixels or picture.overlay):
        return None
    at = f"/image/{seen.ord}"
    addresses = {
        "pixels": f"{at}/pixels" if picture.pixels else None,
        "heatmaps": f"{at}/heatmaps.png" if picture.pixels else None,
        "overlay": f"{at}/overlay.png" if picture.overlay else None,
    }
    try:
        return json.dumps(dict(view.scene) | {"addresses": addresses, "why": picture.why}, allow_nan=False)
    except ValueError:  # a crafted result: its places are beyond what a number holds
        return None


def _files(seen: Seen, found: Found, *, linked: bool) -> tuple[File, ...]:
    """Return the files of a result; ``linked``: DICOM objects, too, have a link."""
    if found.result is None:
        return ()
    served, at = _served(seen, linked=linked) if found.document else {}, f"/image/{seen.ord}"
    outputs = found.result.outputs if isinstance(found.result, Result) else ()
    return (
        File("result", seen.result_path.name, f"{at}/result.json" if found.document else None),
        *(File(output_kind(one.name), one.name, served.get(one.name)) for one in outputs),
    )


def _served(seen: Seen, *, linked: bool) -> dict[str, str]:
    """Return where the page serves the outputs of a result, by name (`edge.page.files`)."""
    stem, at = output_stem(seen.path), f"/image/{seen.ord}"
    objects = {stem + suffix: f"{at}/{kind}.dcm" for kind, suffix in DICOM_KINDS.items()} if linked else {}
    return {stem + OVERLAY_SUFFIX: f"{at}/overlay.png"} | objects


def _names_the_patient(view: ResultView) -> bool:
    return any(one.value.endswith(".dcm") for one in view.outputs)


# --- pixels and heatmaps ---


async def _pixels(sources: Sources, maker: Pixels, request: Request) -> Response:
    found = await run_in_threadpool(_wanted, sources, request.path_params["ord"], "pixels")
    made = await _made(maker, found, request)
    if isinstance(made, Response):
        return made
    facts = made.facts
    headers = {
        "X-Height": str(facts["height"]),
        "X-Width": str(facts["width"]),
        "X-Low": repr(facts["low"]),
        "X-High": repr(facts["high"]),
        "X-Window": ",".join(map(repr, facts["window"])),
        "X-Sign": str(facts["sign"]),
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return _answer(made.data, PIXELS_TYPE, headers | {"Content-Encoding": "gzip"}, found)
    return _answer(await run_in_threadpool(gzip.decompress, made.data), PIXELS_TYPE, headers, found)


async def _heatmaps(sources: Sources, maker: Pixels, request: Request) -> Response:
    found = await run_in_threadpool(_wanted, sources, request.path_params["ord"], "heatmaps")
    made = await _made(maker, found, request)
    if isinstance(made, Response):
        return made
    return _answer(made.data, PICTURE_TYPE, {"X-Kinds": json.dumps(made.facts["kinds"])}, found)


def _wanted(sources: Sources, order: int, do: Literal["pixels", "heatmaps"]) -> Wanted | str:
    """Return what to ask for, or why there is nothing to ask for."""
    seen = _seen(sources, order)
    result = found_result(sources, seen).result
    if not isinstance(result, Result) or result.status == "refused":
        return f"{seen.name}: has no result with a picture"
    made = result.provenance
    return Wanted(do, str(seen.path), seen.name, result.image.sha256, made.model_sha256, made.contract_sha256)


async def _made(maker: Pixels, wanted: Wanted | str, request: Request) -> Made | Response:
    """Return what was made, or the answer that says why nothing was, or that the browser has it.

    Why is no error of the request's: a browser would report one, and people would look for a fault.
    """
    if isinstance(wanted, str):
        return _no(wanted)
    if request.headers.get("if-none-match") == _tag(wanted):
        return Response(status_code=304, headers={"ETag": _tag(wanted), "Cache-Control": KEPT})
    try:
        made = await maker.get(wanted)
    except Busy:
        return Response(
            f"Too many images are being shown.\n{NOTICE}\n",
            503,
            media_type="text/plain",
            headers={"Retry-After": str(AGAIN_S)},
        )
    return made if isinstance(made, Made) else _no(made)


def _no(reason: str) -> Response:
    return JSONResponse({"reason": reason}, headers={"Cache-Control": "no-store"})


def _answer(data: bytes, kind: str, headers: dict[str, Any], wanted: Wanted | str) -> Response:
    tag = {} if isinstance(wanted, str) else {"ETag": _tag(wanted)}
    return Response(data, media_type=kind, headers=headers | tag | {"Cache-Control": KEPT})


def _tag(wanted: Wanted) -> str:
    """Return what names these very bytes: the image's, the model's and this version's."""
    parts = [__version__, wanted.do, wanted.sha256[:32]]
    parts += [wanted.contract_sha256[:16]] if wanted.do == "heatmaps" else []
    return f'"{"-".join(parts)}"'
