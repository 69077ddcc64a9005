"""What the daemon tells of images in which a patient was planted, wherever it tells it: nothing of the patient."""

import socket
import urllib.request

import pytest
from typer.testing import CliRunner

from edge.cli import app
from tests.faults.room import Room

PLANTED = {
    "PatientName": "Zyxwv^Planted",
    "PatientID": "PID-424242",
    "PatientBirthDate": "19470101",
    "OtherPatientIDs": "OTHER-535353",
    "AccessionNumber": "ACC-616161",
    "StudyID": "STUDY-626262",
    "RTImageLabel": "Label of Zyxwv",
    "RTImageName": "Name of Zyxwv",
    "ReferringPhysicianName": "Qwertz^Doctor",
    "InstitutionName": "Clinic Asdfghjkl",
    "StationName": "STATION-717171",
}
SECRETS = ("Zyxwv", "Planted", "424242", "19470101", "535353", "616161", "626262", "Qwertz", "Asdfghjkl", "717171")
REFUSED = {"colour.dcm": "UnsupportedImage", "header.dcm": "UnsupportedImage", "half.dcm": "DamagedImage"}


def planted_files(dicom, pixels):
    """Return files by name: one image, three that are refused, and one that is no image."""
    image = dicom(pixels, **PLANTED)
    return {
        "good.dcm": image,
        "colour.dcm": dicom(pixels, **PLANTED, SamplesPerPixel=3),
        "header.dcm": dicom(pixels, **PLANTED, PhotometricInterpretation=PLANTED["PatientID"]),
        "half.dcm": image[:-2000],
        "notes.txt": " ".join(PLANTED.values()).encode(),
    }


class Systemd:
    """The socket to which a service tells how it stands."""

    def __init__(self, path):
        self.path, self.heard = path, ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def listen(self):
        """Take what was told, before the queue of the socket is full."""
        try:
            while True:
                self.heard += self._socket.recv(65536).decode() + "\n"
        except BlockingIOError:
            return self.heard

    def close(self):
        self._socket.close()


def said(*command):
    """Return what a command prints; it ends with a status of its own, never with an exception."""
    outcome = CliRunner().invoke(app, list(map(str, command)))
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome.output


def text_of(folder, pattern):
    return "".join(path.read_bytes().decode("latin-1") for path in sorted(folder.rglob(pattern)) if path.is_file())


@pytest.fixture(scope="module")
def told(tmp_path_factory, quick_release, dicom, collimated):
    """Return all that a real daemon, and the commands beside it, tell of the planted files, by where it is told."""
    folder = tmp_path_factory.mktemp("told")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    room = Room(folder / "room", quick_release, {"metrics_port": port, "incomplete_after_s": 0.5})
    systemd = Systemd(folder / "notify")
    files = planted_files(dicom, collimated())
    try:
        for name, data in files.items():
            (room.drop / name).write_bytes(data)
        room.start(NOTIFY_SOCKET=str(systemd.path))
        url = f"http://127.0.0.1:{port}/metrics"

        def metrics():
            systemd.listen()
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read().decode()

        room.wait_until(lambda: len(room.results()) == 4 and "landmarknet_edge_not_images 1.0" in metrics())
        return {
            "metrics": metrics(),
            "systemd": systemd.listen(),
            "status --json": said("status", "--json", "--config", room.config),
            "status": said("status", "--config", room.config),
            "check --json": said("check", "--json", "--config", room.config),
            "audit": said("audit", "--config", room.config),
            "log": room.log if room.end() == 0 else "",
            "journal": text_of(room.state, "journal.sqlite*"),
            "audit log": text_of(room.state, "audit*"),
            "state": text_of(room.state, "*"),
            "results": text_of(room.drop, "*.landmarks.*"),
            "sent": text_of(room.drop, "*.dcm") + text_of(room.drop, "notes.txt"),
        }
    finally:
        room.close()
        systemd.close()


SPOKEN_OF = {  # what each must hold, so that it was about these files
    "metrics": 'landmarknet_edge_refusals_total{kind="UnsupportedImage"} 2.0',
    "systemd": "READY=1",
    "status --json": "half.dcm",
    "status": "half.dcm",
    "check --json": "golden answers given",
    "audit": "intact",
    "log": "image=header.dcm",
    "journal": "colour.dcm",
    "audit log": "header.dcm",
    "state": "colour.dcm",
    "results": '"status": "refused"',
}


@pytest.mark.parametrize("where", SPOKEN_OF)
def test_nothing_of_a_planted_patient_is_told(told, where):
    assert SPOKEN_OF[where] in told[where]
    assert [secret for secret in SECRETS if secret in told[where]] == []


def test_the_patient_was_planted(told):
    assert [secret for secret in SECRETS if secret not in told["sent"]] == []


def test_every_refusal_is_among_the_figures_by_its_class_alone(told):
    for kind in set(REFUSED.values()):
        count = sum(refusal == kind for refusal in REFUSED.values())
        assert f'landmarknet_edge_refusals_total{{kind="{kind}"}} {count}.0' in told["metrics"]
    assert not [name for name in REFUSED if name in told["metrics"]]
