// Every path that this CPU can run against plain integer arithmetic, without Python: for the sanitizers and for
// emulated CPUs. Prints one line a path; exits with 1 at the first difference.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ops/operations.h"
#include "path.h"

namespace {

using namespace trix;

// A buffer that ends exactly where its last element does, at a chosen misalignment, so that a read outside is seen.
template <typename T>
class Exact {
 public:
  Exact(int64_t count, int64_t misalignment)
      : memory_(
            std::make_unique<uint8_t[]>(static_cast<size_t>(count) * sizeof(T) + static_cast<size_t>(misalignment))),
        data_(reinterpret_cast<T*>(memory_.get() + misalignment)) {}
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  T* data_;
};

// Written from the description of the layout, one element at a time.
void Pack(const std::vector<int8_t>& codes, int64_t m, int64_t k, uint8_t* packed) {
  const int64_t rows = PaddedRows(m), columns = PaddedColumns(k), wide = rows / kWideRows * kWideRows,
                narrow = rows / kNarrowRows * kNarrowRows;
  for (int64_t i = 0; i < PackedBytes(m, k); ++i) packed[i] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const int code = r < m && c < k ? codes[static_cast<size_t>(r * k + c)] : 0;
      const int64_t block = r < wide ? kWideRows : r < narrow ? kNarrowRows : kThinRows;
      const int64_t first = r / block * block;
      const int64_t plane = (r - first) / (block / 4), lane = (r - first) % (block / 4);
      const int stored = plane == 3 ? code & 3 : code + 1;
      packed[first / 4 * columns + c / 4 * block + 4 * lane + c % 4] |= static_cast<uint8_t>(stored << (2 * plane));
    }
  }
}

void PackInt8(const std::vector<int8_t>& weights, int64_t m, int64_t k, int8_t* packed) {
  const int64_t rows = PaddedInt8(m), columns = PaddedInt8(k);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      packed[r / 16 * 16 * columns + c / 4 * 64 + r % 16 * 4 + c % 4] =
          r < m && c < k ? weights[static_cast<size_t>(r * k + c)] : int8_t{0};
    }
  }
}

enum class Fill { kRandom, kExtreme };

bool Check(const char* what, const char* path, int64_t m, int64_t k, int64_t n, int64_t where, int64_t got,
           int64_t want) {
  if (got == want) return true;
  std::printf("%s: %s of %ld x %ld and %ld tokens: element %ld is %ld, not %ld\n", path, what, static_cast<long>(m),
              static_cast<long>(k), static_cast<long>(n), static_cast<long>(where), static_cast<long>(got),
              static_cast<long>(want));
  return false;
}

bool Accumulators(const char* path, int64_t m, int64_t k, int64_t n, Fill fill, int64_t misalignment,
                  std::mt19937& random) {
  std::vector<int8_t> codes(static_cast<size_t>(m * k));
  Exact<int8_t> q(n * k, misalignment);
  const auto draw = [&](int low, int high) {
    return static_cast<int8_t>(low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1)));
  };
  const int8_t sign = random() % 2 ? 1 : -1;
  for (auto& code : codes) code = fill == Fill::kRandom ? draw(-1, 1) : sign;
  for (int64_t i = 0; i < n * k; ++i) q[i] = fill == Fill::kRandom ? draw(-127, 127) : (random() % 8 ? 127 : -127);
  Exact<uint8_t> packed(PackedBytes(m, k), misalignment);
  Pack(codes, m, k, packed.data());
  Exact<int32_t> acc(n * m, 0);
  Accumulate(Pool(), q.data(), n, k, packed.data(), m, acc.data());
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t r = 0; r < m; ++r) {
      int64_t want = 0;
      for (int64_t c = 0; c < k; ++c) want += int64_t{codes[static_cast<size_t>(r * k + c)]} * q[t * k + c];
      if (!Check("accumulator", path, m, k, n, t * m + r, acc[t * m + r], want)) return false;
    }
  }
  return true;
}

bool Tallies(const char* path, int64_t tiles, int64_t d, std::mt19937& random) {
  std::vector<int8_t> tally(static_cast<size_t>(tiles * d));
  Exact<int8_t> packed(PackedInt8Bytes(tiles, d), 1);
  std::vector<float> x(static_cast<size_t>(d)), scale(static_cast<size_t>(tiles), 1.0f),
      offset(static_cast<size_t>(tiles), 0.0f), score(static_cast<size_t>(tiles));
  std::vector<int32_t> tile(static_cast<size_t>(tiles));
  for (auto& vote : tally) vote = static_cast<int8_t>(random() % 255 - 127);
  PackInt8(tally, tiles, d, packed.data());
  for (auto& value : x) value = static_cast<float>(static_cast<int>(random() % 255) - 127);
  x[0] = 127.0f;  // So that the quantised activations are the activations.
  Route(Pool(), x.data(), 1, {nullptr, packed.data(), tiles, d, scale.data(), offset.data()}, nullptr, tiles, {},
        tile.data(), score.data(), nullptr);
  for (int64_t i = 0; i < tiles; ++i) {
    int64_t want = 0;
    const int64_t t = tile[static_cast<size_t>(i)];
    for (int64_t c = 0; c < d; ++c)
      want += int64_t{tally[static_cast<size_t>(t * d + c)]} * static_cast<int64_t>(x[static_cast<size_t>(c)]);
    // Exact in float32 below 2^24, which random signs stay under here.
    if (!Check("score", path, tiles, d, 1, i, static_cast<int64_t>(score[static_cast<size_t>(i)]), want)) return false;
    if (i > 0 && score[static_cast<size_t>(i)] > score[static_cast<size_t>(i - 1)]) {
      return Check("order", path, tiles, d, 1, i, 1, 0);
    }
  }
  return true;
}

// Lookups through an index: the tiles by brute force, over the candidates of the best clusters.
bool Lookups(const char* path, const Pool& pool, int64_t clusters, int64_t members, int64_t d, int64_t n,
             int64_t probes, bool ternary, std::mt19937& random) {
  const auto draw = [&] { return static_cast<int8_t>(ternary ? random() % 3 - 1 : random() % 255 - 127); };
  std::vector<int8_t> keys(static_cast<size_t>(clusters * members * d)),
      cluster_keys(static_cast<size_t>(clusters * d));
  for (auto& key : keys) key = draw();
  for (auto& key : cluster_keys) key = draw();
  // Packed cluster by cluster, each at an offset of its own.
  const auto pack = [&](const std::vector<int8_t>& from, int64_t count, int64_t rows, Exact<uint8_t>& packed,
                        Exact<int8_t>& tally) {
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<int8_t> matrix(from.begin() + i * rows * d, from.begin() + (i + 1) * rows * d);
      if (ternary) Pack(matrix, rows, d, packed.data() + i * PackedBytes(rows, d));
      if (!ternary) PackInt8(matrix, rows, d, tally.data() + i * PackedInt8Bytes(rows, d));
    }
  };
  Exact<uint8_t> packed(clusters * PackedBytes(members, d), 0), packed_clusters(PackedBytes(clusters, d), 0);
  Exact<int8_t> tally(clusters * PackedInt8Bytes(members, d), 0), tally_clusters(PackedInt8Bytes(clusters, d), 0);
  pack(keys, clusters, members, packed, tally);
  pack(cluster_keys, 1, clusters, packed_clusters, tally_clusters);
  std::vector<int32_t> member(static_cast<size_t>(clusters * members));
  for (size_t i = 0; i < member.size(); ++i) member[i] = static_cast<int32_t>(member.size() - 1 - i);
  const std::vector<float> ones(member.size(), 1.0f), zeros(member.size(), 0.0f);
  std::vector<float> x(static_cast<size_t>(n * d));
  for (int64_t i = 0; i < n * d; ++i)
    x[static_cast<size_t>(i)] = i % d ? static_cast<float>(static_cast<int>(random() % 255) - 127) : 127.0f;
  const Signatures tiles{
      ternary ? packed.data() : nullptr, ternary ? nullptr : tally.data(), members, d, ones.data(), zeros.data()};
  const Index index{{ternary ? packed_clusters.data() : nullptr, ternary ? nullptr : tally_clusters.data(), clusters, d,
                     ones.data(), zeros.data()},
                    member.data(),
                    probes};
  std::vector<int32_t> tile(static_cast<size_t>(n));
  Route(pool, x.data(), n, tiles, &index, 1, {}, tile.data(), nullptr, nullptr);
  for (int64_t t = 0; t < n; ++t) {
    const auto dot = [&](const std::vector<int8_t>& key, int64_t row) {
      int64_t sum = 0;
      for (int64_t c = 0; c < d; ++c)
        sum += int64_t{key[static_cast<size_t>(row * d + c)]} * static_cast<int64_t>(x[static_cast<size_t>(t * d + c)]);
      return sum;
    };
    std::vector<int64_t> order(static_cast<size_t>(clusters));
    for (size_t c = 0; c < order.size(); ++c) order[c] = static_cast<int64_t>(c);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return dot(cluster_keys, a) > dot(cluster_keys, b); });
    std::sort(order.begin(), order.begin() + probes);
    int64_t best = -1;
    for (int64_t p = 0; p < probes; ++p) {
      for (int64_t i = 0; i < members; ++i) {
        const int64_t place = order[static_cast<size_t>(p)] * members + i;
        if (best < 0 || dot(keys, place) > dot(keys, best)) best = place;
      }
    }
    if (!Check("looked-up tile", path, clusters * members, d, n, t, tile[static_cast<size_t>(t)],
               member[static_cast<size_t>(best)]))
      return false;
  }
  return true;
}

bool Int8Products(const char* path, int64_t m, int64_t k, int64_t n, Fill fill, std::mt19937& random) {
  std::vector<int8_t> weights(static_cast<size_t>(m * k));
  for (auto& w : weights) w = fill == Fill::kRandom ? static_cast<int8_t>(random() % 256) : int8_t{-128};
  Exact<int8_t> packed(PackedInt8Bytes(m, k), 1);
  PackInt8(weights, m, k, packed.data());
  Exact<float> x(n * k, 4);
  std::vector<float> scale(static_cast<size_t>(m), 1.0f), y(static_cast<size_t>(n * m));
  // The first of a row is 127, so that the quantised activations are the activations.
  for (int64_t i = 0; i < n * k; ++i) {
    x[i] = i % k == 0 || fill == Fill::kExtreme ? 127.0f : static_cast<float>(static_cast<int>(random() % 255) - 127);
  }
  Int8Matmul(Pool(), x.data(), n, k, packed.data(), m, scale.data(), nullptr, y.data());
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t r = 0; r < m; ++r) {
      int64_t acc = 0;
      for (int64_t c = 0; c < k; ++c)
        acc += int64_t{weights[static_cast<size_t>(r * k + c)]} * static_cast<int64_t>(x[t * k + c]);
      const float want = static_cast<float>(static_cast<int32_t>(acc)) * (127.0f * (1.0f / 127.0f));
      if (y[static_cast<size_t>(t * m + r)] != want) {
        return Check("int8 product", path, m, k, n, t * m + r, static_cast<int64_t>(y[static_cast<size_t>(t * m + r)]),
                     acc);
      }
    }
  }
  return true;
}

// The bits of attention over both kinds of caches: tokens one at a time and then some at once, in a cache that holds
// NaN where nothing was written. Two heads of queries share one of keys and values.
std::vector<float> Attention(const Pool& pool, int64_t batch, int64_t kv_heads, int64_t width, int64_t slots) {
  std::mt19937 random(3);
  const int64_t together = slots / 3, alone = slots - together, heads = 2 * kv_heads;
  const int64_t cached = batch * kv_heads * slots, bytes = batch * kv_heads * PackedInt8Bytes(slots, width);
  Exact<float> keys(cached * width, 4), values(cached * width, 4), key_scale(cached, 4), value_scale(cached, 4);
  Exact<float> cos(10 * (width / 2), 4), sin(10 * (width / 2), 4);
  Exact<int8_t> int8_keys(bytes, 1), int8_values(bytes, 1);
  for (int64_t i = 0; i < cached * width; ++i) keys[i] = values[i] = __builtin_nanf("");
  for (int64_t i = 0; i < cached; ++i) key_scale[i] = value_scale[i] = __builtin_nanf("");
  for (int64_t i = 0; i < bytes; ++i) int8_keys[i] = int8_values[i] = -128;
  for (int64_t i = 0; i < 10 * (width / 2); ++i) {
    cos[i] = static_cast<float>(i % 7) / 7.0f;
    sin[i] = static_cast<float>(i % 5) / 5.0f;
  }
  std::vector<float> result;
  for (int64_t first = 0; first < slots;) {
    const int64_t length = first < alone ? 1 : together, parts = batch * length * (heads + 2 * kv_heads) * width;
    Exact<float> qkv(parts, 4), out(batch * length * heads * width, 4);
    for (int64_t i = 0; i < parts; ++i) qkv[i] = static_cast<float>(random()) / 1e9f - 2.0f;
    std::vector<int32_t> position(static_cast<size_t>(batch), static_cast<int32_t>(first));
    const CacheShape shape{batch, length, heads, kv_heads, width, slots};
    for (bool turn : {false, true}) {
      const Turning turning{0.25f, turn, turn ? 10 : 0, batch, cos.data(), sin.data()};
      CachedAttention(pool, qkv.data(), position.data(), shape, turning, keys.data(), values.data(), out.data());
      result.insert(result.end(), out.data(), out.data() + batch * length * heads * width);
      Int8CachedAttention(pool, qkv.data(), position.data(), shape, turning,
                          {int8_keys.data(), key_scale.data(), int8_values.data(), value_scale.data()}, out.data());
      result.insert(result.end(), out.data(), out.data() + batch * length * heads * width);
    }
    first += length;
  }
  return result;
}

// The bits of residual sums, normalisation and convolution, of both kinds.
std::vector<float> Normalisations(const Pool& pool, int64_t batch, int64_t length, int64_t d) {
  std::mt19937 random(5);
  const auto uniform = [&] { return static_cast<float>(random()) / 4294967296.0f - 0.5f; };
  const int64_t n = batch * length;
  Exact<float> x(n * d, 4), y(n * d, 4), scale(d, 4), bias(d, 4), taps(kTaps * d, 4),
      inputs(batch * (kTaps - 1) * d, 4), latest(batch * (kTaps - 1) * d, 4), sum(n * d, 4), out(n * d, 4);
  std::vector<int32_t> valid(static_cast<size_t>(batch), static_cast<int32_t>(length / 2));
  for (int64_t i = 0; i < n * d; ++i) {
    x[i] = uniform();
    y[i] = uniform();
  }
  for (int64_t i = 0; i < d; ++i) scale[i] = bias[i] = uniform();
  for (int64_t i = 0; i < kTaps * d; ++i) taps[i] = uniform();
  for (int64_t i = 0; i < batch * (kTaps - 1) * d; ++i) inputs[i] = uniform();
  std::vector<float> result;
  const auto keep = [&] {
    result.insert(result.end(), sum.data(), sum.data() + n * d);
    result.insert(result.end(), out.data(), out.data() + n * d);
  };
  for (const float* added : {static_cast<const float*>(nullptr), static_cast<const float*>(y.data())}) {
    for (const float* shift : {static_cast<const float*>(nullptr), static_cast<const float*>(bias.data())}) {
      const Normalisation how{d, scale.data(), shift, 1e-5f};
      Normalise(pool, x.data(), added, n, how, sum.data(), out.data());
      keep();
      NormaliseAndConvolve(pool, x.data(), added, batch, length, how, taps.data(), inputs.data(), valid.data(),
                           sum.data(), out.data(), latest.data());
      keep();
      result.insert(result.end(), latest.data(), latest.data() + batch * (kTaps - 1) * d);
    }
  }
  return result;
}

// One function on every path, bit for bit: odd sizes, one tile with all tokens, empty tiles, several tiles a token.
std::vector<float> Ffn(const Pool& pool, int64_t n, int64_t d, int64_t h, int64_t tiles, int64_t top_k) {
  std::mt19937 random(7);
  const auto uniform = [&] { return static_cast<float>(random()) / 4294967296.0f - 0.5f; };
  std::vector<int8_t> codes(static_cast<size_t>(h * d));
  Exact<uint8_t> up(tiles * PackedBytes(h, d), 1), down(tiles * PackedBytes(d, h), 1);
  for (int64_t t = 0; t < tiles; ++t) {
    for (auto& code : codes) code = static_cast<int8_t>(static_cast<int>(random() % 3) - 1);
    Pack(codes, h, d, up.data() + t * PackedBytes(h, d));
    Pack(codes, d, h, down.data() + t * PackedBytes(d, h));
  }
  Exact<float> x(n * d, 4), up_scale(tiles * h, 4), down_scale(tiles * d, 4), gate(n * top_k, 4);
  Exact<int32_t> tile(n * top_k, 4);
  for (int64_t i = 0; i < n * d; ++i) x[i] = uniform();
  for (int64_t i = 0; i < tiles * h; ++i) up_scale[i] = uniform();
  for (int64_t i = 0; i < tiles * d; ++i) down_scale[i] = uniform();
  for (int64_t i = 0; i < n * top_k; ++i) gate[i] = uniform();
  for (int64_t i = 0; i < n * top_k; ++i)
    tile[i] = static_cast<int32_t>(i % 3 ? 0 : random() % static_cast<unsigned>(tiles));
  std::vector<float> y(static_cast<size_t>(n * d));
  RoutedTileFfn(pool, x.data(), n, {tiles, d, h, up.data(), up_scale.data(), down.data(), down_scale.data(), true},
                tile.data(), gate.data(), top_k, y.data());
  return y;
}

const std::vector<std::vector<int64_t>> ffn_shapes = {
    {0, 16, 16, 1, 1},    {0, 16, 4, 3, 2},   {1, 128, 512, 1, 1}, {37, 17, 33, 5, 1},  {100, 64, 16, 4, 3},
    {2, 128, 4, 128, 32}, {35, 210, 1, 9, 5}, {3, 67, 7, 11, 4},   {40, 256, 12, 6, 2}, {5, 64, 63, 3, 2}};
const std::vector<std::vector<int64_t>> attention_shapes = {{1, 2, 32, 16}, {2, 3, 20, 96}, {1, 1, 1, 144}};
// Tokens of rows with all temperatures, as floats.
std::vector<float> Draws(const Pool& pool, int64_t batch, int64_t vocabulary) {
  std::mt19937 random(7);
  Exact<float> logits(batch * vocabulary, 4), uniform(batch, 4), temperature(batch, 4);
  Exact<int32_t> top_k(batch, 4), token(batch, 4);
  for (int64_t i = 0; i < batch * vocabulary; ++i) logits[i] = static_cast<float>(random() % 1000) / 100.0f;
  for (int64_t i = 0; i < batch; ++i) {
    uniform[i] = static_cast<float>(random() % 4096) / 4096.0f;
    temperature[i] = static_cast<float>(i % 4) / 2.0f;
    top_k[i] = static_cast<int32_t>(i % 3 == 0 ? vocabulary : 1 + random() % static_cast<unsigned>(vocabulary));
  }
  Draw(pool, logits.data(), batch, vocabulary, {uniform.data(), temperature.data(), top_k.data()}, token.data());
  return std::vector<float>(token.data(), token.data() + batch);
}

const std::vector<std::vector<int64_t>> norm_shapes = {{1, 1, 128}, {3, 5, 17}, {2, 4, 1}, {0, 2, 16}};

// The bits of every operation on floats, with its name.
std::vector<std::pair<const char*, std::vector<float>>> Floats() {
  std::vector<std::pair<const char*, std::vector<float>>> all;
  for (const auto& s : ffn_shapes) all.emplace_back("feed-forward layer", Ffn(Pool(), s[0], s[1], s[2], s[3], s[4]));
  for (const auto& s : attention_shapes) all.emplace_back("attention", Attention(Pool(), s[0], s[1], s[2], s[3]));
  for (const auto& s : norm_shapes) all.emplace_back("normalisation", Normalisations(Pool(), s[0], s[1], s[2]));
  for (int64_t vocabulary : {1, 16, 65, 1000}) all.emplace_back("draw", Draws(Pool(), 50, vocabulary));
  return all;
}

bool Run(const char* path, const std::vector<std::pair<const char*, std::vector<float>>>& portable) {
  std::mt19937 random(1);
  for (int64_t m : {1, 4, 15, 16, 17, 30, 63, 64, 65, 112, 130}) {
    for (int64_t k : {1, 4, 15, 16, 17, 48, 100, 260, 530}) {
      for (int64_t n : {0, 1, 2, 3, 5, 6, 7, 8, 9, 33, 70}) {
        if (!Accumulators(path, m, k, n, Fill::kRandom, (m + k + n) % 5, random)) return false;
      }
      if (!Accumulators(path, m, k, 6, Fill::kExtreme, 1, random)) return false;
    }
  }
  if (!Accumulators(path, 65, kMaxColumns, 3, Fill::kExtreme, 0, random)) return false;
  for (int64_t tiles : {1, 3, 64}) {
    for (int64_t d : {1, 16, 63, 65, 200}) {
      if (!Tallies(path, tiles, d, random)) return false;
    }
  }
  for (int64_t clusters : {1, 7}) {
    for (int64_t members : {1, 5, 70}) {
      for (int64_t n : {0, 1, 40}) {
        for (bool ternary : {false, true}) {
          if (!Lookups(path, Pool(), clusters, members, 65, n, (clusters + 1) / 2, ternary, random)) return false;
        }
      }
    }
  }
  for (int64_t m : {1, 15, 16, 17, 64, 65, 130}) {
    for (int64_t k : {1, 4, 17, 63, 260}) {
      for (int64_t n : {0, 1, 3, 6, 7, 33}) {
        if (!Int8Products(path, m, k, n, Fill::kRandom, random)) return false;
      }
    }
  }
  if (!Int8Products(path, 17, kMaxInt8Columns, 2, Fill::kExtreme, random)) return false;
  const auto floats = Floats();
  for (size_t i = 0; i < floats.size(); ++i) {
    const auto& [name, values] = floats[i];
    for (size_t j = 0; j < values.size(); ++j) {
      if (values[j] != portable[i].second[j]) return Check(name, path, 0, 0, 0, static_cast<int64_t>(j), 1, 0);
    }
  }
  std::printf("%s: the same integers\n", path);
  return true;
}

// A thread for every task that is scheduled.
class Threads : public Pool {
 public:
  ~Threads() override {
    for (auto& thread : threads_) thread.join();
  }
  int64_t threads() const override { return 3; }
  void Schedule(std::function<void()> task) const override { threads_.emplace_back(std::move(task)); }

 private:
  mutable std::vector<std::thread> threads_;
};

// Large enough to be shared out: the same bits as on one thread, every task once, and errors reach the caller.
bool RunThreads() {
  ForcePath(nullptr);
  const Threads threads;
  const int64_t n = 1500, k = 200, m = 70;  // Quantised in two chunks.
  Exact<int8_t> q(n * k, 0);
  Exact<uint8_t> packed(PackedBytes(m, k), 0);
  for (int64_t i = 0; i < n * k; ++i) q[i] = static_cast<int8_t>(i % 255 - 127);
  Pack(std::vector<int8_t>(static_cast<size_t>(m * k), 1), m, k, packed.data());
  std::vector<int32_t> alone(static_cast<size_t>(n * m)), together(alone.size());
  Accumulate(Pool(), q.data(), n, k, packed.data(), m, alone.data());
  Accumulate(threads, q.data(), n, k, packed.data(), m, together.data());
  if (alone != together || Ffn(threads, 700, 64, 128, 5, 2) != Ffn(Pool(), 700, 64, 128, 5, 2) ||
      Ffn(threads, 700, 64, 16, 20, 8) != Ffn(Pool(), 700, 64, 16, 20, 8) ||
      Attention(threads, 20, 8, 64, 240) != Attention(Pool(), 20, 8, 64, 240) ||
      Normalisations(threads, 20, 70, 128) != Normalisations(Pool(), 20, 70, 128) ||
      Draws(threads, 300, 500) != Draws(Pool(), 300, 500)) {
    std::printf("threads: other results than alone\n");
    return false;
  }
  std::mt19937 random(1);
  if (!Lookups("threads", threads, 16, 16, 64, 4000, 3, false, random)) return false;
  std::vector<std::atomic<int>> runs(1000);
  int caught = 0;
  try {
    ParallelFor(threads, 1000, [&](int64_t i) {
      ++runs[static_cast<size_t>(i)];
      if (i == 500) throw std::runtime_error("on purpose");
    });
  } catch (const std::runtime_error&) {
    ++caught;
  }
  for (const auto& count : runs) {
    if (count != 1) return Check("runs of a task", "threads", 0, 0, 0, 0, count, 1);
  }
  if (caught != 1) return Check("errors", "threads", 0, 0, 0, 0, caught, 1);
  std::printf("threads: the same bits\n");
  return true;
}

}  // namespace

int main() {
  ForcePath("portable");
  const auto portable = Floats();
  for (int i = 0; i < kPathCount; ++i) {
    if (!ForcePath(kPaths[i]->name)) {
      std::printf("%s: this CPU lacks it\n", kPaths[i]->name);
      continue;
    }
    if (!Run(kPaths[i]->name, portable)) return 1;
  }
  return RunThreads() ? 0 : 1;
}
