"""Small results of images, published as the pipeline publishes them."""

import hashlib
import json
import os
from pathlib import Path

from edge.results.publish import image_name, publish, result_path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def document(image: Path, outputs: dict[str, bytes] | None = None, data: bytes | None = None) -> bytes:
    return json.dumps(
        {
            "schema": "landmarknet-edge/result/1",
            "status": "ok",
            "image": {"name": image_name(image), "sha256": sha256(image.read_bytes() if data is None else data)},
            "outputs": [{"name": name, "sha256": sha256(content)} for name, content in (outputs or {}).items()],
        }
    ).encode()


def publish_for(image: Path, outputs: dict[str, bytes] | None = None, results_dir: Path | None = None) -> Path:
    result = result_path(image, results_dir)
    files = [(result.with_name(name), content) for name, content in (outputs or {}).items()]
    publish(files, (result, document(image, outputs)))
    return result


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def set_times(path: Path, after: Path, offset_s: float) -> None:
    mtime_ns = after.stat().st_mtime_ns + int(offset_s * 1e9)
    os.utime(path, ns=(mtime_ns, mtime_ns))
