#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine able to build this project: what is there already is left alone, what is missing comes from
# apt-get. Two C libraries are built on the way: zlib-ng (needs cmake) and jemalloc (needs a C compiler and make).
# `setup.sh --quiet` says nothing when there is nothing to do; `--tests` installs what only the tests need, too: pebble, an
# ACME server to order certificates from, and etcd, a store to read routes from; `--bench` installs what `make bench` counts with,
# valgrind and strace; `--compare` installs what `make compare` needs: two of the proxies, and the load generators.
set -euo pipefail

say() { echo "setup: $*"; }

quiet=false
tests=false
bench=false
compare=false
for option in "$@"; do
    case $option in
        --quiet) quiet=true ;;
        --tests) tests=true ;;
        --bench) bench=true ;;
        --compare) compare=true ;;
        *) say "unknown option $option; allowed are --quiet, --tests, --bench and --compare" >&2; exit 64 ;;
    esac
done

if ! command -v cargo >/dev/null; then
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        say "Rust is installed, but not on the PATH. Type this, then try again:  . \"\$HOME/.cargo/env\"" >&2
    else
        say "Rust is missing. Install it with rustup (https://rustup.rs), then try again:" >&2
        say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
    fi
    exit 1
fi

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v c++ >/dev/null || missing+=(g++)
if $tests; then
    command -v pebble >/dev/null || missing+=(pebble)
    command -v etcd >/dev/null || missing+=(etcd-server)
fi
if $bench; then
    command -v valgrind >/dev/null || missing+=(valgrind)
    command -v strace >/dev/null || missing+=(strace)
fi
if $compare; then
    [ -x /usr/sbin/nginx ] || missing+=(nginx)
    [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    command -v wrk >/dev/null || missing+=(wrk)
    command -v h2load >/dev/null || missing+=(nghttp2-client)
    command -v openssl >/dev/null || missing+=(openssl)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
fi

if [ ${#missing[@]} -eq 0 ]; then
    $quiet || say "everything is here: cargo, cmake, make, cc, c++$($tests && echo ", pebble, etcd" || true)"
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]} (or what your system calls them). There is no apt-get here; please install them by hand." >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "missing: ${missing[*]}. Installing them needs root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
say "installing ${missing[*]} with apt-get"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
# Its package has it run as a service from the next start of the machine on; the tests start their own.
if [[ " ${missing[*]} " == *" etcd-server "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable --now etcd || true
fi
for proxy in nginx haproxy; do
    if [[ " ${missing[*]} " == *" $proxy"* ]] && command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl disable --now "$proxy" || true
    fi
done
say "done"
