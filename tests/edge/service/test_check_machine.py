import errno
import os
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from edge.config import PageConfig
from edge.log import open_log
from edge.service.machine import clock_synchronised, run_program
from edge.service.metrics import serve_metrics
from tests.edge.checkup_room import levels, room_in_order


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


def test_a_program_that_is_missing_or_fails_gives_no_answer():
    assert run_program(["landmarknet-edge-no-such-program"]) is None
    assert run_program(["false"]) is None
    assert run_program(["echo", "hello"]) == "hello\n"


# --- clock ---


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (False, "warning"), (None, "warning")])
def test_a_clock_that_nobody_keeps_right_is_a_warning(room, answer, level):
    assert levels(room.findings("clock", clock=lambda: answer)) == [level]


def test_the_kernel_is_asked_without_changing_anything():
    assert clock_synchronised() in {True, False, None}


# --- metrics ---


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_metrics_their_port_is_not_asked_for(room):
    assert room.findings("metrics") == []


def test_a_free_port_can_serve_metrics(room, port):
    assert levels(room.findings("metrics", room.changed(metrics_port=port))) == ["ok"]


def test_a_port_that_our_daemon_serves_is_in_order(room, port):
    with serve_metrics(port, open_log()):
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, "daemon serves" in finding.what) == ("ok", True)


def test_a_port_that_another_program_has_is_a_fault(room, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))  # it does not listen: whoever asks is refused
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, finding.mend) == ("fault", "set another metrics_port")
    assert os.strerror(errno.EADDRINUSE) in finding.what


# --- the page


def page_of(port, **changes):
    return PageConfig(enabled=True, port=port, **changes)


def test_a_page_that_nobody_wants_is_not_asked_for(room):
    assert room.findings("page") == []


def test_a_free_port_can_serve_the_page(room, port):
    (finding,) = room.findings("page", room.changed(page=page_of(port)))
    assert (finding.level, finding.what) == ("ok", f"page http://127.0.0.1:{port}/: can be served")


def test_a_port_that_another_program_has_keeps_the_page_away(room, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        (finding,) = room.findings("page", room.changed(page=page_of(port)))
    assert (finding.level, finding.mend) == ("fault", "set another page.port")


@pytest.mark.parametrize(("said", "level"), [("landmarknet-edge", "ok"), ("another", "fault")])
def test_a_port_that_our_page_has_is_in_order(room, said, level):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)  # where a token is asked for
            self.send_header("X-Page", said)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        answering = Thread(target=server.serve_forever)
        answering.start()
        try:
            (finding,) = room.findings("page", room.changed(page=page_of(server.server_port)))
        finally:
            server.shutdown()
            answering.join()
    assert finding.level == level


def test_a_token_that_is_none_is_a_fault_with_what_makes_one(room, port, tmp_path):
    (finding,) = room.findings("page", room.changed(page=page_of(port, token_file=tmp_path / "none")))
    assert finding.level == "fault"
    assert "openssl rand -hex 24" in finding.mend


def test_a_certificate_that_cannot_be_used_is_a_fault(room, port, tmp_path):
    files = {"certificate": tmp_path / "crt", "key": tmp_path / "key"}
    for file in files.values():
        file.write_text("no PEM")
    (finding,) = room.findings("page", room.changed(page=page_of(port, **files)))
    assert finding.level == "fault"
    assert "both PEM" in finding.mend


def test_links_to_what_names_patients_are_warned_of(room, port):
    findings = room.findings("page", room.changed(page=page_of(port, dicom_links=True)))
    assert levels(findings) == ["ok", "warning"]
