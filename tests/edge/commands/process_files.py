"""What tests of ``landmarknet-edge process`` put into files, and read from them."""

import io
import json

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0).bytes(20_000)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def result(path):
    return json.loads(path.read_bytes())
