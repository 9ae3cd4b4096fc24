#!/usr/bin/env bash
# Prepares a folder in which Debian's Python 3.11 for arm64 runs JAX, on an emulated CPU.
#
#   tests/arm/prepare.sh FOLDER          everything
#   tests/arm/prepare.sh FOLDER sysroot  what a cross build needs
#
# What is there already stays:
#   FOLDER/sysroot  arm64 packages of Debian, unpacked
#   FOLDER/site     for aarch64: what TriX-JAX depends on, and pytest
#   FOLDER/pip      pip, for the installation of more
#   FOLDER/python   runs the emulated Python, with FOLDER/site and what wheel.sh installs. QEMU_CPU chooses the CPU.
# For Debian 12 on x86_64, as root or with sudo: installs QEMU and a cross compiler.
set -euo pipefail
: "${1:?usage: tests/arm/prepare.sh FOLDER [sysroot]}"
repository=$(cd "$(dirname "$0")/../.." && pwd)
mark=.arm-machine
if [ -n "$(ls -A "$1" 2>/dev/null)" ] && [ ! -e "$1/$mark" ]; then
  echo "$1 holds other files; give a folder of its own" >&2
  exit 2
fi
mkdir -p "$1/debs"
work=$(cd "$1" && pwd)
touch "$work/$mark"
exec 9>"$work/.lock"
flock 9
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
  as_root apt-get update -qq
  as_root apt-get install -qq -y --no-install-recommends qemu-user-static g++-aarch64-linux-gnu >/dev/null
fi

if [ ! -e "$work/sysroot/done" ]; then
  as_root dpkg --add-architecture arm64
  as_root apt-get update -qq
  packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libgcc-s1 libstdc++6
            zlib1g libbz2-1.0 liblzma5 libexpat1 libffi8 libssl3 libsqlite3-0 libuuid1 libcrypt1 libtinfo6
            libncursesw6 libreadline8)
  (cd "$work/debs" && apt-get download -qq "${packages[@]/%/:arm64}")
  for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/sysroot"; done
  touch "$work/sysroot/done"
fi
if [ "${2:-}" = sysroot ]; then exit; fi

jax=${JAX_VERSION:-0.10.2}
python3.11 -m venv "$work/pip"
mapfile -t packages < <("$work/pip/bin/python" -c '
import sys, tomllib
with open(sys.argv[1], "rb") as file:
  print(*tomllib.load(file)["project"]["dependencies"], sep="\n")' "$repository/pyproject.toml")
packages+=("jax==$jax" "jaxlib==$jax" hypothesis pytest)
if [ "$(cat "$work/site/packages" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf "$work/site"
  for platform in manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64; do
    platforms+=(--platform "$platform")
  done
  "$work/pip/bin/pip" install -q --disable-pip-version-check --only-binary=:all: "${platforms[@]}" \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none --target "$work/site" "${packages[@]}"
  echo "${packages[*]}" > "$work/site/packages"
fi

cat > "$work/python" <<'SCRIPT'
#!/usr/bin/env bash
work=$(cd "$(dirname "$0")" && pwd)
export QEMU_LD_PREFIX=$work/sysroot PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$work/trix:$work/site
# The programs restart themselves where this variable is missing, which the kernel of this machine would refuse.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-}
exec qemu-aarch64-static "$work/sysroot/usr/bin/python3.11" "$@"
SCRIPT
chmod +x "$work/python"
