// Working memory of one thread, kept between calls. For new megabytes, page faults would cost more than the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace trix {

class Scratch {
 public:
  // At least `bytes`, aligned to a cache line and not initialised. It invalidates the memory of earlier calls.
  uint8_t* Bytes(size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      memory_.reset(static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{kLine})));
      size_ = bytes;
    }
    return memory_.get();
  }

  static constexpr size_t kLine = 64;

 private:
  struct Free {
    void operator()(uint8_t* memory) const { ::operator delete(memory, std::align_val_t{kLine}); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  size_t size_ = 0;
};

// Hands out aligned pieces of a block. Without a block it only adds up the size that the block needs.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <typename T>
  T* Take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + Scratch::kLine - 1) / Scratch::kLine * Scratch::kLine;
    return piece;
  }

  size_t used() const { return used_; }

 private:
  uintptr_t base_;  // An integer, because C++ forbids adding to a null pointer.
  size_t used_ = 0;
};

}  // namespace trix
