#!/usr/bin/env bash
# What `make run` does: builds, starts three web dynos of one app and a worker that must never be called, writes a route file,
# starts the router in front of them, and stops everything on Ctrl-C. PORT and ADMIN_PORT choose other ports.
# The development build is used: it takes a fraction of the time of the optimised one, and `make test` uses it too.
set -euo pipefail
cd "$(dirname "$0")/../.."

port=${PORT:-8080}
admin_port=${ADMIN_PORT:-9090}

say() { echo "demo: $*"; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

for wanted in "PORT $port" "ADMIN_PORT $admin_port"; do
    read -r name number <<<"$wanted"
    if taken "$number"; then
        say "port $number is taken: something else listens on 127.0.0.1:$number." >&2
        say "Stop it, or choose another port:  make run $name=$((number + 1))" >&2
        exit 1
    fi
done

say "building (a few minutes the first time)"
# The same packages as in `make test`, so that neither builds anything twice.
cargo build --workspace --locked --bins --examples
bin=${CARGO_TARGET_DIR:-target}/debug

dir=$(mktemp -d "${TMPDIR:-/tmp}/router-demo.XXXXXX")
dynos=()
router=

# Starts a process in a group of its own, so that Ctrl-C reaches this script alone and everything is stopped once, in order.
# Its id is in $started; the shell shall not report its end.
start() {
    set -m
    "$@" &
    set +m
    started=$!
    disown "$started"
}

alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

stop() {
    # Whatever fails in here, such as a word to a terminal that is gone, the rest is still to be stopped.
    set +e
    trap '' INT TERM HUP
    trap - EXIT
    if alive "$router"; then
        say "stopping"
        kill -TERM "$router"
        while alive "$router"; do sleep 0.1; done
    fi
    for dyno in "${dynos[@]}"; do
        if alive "$dyno"; then kill "$dyno"; fi
    done
    rm -rf "$dir"
}
trap 'stop; exit 0' INT TERM HUP
trap stop EXIT

# Starts a dyno and waits for the line in which it tells its address.
start_dyno() {
    start "$bin/examples/demo_dyno" "$1" >"$dir/$1"
    dynos+=("$started")
    for _ in $(seq 100); do
        if read -r address <"$dir/$1"; then return; fi
        sleep 0.1
    done
    say "$1 did not start" >&2
    exit 1
}

documents=
for dyno in web.1 web.2 web.3 worker.1; do
    start_dyno "$dyno"
    say "$dyno is process ${dynos[-1]} on $address"
    documents+="${documents:+,}
        {\"name\": \"$dyno\", \"address\": \"$address\", \"state\": \"up\"}"
done

cat >"$dir/routes.json" <<ROUTES
{
  "format": 1,
  "revision": 1,
  "apps": [
    {
      "name": "shop",
      "domains": ["shop.example.com", "localhost"],
      "maintenance": false,
      "dynos": [$documents
      ]
    }
  ]
}
ROUTES

sed "s/127.0.0.1:8080/127.0.0.1:$port/; s/127.0.0.1:9090/127.0.0.1:$admin_port/" config/router.dev.toml >"$dir/router.toml"
start "$bin/router" serve --config "$dir/router.toml"
router=$started

ready() {
    (exec 3<>"/dev/tcp/127.0.0.1/$admin_port" &&
        printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3 && grep -q '^HTTP/1.1 200' <&3) 2>/dev/null
}
for _ in $(seq 100); do
    if ready || ! alive "$router"; then break; fi
    sleep 0.1
done
if ! ready; then
    say "the router did not become ready" >&2
    exit 1
fi

cat <<TRY

The router listens on http://localhost:$port/ (open it in a browser, or use another terminal). Four things to try:

  a request          curl -i -H 'Host: shop.example.com' http://127.0.0.1:$port/hello
  a WebSocket        $bin/examples/demo_ws 127.0.0.1:$port shop.example.com hello again
  a dyno dies        kill ${dynos[1]}      (web.2: requests go on, the router sets it aside for 5 s at a time)
  routes change      sed -i 's/"maintenance": false/"maintenance": true/' $dir/routes.json      (and back)

What the router knows: http://127.0.0.1:$admin_port/v1/routes  /v1/feed  /metrics, and $bin/router explain --admin 127.0.0.1:$admin_port shop.example.com
Its log, one line for each request, follows. Ctrl-C stops everything.

TRY

while alive "$router"; do sleep 0.2; done
say "the router has ended by itself" >&2
exit 1
