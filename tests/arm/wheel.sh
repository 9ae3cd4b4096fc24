#!/usr/bin/env bash
# Builds the wheel for Python 3.11 on aarch64 and installs it for the emulated Python.
#
#   tests/arm/wheel.sh FOLDER    FOLDER as in prepare.sh, which runs first
#
# Makes FOLDER/wheels, and FOLDER/trix, which FOLDER/python finds. Both stay as they are while their sources do.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
"$repository/tests/arm/prepare.sh" "${1:?usage: tests/arm/wheel.sh FOLDER}"
work=$(cd "$1" && pwd)
parts=(CMakeLists.txt pyproject.toml LICENSE README.md packaging trix_jax xla_kernels configs tests/arm/aarch64.cmake)
sources=$(cd "$repository" && find "${parts[@]}" -type f ! -name '*.pyc' ! -name '*.so' -print0 | sort -z |
  xargs -0 sha256sum | sha256sum)
if [ "$(cat "$work/trix/sources" 2>/dev/null)" = "$sources" ]; then exit; fi
rm -rf "$work/wheels" "$work/trix"
"$repository/packaging/build_wheels.sh" --arch aarch64 --python cp311 --arm "$work" --out "$work/wheels"
wheel=("$work"/wheels/*_aarch64.whl)
platform=${wheel[0]##*-}
"$work/pip/bin/pip" install -q --disable-pip-version-check --no-index --no-deps --only-binary=:all: \
  --platform "${platform%.whl}" --python-version 3.11 --implementation cp --abi cp311 --target "$work/trix" \
  "${wheel[0]}"
echo "$sources" > "$work/trix/sources"
