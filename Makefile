# Environments live in .venv. `make demo` needs only the room's packages, everything else those of the bench besides.
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(VENV)/bin/python -m pytest
RUN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults gpu room-size bundle service registration registration-images schema examples page-pictures samples images gate-images accuracy lock clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(VENV)/.room: requirements/room.txt pyproject.toml
	python3 -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/room.txt
	$(PIP) --no-deps --editable .
	touch $@

# torch first: whatever depends on it then finds it there, and does not fetch another build
$(VENV)/.bench: $(VENV)/.room requirements/dev.txt
	$(PIP) torch==2.13.0
	$(PIP) -r requirements/dev.txt
	touch $@

# What we are measured against stands beside the bench's packages, not among them: neither room nor tests ever see it.
PEERS := .venv-bench
$(PEERS)/.done: $(VENV)/.bench benchmarks/requirements.txt
	$(VENV)/bin/python -m venv $(PEERS)
	$(PEERS)/bin/python benchmarks/beside.py $(abspath $(VENV))
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

demo: $(VENV)/.room ## find the landmarks in samples/ through a drop folder, and compare with the truth
	$(RUN)/landmarknet-edge demo samples

test: $(VENV)/.bench ## all default tests
	$(PYTEST)

check: $(VENV)/.bench ## lint, format, types, import rules
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

bench: $(PEERS)/.done ## write docs/performance.md: ours against what people use; ROWS="network decode" for parts
	$(PEERS)/bin/python -m benchmarks $(ROWS) $(if $(QUICK),--quick)

faults: $(VENV)/.bench ## the daemon under fire
	$(PYTEST) -m faults

gpu: $(VENV)/.bench ## what needs an NVIDIA GPU; fails without one
	LANDMARKNET_REQUIRE_GPU=1 $(PYTEST) -m gpu

room-size: $(VENV)/.bench ## install the room from a wheel into a fresh environment and print its size
	$(PYTEST) -m install -s

bundle: $(VENV)/.room ## dist/landmarknet-edge-*.tar: all that a room without a network needs, with install.sh
	bundle/make_bundle.sh $(PYTHON)
PYTHON := $(RUN)/python # make bundle PYTHON=python3.12, where the room has another one

service: $(VENV)/.bench ## the systemd service, also under a real systemd in a container (root, systemd-container)
	$(PYTEST) tests/systemd -m "not install"

examples: $(VENV)/.room ## make docs/examples and the picture of the README with the shipped release
	$(RUN)/python docs/make_examples.py

page-pictures: $(VENV)/.bench ## make docs/images/page-*.png in Chromium, which must be installed
	$(RUN)/python docs/make_page_pictures.py

registration: $(VENV)/.room ## the registration on simulated bodies: does its interval hold, is a vertebra mistaken
	$(RUN)/python benchmarks/registration_truth.py

registration-images: images ## the registration through the shipped release, on images of a patient that it never saw
	$(RUN)/python benchmarks/registration_images.py work/images lidc0002

schema: $(VENV)/.room ## write docs/result.schema.json and docs/results-format.md
	$(RUN)/python -m edge.results.document > docs/result.schema.json
	$(RUN)/python docs/make_results_format.py

samples: $(VENV)/.bench ## simulate samples/ again from ../shared/ct
	$(RUN)/landmarknet-train simulate ../shared/ct/lidc0002.nii.gz --output work/samples --poses 1
	cp work/samples/lidc0002/* samples/

images: $(VENV)/.bench ## simulate the data set that accuracy is measured on (about 15 minutes, 1.5 GB under work/)
	$(RUN)/landmarknet-train simulate $(wildcard $(CT:%=../shared/ct/%.nii.gz)) --output work/images --empty-fields 16
CT := lidc0001 lidc0002 lidc0003 lidc0028 lidc0293 lidc0295 lidc0306 lidc0314 c3n00247 tcga_de_a4ma lungdx_a0001 \
	acrin_flt_001b panc_cb001 sts_001 sts_010 sts_020 sts_030 sts_040

gate-images: $(VENV)/.bench ## simulate 120 images of a held-out patient for the gate of build_engine/recipes/site.toml
	$(RUN)/landmarknet-train simulate ../shared/ct/lidc0295.nii.gz --output work/gate_images --poses 30 --seed 1

accuracy: images ## write docs/accuracy.md from the folds and comparators that are trained under work/study
	$(RUN)/landmarknet-train accuracy landmarknet/configs/study.toml

lock: $(VENV)/.bench ## pin anew what pyproject.toml asks for
	$(PIP) pip-tools
	$(RUN)/pip-compile -q --upgrade --generate-hashes $(LOCK) -o requirements/room.txt pyproject.toml
	$(RUN)/pip-compile -q --upgrade --no-annotate --extra dev -c requirements/room.txt $(LOCK) -o requirements/dev.txt pyproject.toml
	sed -i -e '/^landmarknet-edge @/d' -e 's/+cpu$$//' -e '/^#/d' -e '/^setuptools==/d' -e '/^torch==/d' requirements/dev.txt
LOCK := --strip-extras --allow-unsafe --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean: ## remove the environment and caches
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
