# Paths, messages and helpers that the other tools source.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=$root/.cache

# Part of each name that two checkouts on one machine would otherwise share.
# shellcheck disable=SC2034
checkout=$(printf %s "$root" | sha256sum | cut -c1-8)

say() { echo "==> $*" >&2; }
die() {
  echo "error: $*" >&2
  exit 1
}

# Wait up to $1 seconds for a command to succeed.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

# with_apt COMMAND…: run one at a time on this machine, because apt does not wait for its locks.
with_apt() { flock "${XDG_RUNTIME_DIR:-/tmp}/django-vps-apt.$UID.lock" "$@"; }

# apt_install COMMAND PACKAGE…: install a missing tool if this user can, or say how.
apt_install() {
  local tool=$1
  shift
  if [[ $EUID -ne 0 ]] || ! command -v apt-get > /dev/null; then
    die "$tool is missing; install it ($(command -v apt-get > /dev/null && echo "sudo apt-get install $*" ||
      echo "Debian's packages: $*")) and run this again"
  fi
  say "installing $*"
  local log=$cache/apt-$1.log
  mkdir -p "$cache"
  # RUNLEVEL=1 keeps the package from starting its services.
  with_apt bash -c 'apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "$@"' - "$@" < /dev/null > "$log" 2>&1 ||
    die "apt-get cannot install $*: $(grep -m1 '^E:' "$log" || echo "see the log"); the log is $log"
}

need() { command -v "$1" > /dev/null || apt_install "$@"; }

# server_image NAME: bookworm and trixie are bare, site-bookworm and site-trixie have this checkout's test site on them.
server_image() {
  case $1 in
    site-*) echo "django-vps/site-$checkout:${1#site-}" ;;
    *) echo "django-vps/debian:$1" ;;
  esac
}
