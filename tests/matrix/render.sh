#!/usr/bin/env bash
# Render the worked example under each ansible-core given, without a cluster, and compare:
#   tests/matrix/render.sh .venv-core-2.16 .venv
set -euo pipefail
cd "$(dirname "$0")/../.."

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
# Without this an inventory that is not there is a warning, and localhost renders its defaults.
export ANSIBLE_INVENTORY_UNPARSED_FAILED=true

for venv in "$@"; do
  "$venv/bin/ansible-playbook" playbooks/render.yml -i inventories/bare_metal -e "render_dir=$rendered/$venv"
  manifests=$(find "$rendered/$venv" -type f -size +0 | wc -l)
  echo "$("$venv/bin/python" -m pip list --format freeze | grep ansible-core) rendered $manifests manifests"
  [ "$manifests" -gt 0 ]
  diff -r "$rendered/$1" "$rendered/$venv"
done
