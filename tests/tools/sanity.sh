#!/usr/bin/env bash
# ansible-test's sanity tests, on the collection as it would be installed.
#
# They want a path that ends in ansible_collections/llm_d/multi_engine, and keep virtual
# environments of their own in the home directory: both are given a place in the cache.
set -euo pipefail
cd "$(dirname "$0")/../.."

checkout=$PWD
bin=$PWD/.venv/bin
read -r version core < <("$bin/python" -c '
import sys
from ansible.release import __version__
print(*(".".join(version.split(".")[:2]) for version in (sys.version, __version__)))')
cache=${LLM_D_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-d-multi-engine}
export PATH=$bin:$PATH
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
export HOME=$cache/sanity

# ansible-test downloads the script that puts pip into its environments, from a host that
# closed networks do not reach. Python brings a pip of its own.
pip=$("$bin/python" -c '
from ansible_test._internal.python_requirements import get_venv_packages
from types import SimpleNamespace
print(get_venv_packages(SimpleNamespace(version=None))["pip"])')
mkdir -p "$HOME/.ansible/test/cache"
cat >"$HOME/.ansible/test/cache/get_pip_${pip//./_}.py" <<'PYTHON'
import ensurepip, subprocess, sys
ensurepip.bootstrap()
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))
PYTHON

rm -rf "$HOME"/ansible_collections "$HOME"/*.tar.gz
ansible-galaxy collection build --force --output-path "$HOME" >/dev/null
cd "$HOME"  # away from ansible.cfg, by which the checkout counts as installed already
ansible-galaxy collection install --no-deps -p . llm_d-multi_engine-*.tar.gz >/dev/null
ln -s "$checkout/.collections/ansible_collections/kubernetes" ansible_collections/
cd ansible_collections/llm_d/multi_engine
# That one test takes every collection for GPL; this one's licence is Apache-2.0.
mkdir -p tests/sanity
printf '%s validate-modules:missing-gplv3-license\n' plugins/modules/*.py plugins/lookup/*.py >"tests/sanity/ignore-$core.txt"
exec ansible-test sanity --local --requirements --python "$version" "$@"
