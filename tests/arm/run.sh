#!/usr/bin/env bash
# The kernel tests on emulated ARM CPUs, first in C++ alone, then through a real jaxlib for aarch64; and a whole model.
#
#   tests/arm/run.sh [FOLDER]     FOLDER keeps downloads and builds for the next time
#   SELECT=test tests/arm/run.sh  every kernel test, which takes half an hour
#
# For Debian 12 on x86_64, as root or with sudo: installs QEMU and a cross compiler, and downloads Python 3.11 for arm64
# (unpacked into a folder, not installed). An emulated CPU counts and computes; it does not tell time.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-}
if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"/{debs,sysroot,native}
work=$(cd "$work" && pwd)
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# i8mm and dot products; dot products alone; neither. Not SME, of whose SMOPA QEMU 7.2 gets three products of four wrong:
# XLA multiplies int8 with it for some sizes, and a test that meets one of those fails.
cpus=(max,pauth-impdef=on,sme=off neoverse-n1 cortex-a72)

if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
  as_root apt-get update -qq
  as_root apt-get install -qq -y --no-install-recommends qemu-user-static g++-aarch64-linux-gnu >/dev/null
fi

echo '== C++ alone'
source=$repository/xla_kernels/csrc
compile() { aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -Wall -Wextra -I"$source" "$@"; }
for name in portable cpu paths matmul routing tile_ffn attention neon; do
  compile -c "$source/$name.cc" -o "$work/native/$name.o"
done
compile -march=armv8.2-a+dotprod -c "$source/neon_dotprod.cc" -o "$work/native/neon_dotprod.o"
compile -march=armv8.2-a+dotprod+i8mm -c "$source/neon_i8mm.cc" -o "$work/native/neon_i8mm.o"
compile -static "$repository/tests/native/paths_test.cc" "$work"/native/*.o -o "$work/native/paths_test"
for cpu in "${cpus[@]}"; do
  echo "-- $cpu"
  QEMU_CPU=$cpu qemu-aarch64-static "$work/native/paths_test"
done

echo '== jaxlib for aarch64'
if [ ! -e "$work/sysroot/usr/bin/python3.11" ]; then
  as_root dpkg --add-architecture arm64
  as_root apt-get update -qq
  packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libgcc-s1 libstdc++6
            zlib1g libbz2-1.0 liblzma5 libexpat1 libffi8 libssl3 libsqlite3-0 libuuid1 libcrypt1 libtinfo6
            libncursesw6 libreadline8)
  (cd "$work/debs" && apt-get download -qq "${packages[@]/%/:arm64}")
  for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/sysroot"; done
fi
python3.11 -m venv "$work/tools"
# The same JAX on both sides: its headers here are what the extension is built with.
jax=${JAX_VERSION:-0.10.2}
"$work/tools/bin/pip" install -q --disable-pip-version-check nanobind scikit-build-core cmake ninja "jaxlib==$jax"
for platform in manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64; do
  platforms+=(--platform "$platform")
done
rm -rf "$work/site" "$work/wheels"
"$work/tools/bin/pip" install -q --disable-pip-version-check "${platforms[@]}" --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none --target "$work/site" \
  "jax==$jax" "jaxlib==$jax" hypothesis pytest safetensors msgpack rich PyYAML absl-py typing_extensions
# Without what it needs for training alone.
"$work/tools/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary=:all: --target "$work/site" flax
# Without the two variables the wheel would be named, and its extension too, for the machine that builds.
ARM_SYSROOT=$work/sysroot PATH=$work/tools/bin:$PATH _PYTHON_HOST_PLATFORM=linux-aarch64 \
  SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so "$work/tools/bin/pip" wheel -q --disable-pip-version-check \
  --no-build-isolation --no-deps -w "$work/wheels" "$repository" \
  -C "cmake.define.CMAKE_TOOLCHAIN_FILE=$repository/tests/arm/aarch64.cmake"
"$work/tools/bin/pip" install -q --disable-pip-version-check --no-index --no-deps --platform linux_aarch64 \
  --python-version 3.11 --implementation cp --only-binary=:all: --target "$work/site" "$work"/wheels/*.whl
cp -r "$repository/tests/kernels" "$work/site/kernel_tests"
mkdir -p "$work/site/model_tests"
cp -r "$repository/tests/test_golden_model.py" "$repository/tests/data" "$work/site/model_tests"

# Compiling takes the time here. The first CPU runs every path, by the tests that tell paths apart, and of JAX's
# transformations one; the others show that they choose theirs.
most='accumulators_are_exact or extreme or the_lowest_index or range_is_an_error or scan or bytes or lookups_are_exact or test_paths'
few='accumulators_are_exact or test_paths'
for cpu in "${cpus[@]}"; do
  echo "-- $cpu"
  selected=$([ "$cpu" = "${cpus[0]}" ] && echo "$most" || echo "$few")
  (cd "$work/site" && HYPOTHESIS_PROFILE=emulated QEMU_CPU=$cpu QEMU_LD_PREFIX=$work/sysroot PYTHONPATH=$work/site \
    qemu-aarch64-static "$work/sysroot/usr/bin/python3.11" -m pytest -q -p no:cacheprovider --durations=5 \
    -k "${SELECT:-$selected or a_file_of_another_machine}" kernel_tests model_tests)
done
