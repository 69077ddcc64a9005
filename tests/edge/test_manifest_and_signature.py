import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError

from edge.errors import BadConfig, BadRelease
from edge.manifest import Manifest
from edge.signature import generate_key, read_public_key, sign, verify

ZEROS = "0" * 64
EMPTY_PEM = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
ENTRIES = {
    "schema": "landmarknet-edge/manifest/1",
    "release": "room-1",
    "software": "landmarknet-edge 0",
    "created_utc": "2026-01-02T03:04:05Z",
    "files": {"model.onnx": ZEROS, "contract.json": ZEROS, "golden.npz": ZEROS},
    "checkpoint_sha256": ZEROS,
    "onnx_sha256": ZEROS,
    "calibration_set_sha256": None,
    "ranges_sha256": None,
    "recipe_sha256": ZEROS,
    "flavour": "onnxruntime",
    "flavour_version": "1.0",
    "gpu": None,
    "compute_capability": None,
    "driver": None,
    "precision": "fp32",
    "delivered": {"fp32": 3},
    "gate": {"passed": True},
}


@pytest.fixture
def pair(tmp_path):
    """Return the paths of a fresh pair of keys."""
    generate_key(tmp_path / "private.pem", tmp_path / "public.pem")
    return tmp_path / "private.pem", tmp_path / "public.pem"


# --- keys and signatures ---


def test_what_was_signed_is_believed_and_one_bit_else_is_not(pair):
    private, public = pair
    signature = sign(b"manifest", private)
    assert len(signature) == 64
    key = read_public_key(public)
    verify(b"manifest", signature, key)
    for bit in range(8 * len(signature)):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRelease, match=r"manifest\.json: not what the owner of this key signed"):
            verify(b"manifest", bytes(flipped), key, "manifest.json")
    for other in (b"Manifest", b"manifest ", b"manifes", b""):
        with pytest.raises(BadRelease):
            verify(other, signature, key)


@pytest.mark.parametrize("signature", [b"", b"short", bytes(64), bytes(65)], ids=["empty", "short", "zeros", "long"])
def test_what_is_no_signature_is_refused(pair, signature):
    with pytest.raises(BadRelease, match="publish the release again"):
        verify(b"manifest", signature, read_public_key(pair[1]))


def test_the_signature_of_another_key_is_refused(pair, tmp_path):
    generate_key(tmp_path / "other", tmp_path / "other.pub")
    with pytest.raises(BadRelease, match="signed with another key"):
        verify(b"manifest", sign(b"manifest", tmp_path / "other"), read_public_key(pair[1]))


def test_only_the_owner_can_read_the_private_key(pair):
    assert stat.S_IMODE(pair[0].stat().st_mode) == 0o600
    assert b"PRIVATE" not in pair[1].read_bytes()


@pytest.mark.parametrize("taken", ["private.pem", "public.pem"])
def test_a_key_is_never_replaced_and_never_left_as_half_a_pair(tmp_path, taken):
    (tmp_path / taken).write_text("in use since spring")
    with pytest.raises(BadConfig, match=f"{taken}: this key cannot be written .*name another file"):
        generate_key(tmp_path / "private.pem", tmp_path / "public.pem")
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "in use since spring"


def test_two_files_of_one_name_are_no_pair(tmp_path):
    with pytest.raises(BadConfig):
        generate_key(tmp_path / "key", tmp_path / "key")


def test_a_private_key_where_the_public_one_belongs_is_refused(pair):
    with pytest.raises(BadConfig, match="is a private key, which has no place here"):
        read_public_key(pair[0])


def test_a_public_key_signs_nothing(pair):
    with pytest.raises(BadConfig, match="not a private key"):
        sign(b"manifest", pair[1])


@pytest.mark.parametrize("use", [read_public_key, lambda path: sign(b"manifest", path)], ids=["public", "private"])
@pytest.mark.parametrize("data", [None, b"", b"no key", EMPTY_PEM])
def test_what_is_no_key_is_named(tmp_path, use, data):
    if data is not None:
        (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(BadConfig, match=r"key\.pem: .*keygen"):
        use(tmp_path / "key.pem")


def test_a_key_of_another_sort_is_refused(tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    private, public = tmp_path / "rsa", tmp_path / "rsa.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadConfig, match="not of Ed25519"):
        read_public_key(public)
    with pytest.raises(BadConfig, match="not of Ed25519"):
        sign(b"manifest", private)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(BadConfig, match="without a password"):
        sign(b"manifest", private)


# --- the manifest ---


def test_a_manifest_says_the_same_after_it_was_written_and_read():
    manifest = Manifest.model_validate(ENTRIES)
    assert Manifest.model_validate_json(manifest.model_dump_json(by_alias=True)) == manifest
    assert json.loads(manifest.model_dump_json(by_alias=True)) == ENTRIES


def test_the_time_of_a_manifest_is_in_utc_to_the_second():
    local = Manifest.model_validate(ENTRIES | {"created_utc": "2026-01-02T04:04:05.678+01:00"})
    assert local == Manifest.model_validate(ENTRIES)


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ({"schema": "landmarknet-edge/manifest/2"}, "schema"),
        ({"colour": "red"}, "colour"),
        ({"flavour": "openvino"}, "flavour"),
        ({"precision": "int4"}, "precision"),
        ({"checkpoint_sha256": "abc"}, "checkpoint_sha256"),
        ({"calibration_set_sha256": ZEROS[1:]}, "calibration_set_sha256"),
        ({"created_utc": "yesterday"}, "created_utc"),
        ({"created_utc": "2026-01-02T03:04:05"}, "created_utc"),
        ({"files": {"model.onnx": "abc"}}, "files"),
        ({"delivered": {"fp32": "many"}}, "delivered"),
    ],
)
def test_a_manifest_of_another_sort_is_refused_and_its_entry_named(entries, wrong):
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(ENTRIES | entries)
    assert {error["loc"][0] for error in caught.value.errors()} == {wrong}


PATHS = ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "x\n", "a\\b", "x" * 101, "é"]


@pytest.mark.parametrize("name", PATHS)
def test_names_that_could_be_paths_are_neither_releases_nor_files(name):
    for entries in ({"release": name}, {"files": {name: ZEROS}}):
        with pytest.raises(ValidationError):
            Manifest.model_validate(ENTRIES | entries)


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name != "schema"])
def test_an_entry_that_is_missing_is_not_guessed(entry):
    with pytest.raises(ValidationError, match=entry):
        Manifest.model_validate({name: value for name, value in ENTRIES.items() if name != entry})
