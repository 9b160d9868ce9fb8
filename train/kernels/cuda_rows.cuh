#pragma once
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

// What the .cu files of this folder share. Their kernels give one block to a row; rows are independent, and sums inside
// a block run in a fixed order, so the same input gives the same bits.

namespace tune::cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

/// W neighbouring values, read and written as one word (16 bytes, except where W is 1).
template <typename T, int W>
struct alignas(sizeof(T) * W) Pack {
  using Element = T;
  static constexpr int width = W;
  T values[W];

  __device__ float operator[](int i) const { return static_cast<float>(values[i]); }
  __device__ void set(int i, float x) { values[i] = static_cast<T>(x); }
};

template <typename P>
__device__ P load(const typename P::Element* from) {
  return *reinterpret_cast<const P*>(from);
}
template <typename P>
__device__ void store(typename P::Element* to, const P& pack) {
  *reinterpret_cast<P*>(to) = pack;
}

/// x as T holds it.
template <typename T>
__device__ float rounded(float x) {
  return static_cast<float>(static_cast<T>(x));
}

/// The value that the thread `distance` away in the warp holds. Other types than float bring their own.
inline __device__ float partner(float value, int distance) { return __shfl_xor_sync(0xffffffffu, value, distance); }

/// The result of `combine` over the values of all threads, in every thread. `none` changes nothing when combined.
template <typename V, typename Combine>
__device__ V block_reduce(V value, V none, Combine combine) {
  __shared__ V of_warp[kWarp];
  const auto reduce_warp = [&](V v) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) v = combine(v, partner(v, distance));
    return v;
  };
  value = reduce_warp(value);
  __syncthreads();  // a reduction before this one may still be read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  return reduce_warp(threadIdx.x % kWarp < blockDim.x / kWarp ? of_warp[threadIdx.x % kWarp] : none);
}

inline __device__ float block_sum(float value) {
  return block_reduce(value, 0.0f, [](float a, float b) { return a + b; });
}

/// Calls f(Pack{}) for the element type of x: 16-byte packs where they divide `columns`, else single values. The rows
/// of x then start on whole packs, because the allocator's blocks do.
template <typename F>
void for_pack(const at::Tensor& x, std::int64_t columns, F&& f) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
  if (x.scalar_type() == at::kFloat) return aligned && columns % 4 == 0 ? f(Pack<float, 4>{}) : f(Pack<float, 1>{});
  const bool eight = aligned && columns % 8 == 0;
  if (x.scalar_type() == at::kBFloat16) return eight ? f(Pack<c10::BFloat16, 8>{}) : f(Pack<c10::BFloat16, 1>{});
  TORCH_CHECK(x.scalar_type() == at::kHalf, x.scalar_type(), "; fp32, bf16 and fp16 are supported");
  return eight ? f(Pack<c10::Half, 8>{}) : f(Pack<c10::Half, 1>{});
}

/// Where the work of one operation goes: the tensor's device and that device's current stream.
class Launch {
 public:
  explicit Launch(const at::Tensor& x) : guard_(x.device()), stream_(c10::cuda::getCurrentCUDAStream()) {}
  operator cudaStream_t() const { return stream_; }

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
};

}  // namespace tune::cuda
