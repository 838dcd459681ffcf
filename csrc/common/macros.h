#pragma once
// The three attributes that every kernel uses, and nothing else.

#if defined(__CUDACC__)
#define GENKERN_HD __host__ __device__ __forceinline__  // a per-element function shared by C++ and CUDA
#else
#define GENKERN_HD inline __attribute__((always_inline))
#endif

// A loop's body: inlined into each clone below, so that it is vectorised for that clone's instruction set.
#define GENKERN_INLINE inline __attribute__((always_inline))

// One object file, one function for each x86-64 level; the loader picks the best one that the machine has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define GENKERN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define GENKERN_CLONES
#endif
