#!/bin/sh
# Makes .venv, or repairs it: the pinned packages of constraints.txt and this checkout, in place.
# `make` calls it before everything else; where .venv already fits, it says nothing and installs nothing.
# PYTHON=... names the interpreter. uv does the work where it can be had, pip where it cannot.
set -eu
cd "$(dirname "$0")/.."

extras=search,dask,export,seg,dev
venv=.venv
python=$venv/bin/python
stamp=$venv/.searchzoo
supported='import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
version='import sys; print("%d.%d" % sys.version_info[:2])'

say() { printf '==> %s\n' "$*"; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python3.10 python; fi
    for candidate; do
        if "$candidate" -c "$supported" >/dev/null 2>&1; then echo "$candidate"; return; fi
    done
    echo "error: Python 3.10 to 3.13 with venv (Debian, Ubuntu: package python3-venv) is needed; tried $*," \
        "and $1 says '$("$1" --version 2>&1 | head -n 1)'. Name one: make PYTHON=/path/to/python3.12" >&2
    return 1
}

# uv does not read pip's configuration: whoever has configured an index or a certificate for pip means uv as well.
follow_pip() { # pip's option, uv's variable
    eval "value=\${$2:-}"
    for level in :env: install global; do
        if [ -n "$value" ]; then break; fi
        value=$("$python" -m pip config get "$level.$1" 2>/dev/null) || :
    done
    if [ -n "$value" ]; then export "$2=$(echo $value)"; fi  # unquoted: lines become words
}

# What the environment must be: its place, which scripts inside it repeat, and its contents.
place=$(pwd -P)
contents="$extras $(cat pyproject.toml constraints.txt scripts/install.sh | cksum)"

fits=yes
if ! "$python" -c "import pip; $supported" >/dev/null 2>&1; then fits=no; fi
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$place" ]; then fits=no; fi
if [ $fits = yes ] && [ -n "${PYTHON:-}" ]; then
    chosen=$(find_python)
    if [ "$("$chosen" -c "$version")" != "$("$python" -c "$version")" ]; then fits=no; fi
fi
if [ $fits = yes ] && [ "$(cat "$stamp" 2>/dev/null)" = "$place
$contents" ]; then exit 0; fi

if [ $fits = no ]; then
    chosen=$(find_python)
    say "Making $venv with $("$chosen" --version) ($chosen)"
    "$chosen" -m venv --clear "$venv"
fi
rm -f "$stamp"

export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never UV_BUILD_CONSTRAINT=constraints.txt
if ! "$python" -m uv --version >/dev/null 2>&1; then
    say 'Installing uv, which installs the rest'
    "$python" -m pip install --quiet --constraint constraints.txt uv || say 'uv cannot be had here'
fi
say "Installing the pinned packages, PyTorch among them (5 GB on disk; minutes the first time, then from a cache)"
if ! (
    follow_pip index-url UV_DEFAULT_INDEX
    follow_pip extra-index-url UV_INDEX
    follow_pip cert SSL_CERT_FILE
    if [ -n "${UV_INDEX:-}" ]; then export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"; fi  # as pip does
    "$python" -m uv pip install --python "$python" --constraint constraints.txt --editable ".[$extras]"
); then
    say 'Without uv: pip installs the same, in more time'
    export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
    "$python" -m pip install --editable ".[$extras]"
fi

# tests/timm_suite runs timm's own tests on our networks: they are in its source distribution only.
tests=$venv/timm-tests
timm=$("$python" -c 'from importlib.metadata import version; print(version("timm"))')
if [ ! -f "$tests/timm-$timm.tar.gz" ]; then
    say "Fetching the tests of timm $timm"
    rm -rf "$tests"
    if ! "$python" -m pip download --quiet --no-deps --no-binary timm --dest "$tests" "timm==$timm"; then
        say "They cannot be had here: tests/timm_suite will fail, the next 'make' tries again"
        exit 0
    fi
fi
printf '%s\n%s\n' "$place" "$contents" >"$stamp"
say "$venv is ready"
