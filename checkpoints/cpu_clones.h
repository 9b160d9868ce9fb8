#pragma once

// A function marked TUNE_CPU_CLONES is compiled for AVX-512, AVX2 and the build's own target, and the loader picks: one
// portable binary, fast everywhere. What such a function calls must be inlined into it, hence TUNE_INLINE. The loader
// picks before a sanitizer's runtime is ready: no clones there.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(TUNE_SANITIZED)
#define TUNE_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TUNE_CPU_CLONES
#endif
#define TUNE_INLINE inline __attribute__((always_inline))
