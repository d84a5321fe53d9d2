#!/usr/bin/env bash
# Records the captures of this directory anew: starts a throw-away server for each directory given, runs
# scenario.sql on it, and keeps what its walsender said in each mode.
#
#     cargo build -p proto-tests --bin record-capture
#     proto-tests/captures/record.sh /usr/lib/postgresql/15/bin /opt/pg17/native/bin …
#
# Each directory must have postgres and initdb; psql is taken from the PATH or from $PSQL. As root, servers run as
# the user postgres, who must be able to read the directories.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
recorder=${RECORDER:-$here/../../target/debug/record-capture}
psql=${PSQL:-$(command -v psql || ls -d /usr/lib/postgresql/*/bin/psql | tail -1)}
[ $# -gt 0 ] || { sed -n '2,10p' "$0"; exit 2; }

as_server() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --init-groups "$@"; else "$@"; fi
}

stop() { # the server in a directory, and the directory
    local postmaster
    if read -r postmaster 2>/dev/null <"$1/data/postmaster.pid"; then
        kill -INT "$postmaster"
        while kill -0 "$postmaster" 2>/dev/null; do sleep 0.1; done
    fi
    rm -rf "$1"
}

record() { # one server
    local bin=$1 dir version
    dir=$(mktemp -d /tmp/capture.XXXXXX)
    chmod 755 "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    export LD_LIBRARY_PATH=$bin/../lib
    as_server "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C >"$dir/initdb.log" 2>&1
    # shellcheck disable=SC2094
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
port = 5432
wal_level = logical
max_prepared_transactions = 10
max_wal_senders = 20
max_replication_slots = 20
autovacuum = off
fsync = off
CONF
    if "$bin/postgres" --version | grep -qvE ' 1[23]\.'; then
        echo "logical_decoding_work_mem = 64kB" >>"$dir/data/postgresql.conf"
    fi
    as_server "$bin/postgres" -D "$dir/data" >"$dir/server.log" 2>&1 &
    unset LD_LIBRARY_PATH
    # shellcheck disable=SC2064
    trap "stop '$dir'" EXIT
    sql() { "$psql" -X -q -h "$dir" -U postgres -d postgres "$@"; }
    until sql -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
    version=$(sql -Atc "SELECT current_setting('server_version_num')::int / 10000")

    sql -v v="$version" -f "$here/schema.sql" >/dev/null
    local recorders=() newest
    newest=$((version >= 16 ? 4 : version >= 15 ? 3 : version >= 14 ? 2 : 1))
    start() { # name, two_phase, options
        local name=$1 two_phase=$2
        shift 2
        local arguments="'$name', 'pgoutput'"
        [ "$two_phase" = off ] || arguments+=", false, true"
        sql -c "SELECT pg_create_logical_replication_slot($arguments)" >/dev/null
        as_server "$recorder" "$dir/.s.PGSQL.5432" "$name" "$dir/$name.capture" "$dir/stop" "$@" &
        recorders+=($!)
    }
    start text off proto_version=1 publication_names=everything,inserts
    if [ "$version" -ge 13 ]; then start roots off proto_version=1 publication_names=roots; fi
    if [ "$version" -ge 14 ]; then
        start binary off "proto_version=$newest" publication_names=everything,inserts binary=true messages=true
        start stream off "proto_version=$newest" publication_names=everything,inserts streaming=on messages=true
    fi
    if [ "$version" -ge 15 ]; then
        start narrow off "proto_version=$newest" publication_names=narrow
        start twophase on "proto_version=$newest" publication_names=everything,inserts streaming=on two_phase=on
    fi
    if [ "$version" -ge 16 ]; then
        start parallel off "proto_version=$newest" publication_names=everything,inserts streaming=parallel
    fi
    sleep 1
    sql -v v="$version" -f "$here/scenario.sql" >/dev/null
    sql -Atc 'SELECT pg_current_wal_lsn()' >"$dir/stop.new"
    mv "$dir/stop.new" "$dir/stop"
    wait "${recorders[@]}"
    for capture in "$dir"/*.capture; do
        cp "$capture" "$here/$version-$(basename "$capture")"
    done
    stop "$dir"
    trap - EXIT
}

for bin in "$@"; do
    echo "recording with $("$bin/postgres" --version)"
    record "$bin"
done
