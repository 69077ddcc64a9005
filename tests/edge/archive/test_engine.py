"""What is asked of an engine before it is used; a `dict` stands in for what Dask says of versions."""

from types import SimpleNamespace

import pytest
from distributed import Security

from edge.archive.engine import demand_address, demand_same_versions
from edge.archive.order import Unfit


@pytest.mark.parametrize("address", ["here", "tcp://here", "nonsense://here:8786", ""])
def test_what_is_no_address_is_told(address):
    with pytest.raises(Unfit, match="is no address; give one such as tls://HOST:8786"):
        demand_address(address, Security())


def test_an_address_with_tls_needs_keys():
    demand_address("tls://here:8786", Security.temporary())
    demand_address("tcp://here:8786", Security())
    with pytest.raises(Unfit, match="needs keys"):
        demand_address("tls://here:8786", Security())


def test_keys_that_cannot_be_read_are_told(tmp_path):
    missing = str(tmp_path / "none.pem")
    security = Security(tls_ca_file=missing, tls_client_cert=missing, tls_client_key=missing)
    with pytest.raises(Unfit, match="keys of Dask's TLS settings cannot be used"):
        demand_address("tls://here:8786", security)


def test_a_configuration_that_requires_encryption_is_kept():
    with pytest.raises(Unfit, match="requires encryption"):
        demand_address("tcp://here:8786", Security.temporary())


def client(**others):
    def versions(python="3.11.7.final.0", distributed="2026.8.0"):
        return {"packages": {"python": python, "distributed": distributed}}

    found = {"client": versions(), "scheduler": versions(**others.get("scheduler", {}))}
    found["workers"] = {"tcp://a:1": versions(), "tcp://b:1": versions(**others.get("worker", {}))}
    return SimpleNamespace(get_versions=lambda: found)


def test_one_version_everywhere_is_taken_and_python_s_last_number_does_not_count():
    demand_same_versions(client(worker={"python": "3.11.2.final.0"}))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"scheduler": {"distributed": "2025.1.0"}}, "the scheduler has Python 3.11 with distributed 2025.1.0"),
        ({"worker": {"distributed": "2025.1.0"}}, "the worker tcp://b:1 has Python 3.11 with distributed 2025.1.0"),
        ({"worker": {"python": "3.12.1.final.0"}}, "the worker tcp://b:1 has Python 3.12 with distributed 2026.8.0"),
    ],
)
def test_another_version_is_told_with_its_place(others, said):
    with pytest.raises(Unfit, match=said):
        demand_same_versions(client(**others))
