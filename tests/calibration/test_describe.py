import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from calibration.calibration_set import CalibrationError
from calibration.describe import NEAR_DUPLICATE_BITS, bits_apart, difference_hash, grey_statistics, view_of, walk
from calibration.header import patient_hash, read_header
from edge.portal_image import read_portal_image


def geometry_of(path):
    return read_portal_image(path).geometry


@pytest.mark.parametrize(
    ("gantry_deg", "view"),
    [
        (1, "ap"),
        (359, "ap"),
        (180, "ap"),
        (30, "ap"),
        (45, "oblique"),
        (91, "lateral"),
        (270, "lateral"),
        (0, "unknown"),
    ],
)
def test_the_view_is_told_by_the_gantry_angle_where_the_room_trusts_it(portal, gantry_deg, view):
    assert view_of(geometry_of(portal("a.dcm", 1, GantryAngle=float(gantry_deg)))) == view


def test_a_png_is_of_no_known_view_machine_or_energy(png):
    path = png("a.png", 1)
    header = read_header(path)
    assert view_of(geometry_of(path)) == "unknown"
    assert (header.machine, header.energy, header.exposure, header.patient) == ("unknown", "unknown", None, None)


@pytest.mark.parametrize(
    ("tags", "energy"),
    [
        ({"KVP": "6000"}, "mv"),
        ({"KVP": "120"}, "kv"),  # stands above what the image type says
        ({"ImageType": ["DERIVED", "SECONDARY", "DRR"]}, "kv"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PORTAL"]}, "mv"),
        ({"ImageType": ["ORIGINAL", "PRIMARY"]}, "unknown"),
        ({"ImageType": None}, "unknown"),
        ({"ImageType": None, "Modality": "DX"}, "kv"),
    ],
)
def test_the_energy_is_told_by_the_beam_then_by_the_sort_of_image(portal, tags, energy):
    assert read_header(portal("a.dcm", 1, **tags)).energy == energy


def test_the_exposure_sequence_of_an_rt_image_tells_beam_and_monitor_units(portal, exposure):
    header = read_header(portal("a.dcm", 1, ExposureSequence=exposure(KVP="6000", MetersetExposure="2.5")))
    assert (header.energy, header.exposure) == ("mv", ("mu", 2.5))


def test_a_tube_is_compared_by_mas(portal):
    assert read_header(portal("a.dcm", 1, Modality="DX", Exposure="4")).exposure == ("mas", 4.0)


def test_a_machine_is_a_hash_of_its_serial_number_before_its_name(portal):
    first = read_header(portal("a.dcm", 1, DeviceSerialNumber="1234", StationName="ROOM-1"))
    renamed = read_header(portal("b.dcm", 1, DeviceSerialNumber="1234", StationName="ROOM-2"))
    other = read_header(portal("c.dcm", 1, DeviceSerialNumber="1235", StationName="ROOM-1"))
    assert first.machine == renamed.machine != other.machine
    assert "1234" not in first.machine
    assert len(first.machine) == 8


def test_a_header_that_contradicts_its_own_format_is_named(portal):
    path = portal("a.dcm", 1, KVP="120")
    data = path.read_bytes()
    assert data.count(b"120 ") == 1
    path.write_bytes(data.replace(b"120 ", b"1x0 "))
    with pytest.raises(CalibrationError, match=r"a\.dcm: its header cannot be read"):
        read_header(path)


def test_a_value_that_nobody_asks_for_may_contradict_its_format(portal):
    path = portal("a.dcm", 1, WindowCenter="120", OperatorsName="Miller")
    data = path.read_bytes()
    assert data.count(b"120 ") == 1
    path.write_bytes(data.replace(b"120 ", b"1x0 "))
    assert read_header(path).identifying == ("OperatorsName",)


def test_texts_of_a_png_are_named_by_their_keyword(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "Mrs Miller")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", pnginfo=texts)
    assert read_header(tmp_path / "a.png").identifying == ("text Comment",)


def test_what_a_camera_program_writes_into_a_png_is_named(tmp_path):
    exif = Image.Exif()
    exif[270] = "Mrs Miller"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert read_header(tmp_path / "a.png").identifying == ("text exif",)


def test_texts_of_a_png_behind_its_pixels_are_named_too(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    chunk = b"tEXtComment\0Mrs Miller"
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:-12] + text + data[-12:])  # before IEND
    assert read_header(tmp_path / "a.png").identifying == ("text Comment",)


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({}, ()),
        ({305: "A program 1.2", 306: "2026:01:02 03:04:05"}, ()),
        ({270: "Mrs Miller", 315: "Dr Smith"}, ("text Artist", "text ImageDescription")),
        ({700: b"<x:xmpmeta/>"}, ("text XMP",)),
    ],
)
def test_of_a_tiff_what_names_someone_is_named_and_its_compression_is_not(tmp_path, tags, named):
    picture = Image.fromarray(np.zeros((8, 8), np.uint8))
    picture.save(tmp_path / "a.tif", tiffinfo=tags, compression="tiff_lzw")
    assert read_header(tmp_path / "a.tif").identifying == named


def distance(one, two):
    return int(bits_apart(difference_hash(one), difference_hash(two)[None])[0])


def test_copies_of_a_picture_are_near_and_others_are_far(field):
    picture = field(1, side=128).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.01 * picture.std(), picture.shape)
    assert distance(picture, picture * 0.2 + 7) <= NEAR_DUPLICATE_BITS
    assert distance(picture, picture + noise.astype(np.float32)) <= NEAR_DUPLICATE_BITS
    assert distance(picture, -picture) <= NEAR_DUPLICATE_BITS
    assert distance(picture, picture.reshape(64, 2, 64, 2).mean(axis=(1, 3))) <= NEAR_DUPLICATE_BITS
    assert distance(picture, field(2, side=128).astype(np.float32)) > 3 * NEAR_DUPLICATE_BITS
    assert distance(picture, picture[:, ::-1]) > 3 * NEAR_DUPLICATE_BITS


def test_bits_apart_counts_bits_up_to_a_negative():
    one = np.zeros(32, np.uint8)
    others = np.zeros((3, 32), np.uint8)
    others[1, :2] = 0b101, 0b1
    others[2] = 255 - others[1]
    assert bits_apart(one, others).tolist() == [0, 3, 3]


def test_statistics_are_of_the_image_and_not_of_the_padding_around_it(portal, contract, field):
    wide = read_portal_image(portal("a.dcm", field(1)[:48]))  # half as high as wide
    mean, spread, dark, bright, detail, area = grey_statistics(wide, contract())
    assert area == 0.5
    assert dark == pytest.approx(-0.9, abs=0.1)  # equalised from -1 to 1, as far as the contrast limit lets it
    assert bright == pytest.approx(0.9, abs=0.1)
    assert spread > 0.4
    assert detail > 0
    assert abs(mean) < 0.2


def test_a_walk_counts_and_names_what_it_cannot_read(portal, png, tmp_path):
    portal("deep/down/a.dcm", 1)
    png("b.png", 2)
    cut = portal("cut.dcm", 3)
    cut.write_bytes(cut.read_bytes()[:-500])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.dcm").write_bytes(cut.read_bytes())
    (tmp_path / "a.landmarks.png").write_bytes((tmp_path / "b.png").read_bytes())
    found = walk([tmp_path, tmp_path / "deep"], list)
    assert [image.path.name for image in found.images] == ["b.png", "a.dcm"]
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("cut.dcm: ")
    assert found.others == 1


def test_a_name_that_a_manifest_cannot_hold_is_named_as_unreadable(portal, tmp_path):
    path = portal("a.dcm", 1)
    path.rename(tmp_path / b"M\xfcller.dcm".decode("utf-8", "surrogateescape"))
    found = walk([tmp_path], list)
    assert found.unreadable == ("M\\xfcller.dcm: its name is not UTF-8; rename it",)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CalibrationError, match="none: is not there"):
        walk([tmp_path / "none"], list)


def test_patients_are_told_by_the_header_and_by_the_truth_of_a_simulation(portal, png, tmp_path):
    portal("a.dcm", 1, PatientID=" P1")
    png("b.png", 2)
    png("c.png", 3)
    (tmp_path / "truth.json").write_text('{"images": {"b.png": {"patient": "lidc0001"}, "a.dcm": {"patient": "S"}}}')
    patients = {image.path.name: image.patients for image in walk([tmp_path], list).images}
    assert patients == {
        "a.dcm": {patient_hash("p1"), patient_hash("S")},
        "b.png": {patient_hash("lidc0001")},
        "c.png": frozenset(),
    }


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [1]}', '{"images": {"a.dcm": 1}}'])
def test_a_truth_file_of_another_program_is_left_alone(portal, tmp_path, text):
    portal("a.dcm", 1)
    (tmp_path / "truth.json").write_text(text)
    assert walk([tmp_path], list).images[0].patients == frozenset()
