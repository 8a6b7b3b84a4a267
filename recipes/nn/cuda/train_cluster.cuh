// What the blocks of a cluster tell each other. Needs sm_90.
#pragma once

#include "common.cuh"

namespace galley {

// Waits for all threads of the cluster, in two steps: what was written before the first can be read after the second.
__device__ __forceinline__ void arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void await() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// What another block of the cluster has where this one has `own`.
__device__ __forceinline__ float of_block(const float* own, unsigned block) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(own));
    uint32_t there;
    float value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(block));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
    return value;
}

}  // namespace galley
