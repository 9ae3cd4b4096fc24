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

// Memory and arithmetic of one head of keys and values, as float32.
class FloatHead {
 public:
  FloatHead(const Path& path, const CacheShape& shape, const Turning& turning, float* keys, float* values)
      : path_(path), shape_(shape), turning_(turning), keys_(keys), values_(values) {}

  static FloatHead Carve(Carver& carver, FloatHead head) {
    head.weights_ = carver.Take<float>(kQueries * head.shape_.slots);
    head.queries_ = carver.Take<float>(kQueries * head.shape_.width);
    return head;
  }

  float* Turned() const { return queries_; }

  // Adds a token to the cache.
  void Keep(const float* key, const float* value, int64_t slot) const {
    const int64_t width = shape_.width;
    float* own = keys_ + slot / kCacheMultiple * width * kCacheMultiple + slot % kCacheMultiple;
    for (int64_t w = 0; w < width; ++w) own[w * kCacheMultiple] = key[w];
    std::memcpy(values_ + slot * width, value, static_cast<size_t>(width) * sizeof(float));
  }

  // Attention of the `count` queries in Turned(), the first of which sees `length` tokens.
  void Attend(int count, int64_t length, float* out, int64_t stride) const {
    for (int64_t i = 0; i < count * shape_.width; ++i) queries_[i] *= turning_.scale;
    path_.elementwise->attend(queries_, count, keys_, values_, length, shape_.slots, shape_.width, weights_, out,
                              stride);
  }

 private:
  const Path& path_;
  const CacheShape& shape_;
  const Turning& turning_;
  float *keys_, *values_, *weights_ = nullptr, *queries_ = nullptr;
};

// The same as int8.
class Int8Head {
 public:
  Int8Head(const Path& path, const CacheShape& shape, const Turning& turning, const Int8Cache& cache, int64_t head)
      : path_(path),
        shape_(shape),
        turning_(turning),
        columns_(PaddedInt8(shape.width)),
        keys_(cache.keys + head * columns_ * shape.slots),
        values_(cache.values + head * columns_ * shape.slots),
        key_scale_(cache.key_scale + head * shape.slots),
        value_scale_(cache.value_scale + head * shape.slots) {}

  static Int8Head Carve(Carver& carver, Int8Head head) {
    head.queries_ = carver.Take<float>(kQueries * head.shape_.width);
    head.q_ = carver.Take<int8_t>(kQueries * head.columns_);
    head.digits_ = carver.Take<int8_t>(2 * kQueries * head.shape_.slots);
    head.scores_ = carver.Take<float>(kQueries * head.shape_.slots);
    head.acc_ = carver.Take<int32_t>(2 * kQueries * kWideRows);
    return head;
  }

  float* Turned() const { return queries_; }

  void Keep(const float* key, const float* value, int64_t slot) const {
    int32_t sum;
    path_.elementwise->quantise(key, shape_.width, columns_, q_, key_scale_ + slot, &sum);
    for (int64_t w = 0; w < columns_; w += 4) std::memcpy(Four(keys_, columns_, slot, w), q_ + w, 4);
    path_.elementwise->quantise(value, shape_.width, columns_, q_, value_scale_ + slot, &sum);
    for (int64_t w = 0; w < columns_; ++w) Four(values_, shape_.slots, w, slot)[slot % 4] = q_[w];
  }

  void Attend(int count, int64_t length, float* out, int64_t stride) const {
    const int64_t end = RoundUp(length + count - 1, kCacheMultiple);
    Score(count, end);
    float unit[kQueries];
    int32_t sums[2 * kQueries];
    for (int i = 0; i < count; ++i) {
      int8_t* high = digits_ + 2 * i * end;
      unit[i] =
          path_.elementwise->weigh(scores_ + i * end, value_scale_, length + i, end, high, high + end, sums + 2 * i);
    }
    for (int64_t w = 0; w < shape_.width; w += kInt8Rows) {
      Dot(values_ + w * shape_.slots, 1, end, digits_, sums, 2 * count);
      const int64_t width = std::min<int64_t>(kInt8Rows, shape_.width - w);
      for (int i = 0; i < count; ++i) {
        const int32_t* acc = acc_ + 2 * i * kWideRows;
        path_.elementwise->join_digits(acc, acc + kWideRows, unit[i], width, out + i * stride + w);
      }
    }
  }

 private:
  // Four columns of one row of an int8 matrix.
  static int8_t* Four(int8_t* packed, int64_t columns, int64_t row, int64_t column) {
    return packed + row / kInt8Rows * kInt8Rows * columns + column / 4 * 4 * kInt8Rows + row % kInt8Rows * 4;
  }

  // Products of blocks with some rows of int8, to acc_: a panel at a time, as many as a path takes.
  void Dot(const int8_t* block, int blocks, int64_t columns, const int8_t* rows, const int32_t* sums, int count) const {
    for (int t = 0; t < count; t += path_.panel) {
      path_.dot_int8(block, blocks, columns, rows + t * columns, columns, sums + t, std::min(path_.panel, count - t),
                     acc_ + t * kWideRows);
    }
  }

  void Score(int count, int64_t end) const {
    float step[kQueries];
    int32_t sums[kQueries];
    for (int i = 0; i < count; ++i) {
      path_.elementwise->quantise(queries_ + i * shape_.width, shape_.width, columns_, q_ + i * columns_, step + i,
                                  sums + i);
    }
    for (int64_t s = 0; s < end; s += kWideRows) {
      const int64_t slots = std::min<int64_t>(kWideRows, end - s);
      Dot(keys_ + s * columns_, static_cast<int>(slots / kInt8Rows), columns_, q_, sums, count);
      for (int i = 0; i < count; ++i) {
        path_.elementwise->rescale(acc_ + i * kWideRows, step[i], key_scale_ + s, turning_.scale, slots,
                                   scores_ + i * end + s);
      }
    }
  }

  const Path& path_;
  const CacheShape& shape_;
  const Turning& turning_;
  const int64_t columns_;
  int8_t *keys_, *values_;
  float *key_scale_, *value_scale_;
  float *queries_ = nullptr, *scores_ = nullptr;
  int8_t *q_ = nullptr, *digits_ = nullptr;
  int32_t* acc_ = nullptr;
};

// A product of int8 takes a tenth of the time of what attention does for each number that it reads.
constexpr int64_t kCost = 10;

// Runs attention. head_of(path, head) makes the memory of head `head` of the whole batch.
template <typename HeadOf>
void Attend(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
            const Turning& turning, float* out, const HeadOf& head_of) {
  const Path& path = ActivePath();
  int64_t seen = 0;
  for (int64_t b = 0; b < shape.batch; ++b) seen += position[b] + shape.length;
  const int64_t cost = kCost * 2 * seen * shape.length * shape.heads * shape.width;
  ParallelFor(PoolFor(pool, cost), shape.batch * shape.kv_heads, [&](int64_t task) {
    const Tokens tokens{shape, qkv, out, task / shape.kv_heads};
    const int64_t kv_head = task % shape.kv_heads, first = position[tokens.row], width = shape.width;
    Carver sizes(nullptr);
    decltype(head_of(path, task))::Carve(sizes, head_of(path, task));
    thread_local Scratch scratch;
    Carver carver(scratch.Bytes(sizes.used()));
    const auto memory = decltype(head_of(path, task))::Carve(carver, head_of(path, task));
    for (int64_t l = 0; l < shape.length; ++l) {
      Turn(path, turning, tokens.row, first + l, tokens.Key(l, kv_head), width, memory.Turned());
      memory.Keep(memory.Turned(), tokens.Value(l, kv_head), first + l);
    }
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t l = 0; l < shape.length; l += kQueries) {
        const int count = static_cast<int>(std::min<int64_t>(kQueries, shape.length - l));
        for (int i = 0; i < count; ++i) {
          Turn(path, turning, tokens.row, first + l + i, tokens.Query(l + i, head), width, memory.Turned() + i * width);
        }
        memory.Attend(count, first + l + 1, tokens.Out(l, head), shape.heads * width);
      }
    }
  });
}

}  // namespace

void CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                     const Turning& turning, float* keys, float* values, float* out) {
  const int64_t size = shape.width * shape.slots;
  Attend(pool, qkv, position, shape, turning, out, [&](const Path& path, int64_t head) {
    return FloatHead(path, shape, turning, keys + head * size, values + head * size);
  });
}

void Int8CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                         const Turning& turning, const Int8Cache& cache, float* out) {
  Attend(pool, qkv, position, shape, turning, out,
         [&](const Path& path, int64_t head) { return Int8Head(path, shape, turning, cache, head); });
}

}  // namespace trix
