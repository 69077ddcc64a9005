"""What the GPU is, and what is said where there is none."""

import sys

import pytest

from edge.backends.cuda import DeviceFacts, device_facts
from edge.errors import BackendFailed
from tests.edge.backends.stand_ins import FakeDriver


def test_a_missing_pycuda_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendFailed, match=r"pycuda is not installed .* install the extra 'gpu'"):
        device_facts()


def test_pycuda_without_a_driver_says_that_the_driver_is_missing(monkeypatch, tmp_path):
    package = tmp_path / "pycuda"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendFailed, match=r"finds no NVIDIA driver .libcuda.so.1.* install the driver"):
        device_facts()
    sys.modules.pop("pycuda", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:54 UTC 2025\n", "580.65.06, "),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (x)\n", "570.124.06, "),
        ("something else", ""),
        (None, ""),
    ],
)
def test_the_gpu_says_what_it_is(driver, tmp_path, text, said):
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert device_facts(driver, path) == DeviceFacts("Quadro Test", "8.9", f"{said}CUDA 13.0")


def test_the_driver_s_cuda_version_is_read_with_its_second_figure(gpu, tmp_path):
    # cuDriverGetVersion: 1000 * major + 10 * minor
    assert device_facts(FakeDriver(gpu, version=12080), tmp_path / "none").driver == "CUDA 12.8"


def test_a_driver_that_does_not_start_is_told(driver, gpu):
    gpu.failing.add("init")
    with pytest.raises(BackendFailed, match=r"does not start .init failed.*nvidia-smi"):
        device_facts(driver)


def test_a_driver_without_a_gpu_is_told(gpu):
    with pytest.raises(BackendFailed, match=r"shows no GPU.*CUDA_VISIBLE_DEVICES"):
        device_facts(FakeDriver(gpu, devices=0))
