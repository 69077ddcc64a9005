"""Files of results as they lie there: the overlay and the JSON, and only those that a result of ours names."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.page.answers import kept, named
from edge.page.found_result import found_result
from edge.page.shown_file import overlay_of
from edge.page.sources import Seen, Sources
from edge.results.files import read_ours
from edge.results.publish import output_stem

PNG = b"\x89PNG\r\n\x1a\n"
DICOM_KINDS = {"sr": ".landmarks.sr.dcm", "pr": ".landmarks.pr.dcm", "reg": ".landmarks.reg.dcm"}


def file_routes(sources: Sources) -> list[Route]:
    """Return the addresses of overlay, JSON and, where they are allowed, DICOM outputs."""

    async def overlay(request: Request) -> Response:
        return await answer(request, "overlay")

    async def document(request: Request) -> Response:
        return await answer(request, "document")

    async def dicom(request: Request) -> Response:
        return await answer(request, request.path_params["kind"])

    async def answer(request: Request, wanted: str) -> Response:
        data, name = await anyio.to_thread.run_sync(_read, sources, request.path_params["ord"], wanted)
        media_type = {"overlay": "image/png", "document": "application/json"}.get(wanted, "application/dicom")
        return kept(request, data, media_type, headers=named(name, download=wanted in DICOM_KINDS))

    return [
        Route("/image/{ord:int}/overlay.png", overlay),
        Route("/image/{ord:int}/result.json", document),
        Route("/image/{ord:int}/{kind:str}.dcm", dicom),
    ]


def _read(sources: Sources, order: int, wanted: str) -> tuple[bytes, str]:
    seen = sources.seen(order)
    result = found_result(sources, seen).document if seen else None
    if seen is None or result is None:
        raise HTTPException(404, "There is no result for this image.")
    if wanted == "document":
        return _of_folder(sources, seen, seen.result_path.name), seen.result_path.name
    entry = overlay_of(seen, result) if wanted == "overlay" else _dicom_of(sources, seen, result, wanted)
    if entry is None:
        raise HTTPException(404, "This result names no such file.")
    data = _of_folder(sources, seen, entry["name"])
    if sha256(data).hexdigest() != entry["sha256"] or (wanted == "overlay" and not data.startswith(PNG)):
        raise HTTPException(404, "The file that lies there is not the one that the result names.")
    return data, entry["name"]


def _dicom_of(
    sources: Sources, seen: Seen, result: dict[str, list[dict[str, str]]], kind: str
) -> dict[str, str] | None:
    if not sources.config.page.dicom_links or kind not in DICOM_KINDS:
        return None
    wanted = output_stem(seen.path) + DICOM_KINDS[kind]
    return next((entry for entry in result["outputs"] if entry["name"] == wanted), None)


def _of_folder(sources: Sources, seen: Seen, name: str) -> bytes:
    """Return the bytes of a file in the folder of a result; no link leads out of it, nor the folder out of its tree."""
    folder = Path(os.path.realpath(seen.result_path.parent))
    trees = [Path(os.path.realpath(tree)) for entry in sources.config.drop_folder for tree in entry.trees()]
    if not any(folder.is_relative_to(tree) for tree in trees):
        raise HTTPException(404, "Its folder is none of this service.")
    try:
        data = read_ours(folder / name)
    except OSError as exc:
        raise HTTPException(404, "The file cannot be read just now.") from exc
    if data is None:
        raise HTTPException(404, "What lies there is no file of a result.")
    return data
