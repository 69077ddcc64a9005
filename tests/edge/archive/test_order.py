import os

import pytest

from edge.archive.entries import Entry
from edge.archive.order import Order, Unfit, demand_in_sight, demand_promised, marked, promise_of, sample_of
from edge.config import Config
from edge.errors import BadRelease, ResultsNotWritable
from edge.pipeline import Pipeline
from edge.processes.worker import Description
from tests.edge.published import names_in

RUN = "landmarknet-edge-0123"


@pytest.fixture
def config(quick_release):
    return Config(release=quick_release)


@pytest.fixture
def order(tmp_path, config):
    (tmp_path / "X.dcm").write_bytes(b"pixels")
    with marked(tmp_path, RUN, make=False) as mark:
        yield Order(RUN, config, promise_of(config), mark, sample_of([Entry(tmp_path / "X.dcm", None)]), embedded=False)


def test_a_worker_that_sees_the_mark_and_the_sample_is_in_sight(order):
    demand_in_sight(order)


def test_the_mark_is_hidden_and_ours_and_goes_with_the_run(tmp_path):
    with marked(tmp_path / "a/b", RUN, make=True) as mark:
        assert mark.name.startswith(".landmarks-")
    assert names_in(tmp_path / "a/b") == []


def test_a_folder_that_cannot_be_written_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(ResultsNotWritable), marked(tmp_path / "none", RUN, make=False):
        pass


def test_an_error_of_the_run_is_not_taken_for_one_of_the_folder(tmp_path):
    with pytest.raises(ConnectionError), marked(tmp_path, RUN, make=False):
        raise ConnectionError


@pytest.mark.parametrize("data", [None, b"landmarknet-edge-4567"])
def test_a_worker_that_sees_another_folder_of_that_path_is_unfit(order, data):
    order.mark.unlink() if data is None else order.mark.write_bytes(data)
    with pytest.raises(Unfit, match=r"does not see the folder .* mount the same share"):
        demand_in_sight(order)
    order.mark.touch()


def test_a_worker_that_sees_another_image_is_unfit(order):
    os.utime(order.sample.image, ns=(0, order.sample.mtime_ns - 1))
    with pytest.raises(Unfit, match=r"sees another .*X\.dcm"):
        demand_in_sight(order)


def test_a_worker_without_the_image_is_unfit(order):
    order.sample.image.unlink()
    with pytest.raises(Unfit, match=r"cannot read .*X\.dcm"):
        demand_in_sight(order)


def test_a_worker_with_the_promised_release_is_taken_and_one_with_another_is_unfit(order, engine):
    def described(**changes):
        opened = engine([], [], **changes)
        provenance = Pipeline(opened, "0" * 64).provenance()
        return Description(opened.contract.release, (), provenance.model_copy(update=hashes), opened.contract)

    hashes = {"contract_sha256": order.promise.contract_sha256, "manifest_sha256": None}
    demand_promised(described(), order.promise)
    for other in ({"contract_sha256": "d" * 64}, {"manifest_sha256": "d" * 64}):
        hashes = {"contract_sha256": order.promise.contract_sha256, "manifest_sha256": None} | other
        with pytest.raises(Unfit, match=r"opened the release small-9, .* install the same release there"):
            demand_promised(described(release="small-9"), order.promise)


def test_the_sample_is_an_image_that_can_be_looked_at(tmp_path):
    (tmp_path / "X.dcm").write_bytes(b"pixels")
    (tmp_path / "A.dcm").symlink_to(tmp_path / "X.dcm")
    link, image = (Entry(tmp_path / name, None) for name in ("A.dcm", "X.dcm"))
    assert sample_of([link, image]).image == image.image
    assert sample_of([link]) is None


def test_the_promise_is_what_the_configuration_names(config, quick_release, tmp_path):
    assert promise_of(config).release == "small-1"
    assert promise_of(Config()).contract_sha256 != promise_of(config).contract_sha256
    with pytest.raises(BadRelease):
        promise_of(Config(release=tmp_path))
