// wgmma.mma_async for the widths in use; included by warpgroup.cuh.
#pragma once

#include <cstdint>

namespace lamina {
namespace {

// d = a·b, or d += a·b unless it is the first: 64 rows of a, 16 columns in registers, by b's columns in
// shared memory; of 2:4 weights 32 columns, and `meta` in lanes 4g and 4g + 1.
#define LAMINA_SUMS_AT(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define LAMINA_SUMS_8 LAMINA_SUMS_AT(0)
#define LAMINA_SUMS_16 LAMINA_SUMS_8, LAMINA_SUMS_AT(8)
#define LAMINA_SUMS_32 LAMINA_SUMS_16, LAMINA_SUMS_AT(16), LAMINA_SUMS_AT(24)
#define LAMINA_SUMS_64 \
  LAMINA_SUMS_32, LAMINA_SUMS_AT(32), LAMINA_SUMS_AT(40), LAMINA_SUMS_AT(48), LAMINA_SUMS_AT(56)
#define LAMINA_SUMS_128                                                                           \
  LAMINA_SUMS_64, LAMINA_SUMS_AT(64), LAMINA_SUMS_AT(72), LAMINA_SUMS_AT(80), LAMINA_SUMS_AT(88), \
      LAMINA_SUMS_AT(96), LAMINA_SUMS_AT(104), LAMINA_SUMS_AT(112), LAMINA_SUMS_AT(120)
__device__ __forceinline__ void multiply_warpgroup(float (&d)[8], const uint32_t* a, uint64_t b, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %13, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_8
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup_24(float (&d)[8], const uint32_t* a, uint64_t b,
                                                      uint32_t meta, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %14, 0;\n"
      "wgmma.mma_async.sp.sync.aligned.m64n16k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, %12, %13, 0, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_8
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(meta), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup(float (&d)[16], const uint32_t* a, uint64_t b,
                                                   bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_16
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup_24(float (&d)[16], const uint32_t* a, uint64_t b,
                                                      uint32_t meta, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %22, 0;\n"
      "wgmma.mma_async.sp.sync.aligned.m64n32k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, %21, 0, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_16
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(meta), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup(float (&d)[32], const uint32_t* a, uint64_t b,
                                                   bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_32
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup_24(float (&d)[32], const uint32_t* a, uint64_t b,
                                                      uint32_t meta, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %38, 0;\n"
      "wgmma.mma_async.sp.sync.aligned.m64n64k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, %37, 0, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_32
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(meta), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup(float (&d)[64], const uint32_t* a, uint64_t b,
                                                   bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_64
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup_24(float (&d)[64], const uint32_t* a, uint64_t b,
                                                      uint32_t meta, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %70, 0;\n"
      "wgmma.mma_async.sp.sync.aligned.m64n128k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, %69, 0, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_64
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(meta), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup(float (&d)[128], const uint32_t* a, uint64_t b,
                                                   bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_128
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(first)));
#endif
}
__device__ __forceinline__ void multiply_warpgroup_24(float (&d)[128], const uint32_t* a, uint64_t b,
                                                      uint32_t meta, bool first) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, %134, 0;\n"
      "wgmma.mma_async.sp.sync.aligned.m64n256k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, %133, 0, p, 1, 1, 0;\n}\n"
      : LAMINA_SUMS_128
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(meta), "r"(static_cast<uint32_t>(first)));
#endif
}
#undef LAMINA_SUMS_AT
#undef LAMINA_SUMS_8
#undef LAMINA_SUMS_16
#undef LAMINA_SUMS_32
#undef LAMINA_SUMS_64
#undef LAMINA_SUMS_128

}  // namespace
}  // namespace lamina
