#!/usr/bin/env bash
# Make the environment that the checkout is developed and tested in.
#
#   tests/tools/make_venv.sh         .venv, with the newest ansible-core that a Python here runs
#   tests/tools/make_venv.sh 2.16    .venv-core-2.16, for the unit tests under that ansible-core
#
# Both find the collections in .collections/, beside the link that makes the checkout itself
# the collection llm_d.multi_engine. A second run with nothing changed does nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${LLM_D_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-d-multi-engine}
wanted_core=${1:-}

# Pythons that each ansible-core supports on the controller, best first.
pythons() {
  case $1 in
    2.21) echo 3.13 3.12 ;;
    2.19) echo 3.11 3.12 3.13 ;;
    2.16) echo 3.11 3.12 3.10 ;;
    *) echo "unknown ansible-core '$1': there is no requirements/core-$1.txt" >&2; exit 2 ;;
  esac
}

# Running each candidate weeds out pyenv's shims of versions that are not switched on, and a
# Debian python3 without ensurepip, which makes no venv.
# The real path, for `python3.13` may be the one of the very venv that is to be replaced.
tell_path='import ensurepip, os, ssl, sys; print(os.path.realpath(sys.executable))'
find_python() {
  local version candidate
  for version in $(pythons "$1"); do
    for candidate in "python$version" ~/.pyenv/versions/"$version".*/bin/python; do
      if "$candidate" -c "$tell_path" 2>/dev/null; then
        return
      fi
    done
  done
  return 1
}

choose() {
  for core in ${wanted_core:-2.21 2.19}; do
    python=$(find_python "$core") && return
  done
  return 1
}

debian_packages() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "No Python with venv for ansible-core ${wanted_core:-2.21 or 2.19}." >&2
    echo "Install Python 3.12 or newer, or on Debian as root: $(debian_list)" >&2
    exit 1
  fi
  apt-get update -qq
  # shellcheck disable=SC2046 # one word a package
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(debian_list) >/dev/null
}

debian_list() { sed 's/#.*//' requirements/debian.txt; }

choose || { debian_packages; choose; }

if [ -n "$wanted_core" ]; then
  venv=.venv-core-$core
  requirements=(requirements/unit.txt)
  why="asked for"
else
  venv=.venv
  requirements=(requirements/test.txt)
  why="the newest that a Python here runs"
fi
requirements+=("requirements/core-$core.txt")
echo "$venv: ansible-core $core ($why) on $python"

# Stamps hold what they were made from: equal text means nothing to do.
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

made_from=$({ echo "$python"; "$python" --version; cat requirements.txt requirements/unit.txt "${requirements[@]}"; } | sha256sum)
if ! fresh "$venv/.made-from" "$made_from"; then
  "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet "${requirements[@]/#/-r}"
  "$venv/bin/python" -m pip check
  echo "$made_from" >"$venv/.made-from"
fi

pin=$(sed '/^#/d' requirements/collections.txt)
collections=(ansible/posix ansible/utils community/general containers/podman kubernetes/core)
made_from="$pin ${collections[*]}"
if ! fresh .collections/.made-from "$made_from"; then
  wheel=$cache/${pin/==/-}-py3-none-any.whl
  if [ ! -f "$wheel" ]; then
    "$venv/bin/python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
      --dest "$cache/partial" "$pin"
    mv "$cache/partial/$(basename "$wheel")" "$wheel"
  fi
  "$venv/bin/python" - "$wheel" "${collections[@]}" <<'PYTHON'
import shutil, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in sys.argv[2:]:
        prefix = f"ansible_collections/{name}/"
        shutil.rmtree(f".collections/{prefix}", ignore_errors=True)
        # Their own tests are half of the files and nothing here reads them.
        members = [m for m in wheel.namelist() if m.startswith(prefix) and not m.startswith(prefix + "tests/")]
        assert members, f"{name} is not in {sys.argv[1]}"
        wheel.extractall(".collections", members)
PYTHON
  echo "$made_from" >.collections/.made-from
fi
