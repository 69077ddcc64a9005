"""The key of a result, told before it is made: with the reference of the image's beam, a damaged one, or none."""

import hashlib

from edge.config import read_config
from edge.engines import open_configured
from edge.pipeline import Pipeline, Source


def keys(room, *names):
    """Return by image the key that is told, and that of the result that is made."""
    config = read_config(room.config)
    pipeline = Pipeline.of(config, open_configured(config))
    found = {}
    for name in names:
        source = Source(room.drop / name, name, hashlib.sha256((room.drop / name).read_bytes()).hexdigest())
        found[name] = pipeline.key_of(source), pipeline.make(source).result.provenance.key
    return found


def test_the_key_is_told_before_the_result_is_made(room, with_reference):
    room.put("X.dcm")
    room.put("Y.dcm", beam=None)
    found = keys(room, "X.dcm", "Y.dcm")
    (room.references / f"{with_reference}.reference.json").write_text("damaged")
    found |= {"damaged": keys(room, "X.dcm")["X.dcm"]}
    assert all(told == made for told, made in found.values())
    assert len({told for told, _ in found.values()}) == 3
