# Functions that the scripts in ops/ share. Source it: `. "$(dirname "$0")/lib.sh"`.
# shellcheck shell=bash

# One line for the person who reads along: `say setup "nanodet … ok"`.
say() { printf '%s: %s\n' "$1" "$2"; }

# The same on standard error, then the end: `die setup "what is wrong and what to do"`.
die() {
  printf '%s: %s\n' "$1" "$2" >&2
  exit 1
}

# The folder of everything that is fetched or made: SENSORIUM_CACHE, or sensorium/ in the user's cache folder.
cache_folder() { printf '%s\n' "${SENSORIUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sensorium}"; }

# The root of the repository, from any script in ops/ or below it.
repository_folder() { (cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd); }

# The SHA-256 of a file, or nothing when it is not there.
sha256_of() { if [ -f "$1" ]; then sha256sum "$1" | cut -d' ' -f1; fi; }

# How to become root without being asked for a password: empty for root, `sudo -n`, or failure.
root_prefix() {
  if [ "$(id -u)" = 0 ]; then
    printf ''
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    printf 'sudo -n'
  else
    return 1
  fi
}
