# Sourced by run and test: makes .venv with the locked dependencies of requirements/NAME.txt and the project itself.
# Needs bash and a Python of 3.11 or newer; everything else it gets.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=$PWD/.venv
CACHE=$PWD/.cache
mkdir -p "$CACHE"

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing $* with apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } \
        >"$CACHE/apt.log" 2>&1 || { tail -n 5 "$CACHE/apt.log" >&2; return 1; }
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# PYTHON names an interpreter of another version than .venv was made with.
is_other_python() {
    [ -n "${PYTHON:-}" ] && new_enough "$PYTHON" && [ "$(version_of "$PYTHON")" != "$(version_of "$VENV/bin/python")" ]
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "eventproc needs Python 3.11 or newer; none of python3.11 to python3.14 and python3 is. Install one, or name it: PYTHON=/path/to/python scripts/run"
}

make_venv() {
    local python=$1 version
    version=$(version_of "$python")
    "$python" -m venv "$VENV" >"$CACHE/venv.log" 2>&1 && return
    # Debian's python3 comes without ensurepip; the package that has it is named after the version.
    if as_root && { apt_install "python$version-venv" || apt_install python3-venv; } \
        && rm -rf "$VENV" && "$python" -m venv "$VENV" >"$CACHE/venv.log" 2>&1; then
        return
    fi
    rm -rf "$VENV"
    say "this Python can not make virtual environments; getting virtualenv from PyPI"
    "$python" scripts/get_virtualenv.py "$CACHE/virtualenv" "$VENV" \
        || die "no virtual environment could be made. With root rights 'apt-get install python3-venv' helps; the reason was: $(tail -n 3 "$CACHE/venv.log")"
}

setup() {
    local lock=requirements/$1.txt stamp="$VENV/.stamp-$1" want python
    want=$(cat "$lock" setup.cfg | sha256sum)
    if is_other_python; then
        rm -rf "$VENV"
    fi
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$VENV"
        python=$(find_python)
        say "making .venv with $python"
        make_venv "$python"
    fi
    say "installing the locked dependencies of $lock (a minute the first time)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" \
        || die "pip could not install $lock; see above. Is PyPI (or PIP_INDEX_URL) reachable?"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable . \
        || die "pip could not install eventproc itself; see above"
    printf '%s' "$want" >"$stamp"
}

# Real fault records for the demo and the tests: they come with the source distribution of the comtrade package.
fetch_samples() {
    local samples="$CACHE/comtrade-samples" download="$CACHE/comtrade-sdist"
    [ -d "$samples" ] && return
    rm -rf "$download" && mkdir -p "$download"
    if "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
        --dest "$download" comtrade==0.2.0 >"$CACHE/samples.log" 2>&1 \
        && tar -xzf "$download"/comtrade-*.tar.gz -C "$download"; then
        mv "$download"/comtrade-*/tests/sample_files "$samples"
    else
        say "the sample records could not be fetched (see .cache/samples.log); a generated record is used"
    fi
    rm -rf "$download"
}

# A real series for the demo: river's WaterFlow, which comes with its wheel. River itself is not installed.
fetch_series() {
    local series="$CACHE/water-flow.csv" download="$CACHE/river-wheel"
    [ -f "$series" ] && return
    rm -rf "$download" && mkdir -p "$download"
    if "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$download" river==0.26.1 >"$CACHE/series.log" 2>&1 \
        && "$VENV/bin/python" -m zipfile -e "$download"/river-*.whl "$download/river"; then
        mv "$download/river/river/datasets/water-flow.csv" "$series"
    else
        say "the water series could not be fetched (see .cache/series.log); a generated one is used"
    fi
    rm -rf "$download"
}
