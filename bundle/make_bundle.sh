#!/bin/sh
# Make landmarknet-edge-<id>.tar in dist/: all that a room needs. The install.sh in it needs no network.
# usage: make_bundle.sh PYTHON [FOLDER]   PYTHON: 3.11 or 3.12, as in the room; the wheels are for it and this platform
set -eu
cd "$(dirname "$0")/.."
python=$1
target=${2:-dist}
pip="$python -m pip --disable-pip-version-check --quiet"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# the same sources give the same wheel, hence the same id: all its files are of 1980, the first year that zip knows;
# setuptools builds inside the source folder, and would take up what an earlier build left there
mkdir "$work/source" "$work/wheels"
cp -r edge landmarknet calibration build_engine systemd pyproject.toml README.md LICENSE NOTICE "$work/source"
SOURCE_DATE_EPOCH=315532800 $pip wheel --no-deps --wheel-dir "$work" "$work/source"
$pip download --only-binary=:all: --require-hashes -r requirements/room.txt --dest "$work/wheels"
$pip download --only-binary=:all: --dest "$work/wheels" pip # a Debian without python3-venv has none

own=$(basename "$work"/landmarknet_edge-*.whl)
version=$(echo "$own" | cut -d- -f2)
id=$version-$(sha256sum "$work/$own" | cut -c1-12)
bundle=$work/landmarknet-edge-$id
mkdir "$bundle"
mv "$work/wheels" "$work/$own" "$bundle"
cp requirements/room.txt bundle/install.sh LICENSE NOTICE "$bundle"
mkdir "$bundle/docs" # the runbook, and what its links lead to
(cd docs && cp -r runbook.md results.md results-format.md references.md geometry.md engines.md calibration.md page.md \
    result.schema.json examples adr "$bundle/docs")
mkdir "$bundle/docs/images"
cp docs/images/geometry.png docs/images/page-*.png "$bundle/docs/images"
cp samples/lidc0002_lateral_drr_00.dcm "$bundle/sample.dcm"
echo "$id" >"$bundle/VERSION"
$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])' >"$bundle/PYTHON"
(cd "$bundle" && find . -type f ! -name SHA256SUMS -exec sha256sum {} + >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)

mkdir -p "$target"
archive=$target/landmarknet-edge-$id.tar
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX -cf "$archive" "landmarknet-edge-$id"
echo "$archive"
