// Multiplies one block of 64 rows with some tokens, `calls` times: PATH TOKENS COLUMNS CALLS
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "path.h"

int main(int, char** arguments) {
  using namespace trix;
  if (!ForcePath(arguments[1])) return 1;
  const int tokens = std::atoi(arguments[2]), columns = std::atoi(arguments[3]), calls = std::atoi(arguments[4]);
  std::vector<uint8_t> block(static_cast<size_t>(16 * columns), kZeroByte);
  std::vector<int8_t> q(static_cast<size_t>(tokens * columns), 1);
  std::vector<int32_t> sums(static_cast<size_t>(tokens), columns), acc(static_cast<size_t>(tokens * kWideRows));
  for (int i = 0; i < calls; ++i) {
    ActivePath().dot_wide(block.data(), columns, q.data(), columns, sums.data(), tokens, acc.data());
  }
  return acc[0];  // 0: the weights are.
}
