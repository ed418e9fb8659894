// Functions compiled for wider vectors too, the widest that the machine has chosen at load time. Those that
// round may fuse a multiplication into an addition on one machine and not on another. Sanitizers and ifuncs
// do not mix.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_UNDEFINED__) && !defined(LAMINA_NO_CLONES)
#define LAMINA_WIDE __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define LAMINA_WIDE
#endif
