// Times matrix products of a ggml weight type on one machine with `python -m xla_kernels.benchmark`: TQ2_0 of ggml and
// IQ2_BN_R4 of ik_llama.cpp, the fastest ternary products on CPUs that we found.
//
//   gcc -O2 -DGGML -I ggml/include benchmarks/ggml_matmul.c LIBRARIES -lstdc++ -lm -lpthread -ldl
//   gcc -O2 -I ik_llama.cpp/ggml/include benchmarks/ggml_matmul.c LIBRARIES -lstdc++ -lm -lpthread -ldl
//   taskset -c 0 ./a.out TYPE_NUMBER K M N THREADS COPIES      (35 is TQ2_0, 335 is IQ2_BN_R4)
//
// LIBRARIES are the static ones of a build with CMAKE_BUILD_TYPE=Release, GGML_NATIVE=ON and GGML_OPENMP=OFF.
//
// The time is that of a graph of many products divided by their number, so that it has the quantisation of the
// activations and no overhead of a call; median over graphs. With several COPIES of the weights each product takes the
// next one.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml.h"
#ifdef GGML
#include "ggml-cpu.h"
#define QUANTIZE(type, from, to, rows, columns) ggml_quantize_chunk(type, from, to, 0, rows, columns, NULL)
#else
#define QUANTIZE(type, from, to, rows, columns) ggml_quantize_chunk(type, from, to, 0, rows, columns, NULL, NULL)
#endif

#define MAX_RUNS 64

static double microseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int count, char** values) {
  if (count != 7) {
    fprintf(stderr, "usage: %s TYPE_NUMBER K M N THREADS COPIES\n", values[0]);
    return 2;
  }
  const enum ggml_type type = (enum ggml_type)atoi(values[1]);
  const int64_t k = atoi(values[2]), m = atoi(values[3]), n = atoi(values[4]);
  const int threads = atoi(values[5]), copies = atoi(values[6]);
  const double work = 2.0 * m * k * n;
  const int products = copies > 1 ? copies : work < 4e8 ? 16 : 1;

  const size_t bytes = ggml_row_size(type, k) * m;
  const size_t memory = copies * (bytes + 1024) + products * (m * n * 4 + 2048) + k * n * 4 + ((size_t)256 << 20);
  struct ggml_context* context = ggml_init((struct ggml_init_params){memory, NULL, false});
  float* codes = malloc(sizeof(float) * m * k);
  for (int64_t i = 0; i < m * k; ++i) codes[i] = (float)(rand() % 3 - 1);
  struct ggml_tensor* x = ggml_new_tensor_2d(context, GGML_TYPE_F32, k, n);
  for (int64_t i = 0; i < k * n; ++i) ((float*)x->data)[i] = rand() / (float)RAND_MAX - 0.5f;
  struct ggml_tensor** weights = malloc(sizeof(*weights) * copies);
  for (int c = 0; c < copies; ++c) {
    weights[c] = ggml_new_tensor_2d(context, type, k, m);
    if (c == 0) {
      QUANTIZE(type, codes, weights[c]->data, m, k);
    } else {
      memcpy(weights[c]->data, weights[0]->data, bytes);
    }
  }
  struct ggml_cgraph* graph = ggml_new_graph_custom(context, products + 16, false);
  for (int i = 0; i < products; ++i) ggml_build_forward_expand(graph, ggml_mul_mat(context, weights[i % copies], x));

  double times[MAX_RUNS];
  int runs = 0;
  ggml_graph_compute_with_ctx(context, graph, threads);
  for (const double begin = microseconds(); runs < MAX_RUNS && (runs < 5 || microseconds() - begin < 1e6); ++runs) {
    const double start = microseconds();
    ggml_graph_compute_with_ctx(context, graph, threads);
    times[runs] = (microseconds() - start) / products;
  }
  qsort(times, runs, sizeof(double), ascending);
  const double median = times[runs / 2];
  printf("%s m %ld k %ld n %ld threads %d %s: %.3f us, %.1f GOP/s\n", ggml_type_name(type), (long)m, (long)k, (long)n,
         threads, copies > 1 ? "rotated" : "hot", median, work / median / 1e3);
  return 0;
}
