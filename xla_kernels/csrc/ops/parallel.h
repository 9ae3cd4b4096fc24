// A parallel loop on a thread pool that the caller provides (XLA's).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

namespace trix {

// The base class has only the caller's thread; a derived class may have more.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual int64_t threads() const { return 1; }  // Includes the caller's.
  virtual void Schedule(std::function<void()> task) const { task(); }
};

// Nanoseconds of one core below which waking another thread costs more than it saves; also the size of one task.
constexpr double kParallelNs = 100'000, kTaskNs = 25'000;

// Returns the pool for work of so many nanoseconds, without helpers if there is too little.
inline const Pool& PoolFor(const Pool& pool, double nanoseconds) {
  static const Pool serial;
  return nanoseconds < kParallelNs ? serial : pool;
}

// Runs task(0) .. task(count - 1), each once, and returns when all are done. The caller works too. It sleeps until the
// tasks that other threads have begun are done. So it neither spins, nor deadlocks when no thread is free. An exception
// of a task is thrown again when all tasks are done.
template <typename Task>
void ParallelFor(const Pool& pool, int64_t count, const Task& task) {
  const int64_t threads = count < 2 ? 1 : pool.threads();
  if (threads < 2) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  struct State {
    std::atomic<int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::condition_variable done;
    std::exception_ptr error;
  };
  auto state = std::make_shared<State>();  // A helper may wake after the caller has left.
  const Task* shared = &task;  // Only a thread with an unfinished task uses it, so the caller is still here.
  const auto work = [state, shared, count] {
    for (int64_t i; (i = state->next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        (*shared)(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(state->mutex);
        state->error = std::current_exception();
      }
      if (state->finished.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        const std::lock_guard<std::mutex> lock(state->mutex);
        state->done.notify_one();
      }
    }
  };
  const int64_t helpers = (count < threads ? count : threads) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(work);
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->done.wait(lock, [&] { return state->finished.load(std::memory_order_acquire) == count; });
  if (state->error) std::rethrow_exception(state->error);
}

}  // namespace trix
