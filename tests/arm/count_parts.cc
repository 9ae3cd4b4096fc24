// Computes one part of a token of the reference model, after 128 others, `calls` times: PATH PART CALLS
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ops/operations.h"
#include "path.h"

using namespace trix;

namespace {

constexpr int64_t kD = 128, kHeads = 4, kWidth = 32, kBefore = 128, kSlots = 160, kTiles = 4, kHidden = 128, kV = 65;

std::vector<float> Waves(int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7919 % 101) / 50.0f - 1.0f;
  return x;
}

void Attend(bool int8, int calls) {
  const CacheShape shape{1, 1, kHeads, kHeads, kWidth, kSlots};
  const Turning turning{0.2f, false, 0, 1, nullptr, nullptr};
  const auto qkv = Waves(3 * kD);
  auto keys = Waves(kD * kSlots), values = keys, key_scale = Waves(kHeads * kSlots), value_scale = key_scale;
  std::vector<int8_t> int8_keys(static_cast<size_t>(kD * kSlots), 3), int8_values = int8_keys;
  std::vector<float> out(kD);
  const int32_t position = kBefore;
  for (int i = 0; i < calls; ++i) {
    if (int8) {
      Int8CachedAttention(Pool(), qkv.data(), &position, shape, turning,
                          {int8_keys.data(), key_scale.data(), int8_values.data(), value_scale.data()}, out.data());
    } else {
      CachedAttention(Pool(), qkv.data(), &position, shape, turning, keys.data(), values.data(), out.data());
    }
  }
}

void Normalise(int calls) {
  const auto x = Waves(kD), scale = Waves(kD), taps = Waves(kTaps * kD), inputs = Waves((kTaps - 1) * kD);
  std::vector<float> sum(kD), out(kD), latest((kTaps - 1) * kD);
  const int32_t valid = 1;
  for (int i = 0; i < calls; ++i) {
    NormaliseAndConvolve(Pool(), x.data(), x.data(), 1, 1, {kD, scale.data(), nullptr, 1e-6f}, taps.data(),
                         inputs.data(), &valid, sum.data(), out.data(), latest.data());
  }
}

void Project(bool int8, int calls) {
  const auto x = Waves(kD), scale = Waves(3 * kD);
  const std::vector<int8_t> weights(static_cast<size_t>(PackedInt8Bytes(3 * kD, kD)), 3);
  const std::vector<uint8_t> codes(static_cast<size_t>(PackedBytes(3 * kD, kD)), kZeroByte);
  std::vector<float> y(3 * kD);
  for (int i = 0; i < calls; ++i) {
    if (int8) {
      Int8Matmul(Pool(), x.data(), 1, kD, weights.data(), 3 * kD, scale.data(), nullptr, y.data());
    } else {
      TernaryMatmul(Pool(), x.data(), 1, kD, codes.data(), 3 * kD, scale.data(), nullptr, y.data());
    }
  }
}

void ApplyTile(int calls) {
  const auto x = Waves(kD), up_scale = Waves(kTiles * kHidden), down_scale = Waves(kTiles * kD);
  const std::vector<uint8_t> codes(static_cast<size_t>(kTiles * PackedBytes(kHidden, kD)), kZeroByte);
  std::vector<float> y(kD);
  const int32_t tile = 1;
  const float gate = 1.0f;
  for (int i = 0; i < calls; ++i) {
    RoutedTileFfn(Pool(), x.data(), 1,
                  {kTiles, kD, kHidden, codes.data(), up_scale.data(), codes.data(), down_scale.data(), true}, &tile,
                  &gate, 1, y.data());
  }
}

void DrawToken(int calls) {
  const auto logits = Waves(kV);
  const float uniform = 0.5f, temperature = 0.8f;
  const int32_t top_k = kV;
  int32_t token = 0;
  for (int i = 0; i < calls; ++i) Draw(Pool(), logits.data(), 1, kV, {&uniform, &temperature, &top_k}, &token);
}

}  // namespace

int main(int, char** arguments) {
  if (!ForcePath(arguments[1])) return 1;
  const char* part = arguments[2];
  const int calls = std::atoi(arguments[3]);
  const auto is = [part](const char* name) { return std::strcmp(part, name) == 0; };
  if (is("attention_float32"))
    Attend(false, calls);
  else if (is("attention_int8"))
    Attend(true, calls);
  else if (is("norm"))
    Normalise(calls);
  else if (is("projection_int8"))
    Project(true, calls);
  else if (is("projection_ternary"))
    Project(false, calls);
  else if (is("tile"))
    ApplyTile(calls);
  else if (is("draw"))
    DrawToken(calls);
  else
    return 1;
  return 0;
}
