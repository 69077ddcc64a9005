import ipaddress

import pytest

from edge.config import PageConfig, read_config
from edge.errors import BadConfig
from edge.service.page_doors import doors_of, read_token

TOKEN = "0123456789abcdef0123456789abcdef"
FILES = 'certificate = "/etc/x.crt"\nkey = "/etc/x.key"\ntoken_file = "/etc/x.token"\n'


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def configured(tmp_path):
    """Return a function: the [page] of a configuration file."""

    def read(text):
        file = tmp_path / "room.toml"
        file.write_text(f"[page]\n{text}")
        return read_config(file).page

    return read


def test_the_page_is_off_and_for_this_machine_alone_unless_asked_for(configured):
    assert configured("") == PageConfig()
    assert (PageConfig().enabled, PageConfig().loopback, PageConfig().dicom_links) == (False, True, False)


@pytest.mark.parametrize("bind", ["10.1.2.3", "0.0.0.0", "::", "192.168.0.7", "fe80::1"])
def test_another_bind_than_loopback_demands_certificate_key_and_token(configured, bind):
    with pytest.raises(BadConfig, match="needs certificate, key, token_file, too") as caught:
        configured(f'bind = "{bind}"\nnames = ["x"]\n')
    assert '"127.0.0.1"' in str(caught.value)
    assert configured(f'bind = "{bind}"\nnames = ["x"]\n{FILES}').bind == bind


@pytest.mark.parametrize("left_out", ["certificate", "key", "token_file"])
def test_what_is_missing_is_named(configured, left_out):
    rest = "".join(line for line in FILES.splitlines(keepends=True) if not line.startswith(left_out))
    with pytest.raises(BadConfig, match=f"so the page needs {left_out}, too"):
        configured(f'bind = "10.1.2.3"\n{rest}')


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "127.8.8.8"])
def test_loopback_needs_nothing(configured, bind):
    assert ipaddress.ip_address(configured(f'bind = "{bind}"\n').bind).is_loopback


def test_every_address_needs_the_names_that_browsers_ask_for(configured):
    with pytest.raises(BadConfig, match="names = "):
        configured(f'bind = "0.0.0.0"\n{FILES}')


@pytest.mark.parametrize("bind", ["localhost", "", "127.0.0.1:80", "127.1"])
def test_a_bind_that_is_no_address_is_refused_with_an_example(configured, bind):
    with pytest.raises(BadConfig, match=r"write one such as 127\.0\.0\.1"):
        configured(f'bind = "{bind}"\n')


def test_a_certificate_without_its_key_is_refused(configured):
    with pytest.raises(BadConfig, match="belong together"):
        configured('certificate = "/etc/x.crt"\n')


def test_an_unknown_key_of_the_page_is_told_with_the_nearest(configured):
    with pytest.raises(BadConfig, match="did you mean enabled"):
        configured("enable = true\n")


def test_a_token_file_is_read_without_its_line_break(token_file):
    assert read_token(token_file) == TOKEN


def test_a_token_that_others_may_read_is_refused(token_file):
    token_file.chmod(0o644)
    with pytest.raises(BadConfig, match="chmod 600"):
        read_token(token_file)


@pytest.mark.parametrize("text", ["short", "", "two words that are long enough", "ä" * 30, "x" * 23])
def test_a_token_that_could_be_guessed_or_typed_wrongly_is_refused(token_file, text):
    token_file.write_text(text)
    with pytest.raises(BadConfig, match="make one"):
        read_token(token_file)


def test_a_token_file_that_is_gone_is_told(tmp_path):
    with pytest.raises(BadConfig, match="No such file"):
        read_token(tmp_path / "none")


def test_the_cookie_shows_the_token_without_telling_it(token_file):
    doors = doors_of(PageConfig(token_file=token_file))
    assert doors.knows(TOKEN)
    assert doors.let_in(doors.cookie)
    assert TOKEN not in doors.cookie
    assert not doors.knows(doors.cookie)
    assert not doors.let_in(TOKEN)


def test_names_are_known_whatever_their_case():
    doors = doors_of(PageConfig(names=("Linac2.Clinic.example",)))
    assert {"linac2.clinic.example", "localhost", "127.0.0.1", "[::1]"} <= doors.hosts


def test_a_name_may_have_its_final_dot():
    """A request's name is compared without one."""
    assert "linac2.example" in doors_of(PageConfig(names=("linac2.example.",))).hosts


def test_an_address_is_known_as_browsers_write_it():
    bind = {"bind": "FD00:0:0:0::0001", "certificate": "/c", "key": "/k", "token_file": None}
    assert "[fd00::1]" in doors_of(PageConfig.model_construct(names=(), **bind)).hosts
