#!/bin/sh
# Install LandmarkNet Edge from this bundle. No network is used.
#
#   ./install.sh                        into /opt/landmarknet-edge, as root, with the systemd service
#   ./install.sh --prefix DIR           elsewhere, without the service, as anyone
#   ./install.sh --back                 make the version in use before the current one again, as root
#
# Versions lie side by side in versions/; `current` leads to the one in use, `previous` to the one before. A version
# is used only after it has found landmarks in the sample image.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/landmarknet-edge
service=yes
back=no

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --prefix)
        [ $# -ge 2 ] || fail "--prefix needs a folder"
        mkdir -p "$2"
        prefix=$(cd "$2" && pwd)
        service=no
        shift 2
        ;;
    --back)
        back=yes
        shift
        ;;
    *) fail "unknown option $1; see the head of this file" ;;
    esac
done

# Switch a link in one step: whoever starts meanwhile gets the old version or the new one.
lead() {
    ln -s "$1" "$prefix/.$2.new"
    mv -T "$prefix/.$2.new" "$prefix/$2"
}

use() {
    if [ "$service" = yes ]; then # only planned: a version that refuses the configuration must not be switched to
        "$prefix/$1/bin/landmarknet-edge" install-service --program "$prefix/$1/bin/landmarknet-edge" >/dev/null ||
            fail "$1 cannot serve here; nothing was changed"
    fi
    rm -f "$prefix/.current.new" "$prefix/.previous.new"
    old=$(readlink "$prefix/current" || true)
    lead "$1" current
    if [ -n "$old" ] && [ "$old" != "$1" ]; then lead "$old" previous; fi
    if [ "$service" = yes ]; then
        "$prefix/current/bin/landmarknet-edge" install-service --program "$prefix/current/bin/landmarknet-edge" --apply
        ln -sfn "$prefix/current/bin/landmarknet-edge" /usr/local/bin/landmarknet-edge
        systemctl try-restart landmarknet-edge.service 'landmarknet-edge@*.service'
    fi
    echo "in use: $prefix/$1"
}

if [ "$service" = yes ]; then
    [ "$(id -u)" = 0 ] || fail "run it as root, or with --prefix DIR"
    umask 022 # the service's user must be able to read what root installs
fi

if [ "$back" = yes ]; then
    old=$(readlink "$prefix/previous") || fail "$prefix/previous: there is no version to go back to"
    [ -x "$prefix/$old/bin/landmarknet-edge" ] || fail "$prefix/$old: is not there any more"
    use "$old"
    exit
fi

cd "$here"
sha256sum --check --quiet SHA256SUMS || fail "a file is damaged or missing: copy the bundle again"
python=$(cat PYTHON)
command -v "$python" >/dev/null || fail "needs $python, which is not installed: install it, or take a bundle for yours"
id=$(cat VERSION)
version=$prefix/versions/$id

if [ ! -e "$version/.complete" ]; then
    echo "installing $id into $version: this takes a minute"
    rm -rf "$version" # of an installation that was cut short
    mkdir -p "$prefix/versions"
    "$python" -m venv --without-pip "$version"
    set -- wheels/pip-*.whl
    pip="$version/bin/python $1/pip --disable-pip-version-check --quiet install --no-index --no-compile"
    $pip --find-links wheels --require-hashes -r room.txt
    $pip --no-deps landmarknet_edge-*.whl
    # to start faster; files of other packages that are no Python of this version are no reason to give up
    "$version/bin/python" -m compileall -q "$version/lib" || true
    trial=$(mktemp -d)
    trap 'rm -rf "$trial"' EXIT
    cp sample.dcm "$trial"
    echo "trying it on a sample image"
    "$version/bin/landmarknet-edge" process "$trial" ||
        fail "$id finds no landmarks on this machine; nothing was changed"
    : >"$version/.complete"
fi
use "versions/$id"
