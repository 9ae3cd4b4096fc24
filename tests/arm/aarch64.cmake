# Cross-compiles for 64-bit ARM Linux with Debian's GCC. ARM_SYSROOT: a folder with arm64 packages unpacked, which has
# Python's headers.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Python and nanobind are asked on this machine; only headers come from the other.
set(CMAKE_FIND_ROOT_PATH "$ENV{ARM_SYSROOT}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(Python_INCLUDE_DIR "$ENV{ARM_SYSROOT}/usr/include/python3.11" CACHE PATH "")
set(Python_SOABI "cpython-311-aarch64-linux-gnu" CACHE STRING "")
# Debian's pyconfig.h includes <aarch64-linux-gnu/python3.11/pyconfig.h>.
include_directories(SYSTEM "$ENV{ARM_SYSROOT}/usr/include")
