#!/usr/bin/env bash
# Stops an Envoy that runs keen-edge without losing a call or an event: scripts/drain.sh [OPTION...]
#
# --admin HOST:PORT  Envoy's admin interface (default 127.0.0.1:9901)
# --notice SECONDS   time for load balancers to see the failing health check (default 5)
# --timeout SECONDS  the longest the whole drain takes (default 25)
# --keep-running     do not stop Envoy at the end; its supervisor stops it, as Kubernetes does after a preStop hook
#
# Exit code: 0 if nothing is waiting, 1 if requests or events are left at the timeout (Envoy is stopped anyway), 2 if
# Envoy does not answer or an option is wrong. The script needs only bash, so it runs in Envoy's image.
set -euo pipefail

admin=127.0.0.1:9901
notice=5
limit=25
stop=true

say() { printf 'drain: %s\n' "$*" >&2; }

usage_error() {
  say "$*; the options are --admin HOST:PORT, --notice SECONDS, --timeout SECONDS and --keep-running"
  exit 2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --keep-running) stop=false ;;
    --admin | --notice | --timeout)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      case "$1" in
        --admin) admin="$2" ;;
        --notice) notice="$2" ;;
        --timeout) limit="$2" ;;
      esac
      shift
      ;;
    *) usage_error "unknown option '$1'" ;;
  esac
  shift
done
for value in "$notice" "$limit"; do
  [[ "$value" =~ ^(0|[1-9][0-9]{0,4})$ ]] || usage_error "'$value' is not a number of seconds"
done
address='^(\[[0-9a-fA-F:]+\]|[^:]+):([0-9]{1,5})$'
[[ "$admin" =~ $address ]] || usage_error "--admin needs HOST:PORT, not '$admin'"
host="${BASH_REMATCH[1]#[}"
host="${host%]}"
port="${BASH_REMATCH[2]}"

# Sends a request to the admin interface and prints the response's body. Fails unless the status is 200.
request() {
  { exec 3<>"/dev/tcp/$host/$port"; } 2>/dev/null || return 1
  printf '%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" "$admin" >&3
  response <&3 || { exec 3>&- && return 1; }
  exec 3>&-
}

response() {
  local status line size chunked=false
  read -r -t 10 status && [[ "$status" == *' 200 '* ]] || return 1
  while read -r -t 10 line && line="${line%$'\r'}" && [ -n "$line" ]; do
    if [ "$line" = 'transfer-encoding: chunked' ]; then chunked=true; fi
  done
  if [ "$chunked" = false ]; then
    cat
    return
  fi
  while read -r -t 10 size && size="$((16#${size%$'\r'}))" && [ "$size" -gt 0 ]; do
    LC_ALL=C read -r -t 10 -N "$size" line
    printf '%s' "$line"
    read -r -t 10 line # the end of the chunk's line
  done
}

post() { request POST "$1" >/dev/null; }

# Sets `requests`, `connections` and `pending` (bytes) to Envoy's current values. The admin interface's own requests do
# not count. A counter that does not exist is 0.
measure() {
  local text name value
  requests=0 connections=0 pending=0
  text="$(request GET '/stats?filter=downstream_(rq|cx)_active$|keen_edge_pending_bytes$')" || return 1
  while IFS=': ' read -r name value; do
    [[ "$value" =~ ^[0-9]+ ]] || continue
    value="${BASH_REMATCH[0]}"
    case "$name" in
      http.admin.*) ;;
      http.*.downstream_rq_active) requests=$((requests + value)) ;;
      http.*.downstream_cx_active) connections=$((connections + value)) ;;
      wasmcustom.keen_edge_pending_bytes) pending=$((pending + value)) ;;
    esac
  done <<<"$text"
}

left() { printf '%s' "requests: $requests, connections: $connections, bytes of events: $pending"; }

measure || {
  say "no answer from Envoy's admin interface at $admin"
  exit 2
}
say "Envoy at $admin: $(left)"
started=$SECONDS
# From now on health checks fail, and each response closes its connection.
post /healthcheck/fail || { say "POST /healthcheck/fail failed" && exit 2; }
# HTTP/2 clients get GOAWAY. New connections are still accepted, until load balancers send none.
post '/drain_listeners?graceful&skip_exit' || { say "POST /drain_listeners failed" && exit 2; }

# The drain is complete when three measurements in a row find nothing, because the filter reports pending bytes up to
# 0.1 s late.
quiet=0
while [ "$((SECONDS - started))" -lt "$limit" ]; do
  sleep 0.2
  measure || { say "Envoy has stopped by itself" && exit 2; }
  if [ "$requests" -eq 0 ] && [ "$pending" -eq 0 ] && [ "$connections" -eq 0 ]; then
    quiet=$((quiet + 1))
  else
    quiet=0
  fi
  if [ "$quiet" -ge 3 ] && [ "$((SECONDS - started))" -ge "$notice" ]; then break; fi
done

result=0
if [ "$requests" -gt 0 ] || [ "$pending" -gt 0 ]; then
  say "not drained after $((SECONDS - started)) s: $(left)"
  result=1
else
  # Connections without a request may be closed.
  say "drained after $((SECONDS - started)) s: $(left)"
fi
if [ "$stop" = true ]; then
  post /quitquitquit || { say "POST /quitquitquit failed" && exit 2; }
  say "Envoy stops"
fi
exit "$result"
