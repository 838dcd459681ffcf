// Compiles the file that GENKERN_TILE names once for each instruction set, for loops whose shape depends on the number
// and the size of vector registers, where GENKERN_CLONES is not enough. The file reads GENKERN_LEVEL, a namespace, and
// GENKERN_BYTES, the size of a vector register; of 64 bytes there are 32 registers, of others 16. GENKERN_AT_LEVEL
// calls a function of whichever namespace this machine can run, by `simd_level` of ../ops/random/random.h.

#define GENKERN_LEVEL plain
#define GENKERN_BYTES 16
#include GENKERN_TILE
#undef GENKERN_LEVEL
#undef GENKERN_BYTES

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define GENKERN_LEVEL v3
#define GENKERN_BYTES 32
#include GENKERN_TILE
#undef GENKERN_LEVEL
#undef GENKERN_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define GENKERN_LEVEL v4
#define GENKERN_BYTES 64
#include GENKERN_TILE
#undef GENKERN_LEVEL
#undef GENKERN_BYTES
#pragma GCC pop_options

#define GENKERN_AT_LEVEL(call) (simd_level() >= 4 ? v4::call : simd_level() >= 3 ? v3::call : plain::call)
#else
#define GENKERN_AT_LEVEL(call) plain::call
#endif
