#!/bin/sh
# Makes .venv, or repairs it: the pinned packages of constraints.txt and this checkout, in place.
# `make` calls it before everything else; where .venv already fits, it says nothing and installs nothing.
# PYTHON=... names the interpreter. uv does the work where it can be had, pip where it cannot.
# With the argument `mm` it adds mmdetection and mmsegmentation, for which mmcv's operators are compiled: once, since
# the wheel is kept in a cache folder, under the version of torch that it is for.
set -eu
cd "$(dirname "$0")/.."

extras=search,dask,export,retrieval,dev
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
ready() { [ "$(cat "$1" 2>/dev/null)" = "$place
$contents" ]; }
if [ $fits = yes ] && ready "$stamp" && { [ "${1:-}" != mm ] || ready "$stamp-mm"; }; then exit 0; fi

if [ $fits = no ]; then
    chosen=$(find_python)
    say "Making $venv with $("$chosen" --version) ($chosen)"
    "$chosen" -m venv --clear "$venv"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never UV_BUILD_CONSTRAINT=constraints.txt
install_packages() {
    if ! (
        follow_pip index-url UV_DEFAULT_INDEX
        follow_pip extra-index-url UV_INDEX
        follow_pip cert SSL_CERT_FILE
        # As pip does:
        if [ -n "${UV_INDEX:-}" ]; then export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"; fi
        "$python" -m uv pip install --python "$python" --constraint constraints.txt "$@"
    ); then
        say 'Without uv: pip installs the same, in more time'
        PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt "$python" -m pip install "$@"
    fi
}

if ! ready "$stamp"; then
    rm -f "$stamp" "$stamp-mm"
    if ! "$python" -m uv --version >/dev/null 2>&1; then
        say 'Installing uv, which installs the rest'
        "$python" -m pip install --quiet --constraint constraints.txt uv || say 'uv cannot be had here'
    fi
    say "Installing the pinned packages, PyTorch among them (5 GB on disk; minutes the first time, then from a cache)"
    install_packages --editable ".[$extras]"

    # tests/timm_suite runs timm's own tests on our networks: they are in its source distribution only.
    tests=$venv/timm-tests
    timm=$("$python" -c 'from importlib.metadata import version; print(version("timm"))')
    fetched=yes
    if [ ! -f "$tests/timm-$timm.tar.gz" ]; then
        say "Fetching the tests of timm $timm"
        rm -rf "$tests"
        if ! "$python" -m pip download --quiet --no-deps --no-binary timm --dest "$tests" "timm==$timm"; then
            say "They cannot be had here: tests/timm_suite will fail, the next 'make' tries again"
            fetched=no
        fi
    fi
    if [ $fetched = yes ]; then printf '%s\n%s\n' "$place" "$contents" >"$stamp"; fi
    say "$venv is ready"
fi
if [ "${1:-}" != mm ]; then exit 0; fi

# pip's isolated build has no torch and leaves the operators out without a word, and its cache would hand out a wheel
# that was compiled for another torch: hence no isolation, no cache, and a folder for each torch and Python.
mmcv=$(grep '^onedl-mmcv==' constraints.txt)
key=$("$python" -c 'import sys, torch; print(f"torch-{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}")')
kept=${XDG_CACHE_HOME:-${HOME:-$place/$venv}/.cache}/searchzoo/mmcv/$key
find_wheel() { find "$1" -name "onedl_mmcv-${mmcv#*==}-*.whl" 2>/dev/null | head -n 1; }
if [ -z "$(find_wheel "$kept")" ]; then
    say "Compiling the operators of mmcv for torch, once: 4 minutes on two free cores; the wheel is kept in $kept"
    mkdir -p "$kept"
    building=$(mktemp -d "$kept/building.XXXXXX")
    log=$building.log
    # -O1 -g0: compiled in half the time, fast enough for tests. PATH: ninja.
    if ! (
        export CFLAGS="${CFLAGS:--O1 -g0}" MAX_JOBS="${MAX_JOBS:-4}" PATH="$place/$venv/bin:$PATH"
        "$python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$building" "$mmcv" >"$log" 2>&1
    ); then
        tail -n 20 "$log" >&2
        echo "error: the operators of mmcv could not be compiled (a C++ compiler is needed); all of it is in $log" >&2
        exit 1
    fi
    mv "$(find_wheel "$building")" "$kept"
    rm -rf "$building" "$log"
fi
install_packages "$(find_wheel "$kept")" --editable ".[mm]"
"$python" -c 'import torch, mmcv.ops as ops; b = torch.tensor([[0.0, 0, 2, 2]]); assert len(ops.nms(b.repeat(2, 1), b[0, :2], 0.5)[1]) == 1'
printf '%s\n%s\n' "$place" "$contents" >"$stamp-mm"
say 'mmdetection and mmsegmentation are ready'
