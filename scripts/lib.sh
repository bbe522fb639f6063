# Shared by scripts/test, scripts/demo and .ci/run: what the machine needs, the venv, the build, the namespace.
# Sourced, never run. Everything that is made lies below $cache; nothing else on the machine is touched, except that
# root's apt-get installs missing packages.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONSAFEPATH=1
unset PYTHONPATH PYTHONHOME MAKEFLAGS

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- commands that a signal to this script reaches at once -----------------------------------------------------------

child=
run() {         # own process group, so that the children of our child go with it, and nobody else
    local status=0
    set -m; "$@" </dev/null & child=$!; set +m
    wait "$child" || status=$?
    child=
    return "$status"
}
interrupted() {
    trap - INT TERM HUP
    if [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; fi
    exit "$1"
}
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

# --- what the machine must have --------------------------------------------------------------------------------------

python=${PYTHON:-python3}

missing_to_build() {    # prints the Debian packages that are missing
    if ! command -v "$python" >/dev/null; then echo python3 python3-venv python3-dev
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || echo python3-dev
    fi
    [ -n "${CC:-}" ] || command -v cc >/dev/null || command -v gcc >/dev/null || echo gcc libc6-dev
}

missing_for_tests() {   # programs that tests run as peers; a test without its program is skipped and says so
    local pair
    for pair in ping:iputils-ping curl:curl ncat:ncat strace:strace git:git tshark:tshark; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
}

apt_install() {
    say "installing: $*"
    export DEBIAN_FRONTEND=noninteractive
    run apt-get -qq update >&2 && run apt-get -qq install -y --no-install-recommends "$@" >&2
}

provide() {     # provide must|may PACKAGE...: install what is missing, or say what to install
    local how=$1; shift
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt_install "$@"; then return 0; fi
    if [ "$how" = must ]; then die "missing: $*. Install it with:  sudo apt-get install $*"; fi
    say "some tests will be skipped; to run them:  sudo apt-get install $*"
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Python 3.11 or newer is needed, $("$python" -V 2>&1) was found: install one and set PYTHON=/path/to/it"
}

# --- venv and build --------------------------------------------------------------------------------------------------

cache=$root/.cache
if ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then cache=${XDG_CACHE_HOME:-$HOME/.cache}/ustack; fi

hash_of() { sha256sum | cut -c1-16; }

source_hash() {
    (cd "$root" && find pyproject.toml meson.build README.md LICENSE tools/package_files.py ext ustack -type f \
        ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | hash_of
}

prepare() {     # prepare GROUP...: leaves $venv with the dependency groups and the project installed in it
    provide must $(missing_to_build)
    [ -z "$(missing_to_build)" ] || die "still missing after the installation: $(missing_to_build | tr '\n' ' ')"
    check_python
    PYTHON=$(command -v "$python"); python=$PYTHON
    export PYTHON       # a script that this one starts, with the venv on its PATH, takes the same interpreter
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || { say "waiting for another run of these scripts"; flock 9; }
    local identity; identity=$({ "$python" -VV; "$python" -c 'import sys; print(sys.prefix)'; id -u; uname -m
        cat "$root/pyproject.toml"; } | hash_of)
    venv=$cache/venv-$identity
    build=$cache/build-$identity
    install_groups "$@"
    install_project
    exec 9>&-
}

install_groups() {
    local group stamp missing=()
    if [ ! -e "$venv/.made" ]; then
        say "making a virtual environment in $venv"
        rm -rf "$venv"
        run "$python" -m venv "$venv" >&2 || die "python3 -m venv failed: see above"
        touch "$venv/.made"
    fi
    for group in "$@"; do [ -e "$venv/.group-$group" ] || missing+=("$group"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing the dependency groups: ${missing[*]}"
    "$python" "$root/tools/requirements.py" "${missing[@]}" >"$venv/requirements.txt"
    run "$venv/bin/python" -m pip install -qq -r "$venv/requirements.txt" >&2 ||
        die "pip could not install ${missing[*]}: see above; the package index must be reachable the first time"
    for group in "${missing[@]}"; do touch "$venv/.group-$group"; done
}

install_project() {
    local now; now=$(source_hash)
    [ "$(cat "$venv/.installed" 2>/dev/null)" != "$now" ] || return 0
    say "building ustack (about a minute the first time)"
    rm -f "$venv/.installed"
    PATH=$venv/bin:$PATH run "$venv/bin/python" -m pip install -q --no-build-isolation --no-deps --no-index \
        --config-settings=build-dir="$build" "$root" >&2 || die "the build failed: see above"
    echo "$now" >"$venv/.installed"
}

# --- a network of our own --------------------------------------------------------------------------------------------

raw_socket='import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()'

in_namespace=(env)
namespace() {   # sets in_namespace: what puts a program into a network namespace of its own, where that is possible
    local try=("unshare --net" "unshare --user --map-root-user --net") how
    [ "$(id -u)" = 0 ] || try=("${try[1]}")
    for how in "${try[@]}"; do
        if $how "$venv/bin/python" -c "$raw_socket" 2>/dev/null; then in_namespace=($how "$root/scripts/with-lo"); return; fi
    done
    say "no network namespace can be made here, so most interop runs are left out; run as root, or allow user" \
        "namespaces:  sudo sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1" \
        "kernel.apparmor_restrict_unprivileged_userns=0  (those that this kernel knows)"
}
