// Attention over a cache of keys and values, for tokens that follow those in the cache.
#include "ops/operations.h"
#include "ops/panels.h"

namespace trix {
namespace {

// Where the parts of a row lie in qkv and in the output.
struct Tokens {
  const CacheShape& shape;
  const float* qkv;
  float* out;
  int64_t row;

  const float* Part(int64_t l, int64_t head) const {
    const int64_t heads = shape.heads + 2 * shape.kv_heads;
    return qkv + ((row * shape.length + l) * heads + head) * shape.width;
  }
  const float* Query(int64_t l, int64_t head) const { return Part(l, head); }
  const float* Key(int64_t l, int64_t kv_head) const { return Part(l, shape.heads + kv_head); }
  const float* Value(int64_t l, int64_t kv_head) const { return Part(l, shape.heads + shape.kv_heads + kv_head); }
  float* Out(int64_t l, int64_t head) const {
    return out + ((row * shape.length + l) * shape.heads + head) * shape.width;
  }
};

constexpr float kHeadEpsilon = 1e-6f;  // As in Flax.

// Normalises and rotates a query or a key, to `turned`.
void Turn(const Path& path, const Turning& turning, int64_t row, int64_t position, const float* x, int64_t width,
          float* turned) {
  if (turning.normalise) {
    path.elementwise->normalise(x, nullptr, width, nullptr, nullptr, kHeadEpsilon, nullptr, turned);
  } else {
    std::memcpy(turned, x, static_cast<size_t>(width) * sizeof(float));
  }
  if (turning.angles == 0) return;
  const int64_t half = width / 2, table = row / turning.rows * turning.angles;
  const int64_t angles = (table + std::min(position, turning.angles - 1)) * half;
  const float *cos = turning.cos + angles, *sin = turning.sin + angles;
  float *first = turned, *second = turned + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = first[i], b = second[i];
    first[i] = a * cos[i] - b * sin[i];
    second[i] = b * cos[i] + a * sin[i];
  }
}

// Working memory of one head.
struct FloatWork {
  float *queries, *weights;

  static FloatWork Carve(Carver& carver, const CacheShape& shape) {
    return {carver.Take<float>(kQueries * shape.width), carver.Take<float>(kQueries * shape.slots)};
  }
};

struct Int8Work {
  float *queries, *scores;
  int8_t *q, *digits;
  int32_t* acc;

  static Int8Work Carve(Carver& carver, const CacheShape& shape) {
    return {carver.Take<float>(kQueries * shape.width), carver.Take<float>(kQueries * shape.slots),
            carver.Take<int8_t>(kQueries * PaddedInt8(shape.width)), carver.Take<int8_t>(2 * kQueries * shape.slots),
            carver.Take<int32_t>(2 * kQueries * kWideRows)};
  }
};

// One head of keys and values as float32.
class FloatHead {
 public:
  FloatHead(const Path& path, const CacheShape& shape, const Turning& turning, float* keys, float* values,
            const FloatWork& work)
      : path_(path), shape_(shape), turning_(turning), keys_(keys), values_(values), work_(work) {}

  // Adds a token to the cache.
  void Keep(const float* key, const float* value, int64_t slot) const {
    const int64_t width = shape_.width;
    float* own = keys_ + slot / kCacheMultiple * width * kCacheMultiple + slot % kCacheMultiple;
    for (int64_t w = 0; w < width; ++w) own[w * kCacheMultiple] = key[w];
    std::memcpy(values_ + slot * width, value, static_cast<size_t>(width) * sizeof(float));
  }

  // Attention of the first `count` queries of the working memory, the first of which sees `length` tokens.
  void Attend(int count, int64_t length, float* out, int64_t stride) const {
    for (int64_t i = 0; i < count * shape_.width; ++i) work_.queries[i] *= turning_.scale;
    path_.elementwise->attend(work_.queries, count, keys_, values_, length, shape_.slots, shape_.width, work_.weights,
                              out, stride);
  }

 private:
  const Path& path_;
  const CacheShape& shape_;
  const Turning& turning_;
  float *keys_, *values_;
  const FloatWork work_;
};

// The same as int8.
class Int8Head {
 public:
  Int8Head(const Path& path, const CacheShape& shape, const Turning& turning, const Int8Cache& cache, int64_t head,
           const Int8Work& work)
      : path_(path),
        shape_(shape),
        turning_(turning),
        columns_(PaddedInt8(shape.width)),
        keys_(cache.keys + head * columns_ * shape.slots),
        values_(cache.values + head * columns_ * shape.slots),
        key_scale_(cache.key_scale + head * shape.slots),
        value_scale_(cache.value_scale + head * shape.slots),
        work_(work) {}

  void Keep(const float* key, const float* value, int64_t slot) const {
    int32_t sum;
    path_.elementwise->quantise(key, shape_.width, columns_, work_.q, key_scale_ + slot, &sum);
    int8_t* own = Four(keys_, columns_, slot, 0);
    for (int64_t w = 0; w < columns_; w += 4) std::memcpy(own + w * kInt8Rows, work_.q + w, 4);
    path_.elementwise->quantise(value, shape_.width, columns_, work_.q, value_scale_ + slot, &sum);
    for (int64_t w = 0; w < columns_; w += kInt8Rows) {
      own = Four(values_, shape_.slots, w, slot) + slot % 4;
      for (int64_t r = 0; r < kInt8Rows; ++r) own[r * 4] = work_.q[w + r];
    }
  }

  void Attend(int count, int64_t length, float* out, int64_t stride) const {
    const int64_t end = RoundUp(length + count - 1, kCacheMultiple);
    Score(count, end);
    float unit[kQueries];
    int32_t sums[2 * kQueries];
    for (int i = 0; i < count; ++i) {
      int8_t* high = work_.digits + 2 * i * end;
      unit[i] = path_.elementwise->weigh(work_.scores + i * end, value_scale_, length + i, end, high, high + end,
                                         sums + 2 * i);
    }
    for (int64_t w = 0; w < shape_.width; w += kInt8Rows) {
      Dot(values_ + w * shape_.slots, 1, end, work_.digits, sums, 2 * count);
      const int64_t width = std::min<int64_t>(kInt8Rows, shape_.width - w);
      for (int i = 0; i < count; ++i) {
        const int32_t* acc = work_.acc + 2 * i * kWideRows;
        path_.elementwise->join_digits(acc, acc + kWideRows, unit[i], width, out + i * stride + w);
      }
    }
  }

 private:
  // Four columns of one row of an int8 matrix.
  static int8_t* Four(int8_t* packed, int64_t columns, int64_t row, int64_t column) {
    return packed + row / kInt8Rows * kInt8Rows * columns + column / 4 * 4 * kInt8Rows + row % kInt8Rows * 4;
  }

  // Products of blocks with some rows of int8, to work_.acc: a panel at a time, as many as a path takes.
  void Dot(const int8_t* block, int blocks, int64_t columns, const int8_t* rows, const int32_t* sums, int count) const {
    for (int t = 0; t < count; t += path_.panel) {
      path_.dot_int8(block, blocks, columns, rows + t * columns, columns, sums + t, std::min(path_.panel, count - t),
                     work_.acc + t * kWideRows);
    }
  }

  void Score(int count, int64_t end) const {
    float step[kQueries];
    int32_t sums[kQueries];
    for (int i = 0; i < count; ++i) {
      path_.elementwise->quantise(work_.queries + i * shape_.width, shape_.width, columns_, work_.q + i * columns_,
                                  step + i, sums + i);
    }
    for (int64_t s = 0; s < end; s += kWideRows) {
      const int64_t slots = std::min<int64_t>(kWideRows, end - s);
      Dot(keys_ + s * columns_, static_cast<int>(slots / kInt8Rows), columns_, work_.q, sums, count);
      for (int i = 0; i < count; ++i) {
        path_.elementwise->rescale(work_.acc + i * kWideRows, step[i], key_scale_ + s, turning_.scale, slots,
                                   work_.scores + i * end + s);
      }
    }
  }

  const Path& path_;
  const CacheShape& shape_;
  const Turning& turning_;
  const int64_t columns_;
  int8_t *keys_, *values_;
  float *key_scale_, *value_scale_;
  const Int8Work work_;
};

// For each number of the cache that a query reads.
constexpr double kReadNs = 0.12;

// Runs attention. head_of(path, head, work) makes head `head` of the whole batch.
template <typename Work, typename HeadOf>
void Attend(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
            const Turning& turning, float* out, const HeadOf& head_of) {
  const Path& path = ActivePath();
  int64_t seen = 0;
  for (int64_t b = 0; b < shape.batch; ++b) seen += position[b] + shape.length;
  const double nanoseconds = kReadNs * static_cast<double>(2 * seen * shape.length * shape.heads * shape.width);
  Carver sizes(nullptr);
  Work::Carve(sizes, shape);
  ParallelFor(PoolFor(pool, nanoseconds), shape.batch * shape.kv_heads, [&](int64_t task) {
    const Tokens tokens{shape, qkv, out, task / shape.kv_heads};
    const int64_t kv_head = task % shape.kv_heads, first = position[tokens.row], width = shape.width;
    thread_local Scratch scratch;
    Carver carver(scratch.Bytes(sizes.used()));
    const Work work = Work::Carve(carver, shape);
    const auto kept = head_of(path, task, work);
    for (int64_t l = 0; l < shape.length; ++l) {
      Turn(path, turning, tokens.row, first + l, tokens.Key(l, kv_head), width, work.queries);
      kept.Keep(work.queries, tokens.Value(l, kv_head), first + l);
    }
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t l = 0; l < shape.length; l += kQueries) {
        const int count = static_cast<int>(std::min<int64_t>(kQueries, shape.length - l));
        for (int i = 0; i < count; ++i) {
          Turn(path, turning, tokens.row, first + l + i, tokens.Query(l + i, head), width, work.queries + i * width);
        }
        kept.Attend(count, first + l + 1, tokens.Out(l, head), shape.heads * width);
      }
    }
  });
}

}  // namespace

void CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                     const Turning& turning, float* keys, float* values, float* out) {
  const int64_t size = shape.width * shape.slots;
  Attend<FloatWork>(pool, qkv, position, shape, turning, out, [&](const Path& path, int64_t head, const auto& work) {
    return FloatHead(path, shape, turning, keys + head * size, values + head * size, work);
  });
}

void Int8CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                         const Turning& turning, const Int8Cache& cache, float* out) {
  Attend<Int8Work>(pool, qkv, position, shape, turning, out, [&](const Path& path, int64_t head, const auto& work) {
    return Int8Head(path, shape, turning, cache, head, work);
  });
}

}  // namespace trix
