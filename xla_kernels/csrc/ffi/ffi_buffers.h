// XLA's buffers, threads and errors for handlers.
#pragma once

#include <exception>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "layout.h"
#include "ops/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace trix {
namespace {

namespace ffi = xla::ffi;
using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using S8 = ffi::Buffer<ffi::S8>;
using U8 = ffi::Buffer<ffi::U8>;

class XlaPool : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool threads) : threads_(threads) {}
  int64_t threads() const override { return threads_.num_threads(); }
  void Schedule(std::function<void()> task) const override { threads_.Schedule(std::move(task)); }

 private:
  mutable ffi::ThreadPool threads_;
};

ffi::Error Invalid(const std::string& what) { return ffi::Error::InvalidArgument("xla_kernels: " + what); }

#define TRIX_CHECK(condition, what) \
  if (!(condition)) return Invalid(what)

// XLA's stack frames cannot pass exceptions on.
template <typename Body>
ffi::Error WithoutExceptions(const Body& body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("xla_kernels: ") + error.what());
  }
}

template <typename Buffer>
int64_t Rank(const Buffer& buffer) {
  return static_cast<int64_t>(buffer.dimensions().size());
}

// The length of an axis, counted from the last axis, which is 0.
template <typename Buffer>
int64_t FromLast(const Buffer& buffer, int64_t axis) {
  return buffer.dimensions()[static_cast<size_t>(Rank(buffer) - 1 - axis)];
}

// The batch axes of a result, and the start of each operand's slice for a batch entry.
class Batch {
 public:
  template <typename Buffer>
  Batch(const Buffer& result, int64_t core_rank) {
    for (int64_t i = 0; i < Rank(result) - core_rank; ++i) {
      lengths_.push_back(result.dimensions()[static_cast<size_t>(i)]);
      count_ *= lengths_.back();
    }
  }

  int64_t count() const { return count_; }

  // False when a leading axis of the operand is neither that of the result nor 1.
  template <typename Buffer>
  bool Fits(const Buffer& operand, int64_t core_rank) const {
    if (Rank(operand) != static_cast<int64_t>(lengths_.size()) + core_rank) return false;
    for (size_t i = 0; i < lengths_.size(); ++i) {
      const int64_t length = operand.dimensions()[i];
      if (length != lengths_[i] && length != 1) return false;
    }
    return true;
  }

  // Data of the operand for a batch entry; its core has the last `core_rank` axes.
  template <typename Buffer>
  auto* Slice(Buffer& operand, int64_t core_rank, int64_t entry) const {
    const auto dims = operand.dimensions();
    int64_t offset = 0, stride = 1;
    for (size_t i = dims.size(); i-- > dims.size() - static_cast<size_t>(core_rank);) stride *= dims[i];
    for (size_t i = lengths_.size(); i-- > 0;) {
      if (dims[i] != 1) offset += entry % lengths_[i] * stride;
      stride *= dims[i];
      entry /= lengths_[i];
    }
    return operand.typed_data() + offset;
  }

 private:
  std::vector<int64_t> lengths_;
  int64_t count_ = 1;
};

// An operand without numbers is one that was left out.
inline const float* OrNull(const float* data, int64_t length) { return length == 0 ? nullptr : data; }

// Weights of `m` x `k`, ternary or int8.
template <typename Buffer>
ffi::Error CheckPacked(const Buffer& packed, int64_t m, int64_t k) {
  constexpr bool kInt8 = std::is_same_v<Buffer, S8>;
  constexpr int64_t kMost = kInt8 ? kMaxInt8Columns : kMaxColumns;
  const int64_t bytes = kInt8 ? PackedInt8Bytes(m, k) : PackedBytes(m, k);
  TRIX_CHECK(k >= 1 && k <= kMost,
             "matrices have 1 to " + std::to_string(kMost) + " columns, not " + std::to_string(k));
  TRIX_CHECK(FromLast(packed, 0) == bytes, "a packed matrix of " + std::to_string(m) + " x " + std::to_string(k) +
                                               " has " + std::to_string(bytes) + " bytes, not " +
                                               std::to_string(FromLast(packed, 0)));
  return ffi::Error::Success();
}

// The arguments for tiles in a handler, in this order: up, its scales, down, its scales.
template <typename Binding>
auto BindTiles(Binding binding) {
  return std::move(binding).template Arg<U8>().template Arg<F32>().template Arg<U8>().template Arg<F32>();
}

// Threads, x, tiles, and the tile and the gate of every token.
inline auto BindRoutedTiles() {
  return BindTiles(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>()).Arg<S32>().Arg<F32>();
}

}  // namespace
}  // namespace trix
