#!/usr/bin/env bash
# The kernel tests on emulated ARM CPUs, first in C++ alone, then through a real jaxlib for aarch64; and a whole model.
#
#   tests/arm/run.sh [FOLDER]     FOLDER keeps downloads and builds for the next time
#   SELECT=test tests/arm/run.sh  every kernel test, which takes half an hour
#
# For Debian 12 on x86_64, as root or with sudo; prepare.sh says what it installs and downloads. An emulated CPU counts
# and computes; it does not tell time.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck disable=SC1091
source "$repository/.ci/common"
make_scratch
work=${1:-$scratch}
"$repository/tests/arm/prepare.sh" "$work"
mkdir -p "$work/native"
work=$(cd "$work" && pwd)

# i8mm and dot products; dot products alone; neither. Not SME, of whose SMOPA QEMU 7.2 gets three products of four wrong:
# XLA multiplies int8 with it for some sizes, and a test that meets one of those fails.
cpus=(max,pauth-impdef=on,sme=off neoverse-n1 cortex-a72)
best=(neon_i8mm neon_dotprod neon)

echo '== C++ alone'
source=$repository/xla_kernels/csrc
compile() { aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -Wall -Wextra -I"$source" "$@"; }
for file in "$source"/{cpu,paths,isa/portable}.cc "$source"/ops/*.cc; do
  compile -c "$file" -o "$work/native/$(basename "$file" .cc).o"
done
grep '^aarch64 ' "$source/isa/flags.txt" | while read -r _ name flags; do
  # shellcheck disable=SC2086
  compile $flags -c "$source/isa/$name.cc" -o "$work/native/$name.o"
done
compile -static "$repository/tests/native/paths_test.cc" "$work"/native/*.o -o "$work/native/paths_test"
for cpu in "${cpus[@]}"; do
  echo "-- $cpu"
  QEMU_CPU=$cpu qemu-aarch64-static "$work/native/paths_test"
done

echo '== jaxlib for aarch64'
"$repository/tests/arm/wheel.sh" "$work"
rm -rf "$work/tests"
mkdir -p "$work"/tests/model_tests
cp -r "$repository/tests/kernels" "$work/tests/kernel_tests"
cp -r "$repository/tests/test_golden_model.py" "$repository/tests/data" "$work/tests/model_tests"

# Compiling takes the time here, so XLA does not optimise the programs around the kernels; it does for the model, as for
# its users. The first CPU runs every path, by the tests that tell paths apart, and of JAX's transformations one; the
# others show that they choose theirs. The model runs on the newest CPU and on the oldest.
most='accumulators_are_exact or extreme or the_lowest_index or range_is_an_error or scan or bytes or lookups_are_exact or test_paths'
few='accumulators_are_exact or test_paths'
pytest() {  # CPU, arguments
  QEMU_CPU=$1 HYPOTHESIS_PROFILE=emulated "$work/python" -m pytest -q -p no:cacheprovider -o markers=slow --durations=5 \
    "${@:2}"
}
run_tests() {  # CPU, the path that it chooses, tests of kernels
  cd "$work/tests"
  QEMU_CPU=$1 "$work/python" -c 'import sys, xla_kernels; print("paths:", *xla_kernels.available_paths())
assert xla_kernels.active_path() == sys.argv[1], f"{sys.argv[1]} is the best path of this CPU"' "$2"
  XLA_FLAGS='--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true' pytest "$1" -k "$3" kernel_tests
  if [ "$1" != neoverse-n1 ]; then pytest "$1" -k a_file_of_another_machine model_tests; fi
}
# Side by side, since each keeps one core busy.
logs=() jobs=()
for index in "${!cpus[@]}"; do
  cpu=${cpus[index]}
  selected=$([ "$index" = 0 ] && echo "$most" || echo "$few")
  logs+=("$work/${cpu%%,*}.log")
  (run_tests "$cpu" "${best[index]}" "${SELECT:-$selected}") > "${logs[-1]}" 2>&1 &
  jobs+=($!)
done
failed=0
for index in "${!jobs[@]}"; do
  wait "${jobs[index]}" || failed=1
  echo "-- ${cpus[index]}"
  cat "${logs[index]}"
done
exit $failed
