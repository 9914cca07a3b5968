# Shared by the scripts of this folder: where the checkout is, how they talk, how packages are
# installed. Sourced, never run. Every script starts with `set -euo pipefail`.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
logs="$root/build/logs"

say() { printf '%s: %s\n' "$script_name" "$*"; }

fail() {
  printf '%s: %s\n' "$script_name" "$*" >&2
  exit 1
}

# run_logged NAME COMMAND...: runs a command with its output in build/logs/NAME.log; shows the end
# of it on failure.
run_logged() {
  local name="$1" log
  shift
  log="$logs/$name.log"
  mkdir -p "$logs"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 40 "$log" >&2
    return 1
  fi
}

# content_hash PATH...: one hash over names and contents of the files below the paths, build folders
# left out.
content_hash() {
  find "$@" -type d \( -name 'build*' -o -name node_modules \) -prune -o -type f -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt_install LOG PACKAGE...: installs packages; reads the package lists again when they are missing
# or too old.
apt_install() {
  local log="$1"
  shift
  export DEBIAN_FRONTEND=noninteractive
  run_logged "$log" apt-get install -y --no-install-recommends "$@" 2>/dev/null && return
  run_logged "$log-update" apt-get update || return 1
  run_logged "$log" apt-get install -y --no-install-recommends "$@"
}
