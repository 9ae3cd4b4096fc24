// What lets GCC's static libstdc++ run with a glibc older than the one it was built with.
//
// TRIX_OLD_GLIBC in CMakeLists.txt adds this file to the extension. The linker prefers these definitions to the newer
// glibc's, and packaging/exports.map keeps them inside the extension.

// glibc 2.32 added this variable. Zero says that other threads may run, which is always safe to assume.
char __libc_single_threaded = 0;

// glibc 2.34 moved pthread_once from libpthread to libc and gave it a new version. The old version still exists.
#if defined(__x86_64__)
__asm__(".symver old_pthread_once, pthread_once@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver old_pthread_once, pthread_once@GLIBC_2.17");
#else
#error "The first glibc version of this architecture is missing here."
#endif
int old_pthread_once(int* control, void (*function)(void));
int pthread_once(int* control, void (*function)(void)) { return old_pthread_once(control, function); }
