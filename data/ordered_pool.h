#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

namespace tune {

/// Threads that turn inputs into outputs; the outputs come back in the order of the inputs. A bounded number is under
/// way, so that memory is, too. One thread calls submit() and finish().
template <class Input, class Output>
class OrderedPool {
 public:
  /// work is called on several threads at once; take on the caller's, in order. What either throws reaches the caller.
  OrderedPool(std::function<Output(const Input&)> work, std::function<void(Output)> take)
      : work_(std::move(work)), take_(std::move(take)) {
    const std::size_t count = std::max(1U, std::thread::hardware_concurrency());
    most_under_way_ = 4 * count;
    for (std::size_t i = 0; i < count; ++i) threads_.emplace_back([this] { run(); });
  }

  ~OrderedPool() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      waiting_.clear();
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  OrderedPool(const OrderedPool&) = delete;
  OrderedPool& operator=(const OrderedPool&) = delete;

  void submit(Input input) {
    if (results_.size() == most_under_way_) take_oldest();
    std::packaged_task<Output()> task([this, input = std::move(input)] { return work_(input); });
    results_.push_back(task.get_future());
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

  void finish() {
    while (!results_.empty()) take_oldest();
  }

 private:
  void take_oldest() {
    Output output = results_.front().get();
    results_.pop_front();
    take_(std::move(output));
  }

  void run() {
    for (;;) {
      std::packaged_task<Output()> task;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopped_ || !waiting_.empty(); });
        if (stopped_) return;
        task = std::move(waiting_.front());
        waiting_.pop_front();
      }
      task();
    }
  }

  std::function<Output(const Input&)> work_;
  std::function<void(Output)> take_;
  std::size_t most_under_way_ = 0;
  std::deque<std::future<Output>> results_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::packaged_task<Output()>> waiting_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tune
