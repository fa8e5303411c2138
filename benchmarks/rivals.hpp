// SPDX-License-Identifier: BSL-1.0
// The same load through thread pools of other libraries, as in their own examples. A fixed number
// of calls is in flight. A worker makes each call, and each completion is delivered to the loop of
// the submitting thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "ratio.hpp"

#if __has_include(<asio.hpp>)
#define BENCH_ASIO 1
#include <asio.hpp>
#else
#define BENCH_ASIO 0
#endif
#if __has_include(<uv.h>) && defined(BENCH_LINKS_LIBUV)
#define BENCH_UV 1
#include <uv.h>
#else
#define BENCH_UV 0
#endif

namespace bench {

inline void print_who_is_missing() {
  if (!BENCH_ASIO) std::puts("libasio-dev is not installed: asio is left out");
  if (!BENCH_UV) std::puts("libuv1-dev is not installed: libuv is left out");
}

/// libuv has one pool for the whole process, created at its first use. Call this before that.
inline void uv_workers(unsigned n) { ::setenv("UV_THREADPOOL_SIZE", std::to_string(n).c_str(), 1); }

/// Runs `part(i)` in that many threads, including the caller's.
template <class Part>
void side_by_side(unsigned threads, Part&& part) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back([&part, i] { part(i); });
  part(0);
  for (std::thread& one : others) one.join();
}

#if BENCH_ASIO
/// asio::thread_pool, with an io_context to return to.
template <class Call>
class asio_pool {
 public:
  asio_pool(unsigned workers, unsigned depth, unsigned submitters)
      : pool_{workers}, depth_{depth / submitters}, submitters_{submitters} {}
  ~asio_pool() { pool_.join(); }

  ratio::tally run(std::uint64_t n) {
    std::uint64_t const each = n / submitters_;
    side_by_side(submitters_, [&](unsigned submitter) {
      asio::io_context here{1};
      auto const busy = asio::make_work_guard(here);
      std::uint64_t begun = 0, done = 0;
      std::function<void(unsigned)> begin = [&](unsigned slot) {
        ++begun;
        asio::post(pool_, [&, slot] {
          Call{}(slot);
          asio::post(here, [&, slot] {
            if (++done == each)
              here.stop();
            else if (begun < each)
              begin(slot);
          });
        });
      };
      for (unsigned i = 0; i < depth_ && begun < each; ++i) begin(submitter * depth_ + i);
      here.run();
    });
    return {each * submitters_};
  }

 private:
  asio::thread_pool pool_;
  unsigned depth_, submitters_;
};
#endif

#if BENCH_UV
/// uv_queue_work, with one loop for each submitter.
template <class Call>
class uv_pool {
 public:
  uv_pool(unsigned depth, unsigned submitters)
      : depth_{depth / submitters}, submitters_{submitters} {}

  ratio::tally run(std::uint64_t n) {
    std::uint64_t const each = n / submitters_;
    side_by_side(submitters_, [&](unsigned submitter) { submit(each, submitter * depth_); });
    return {each * submitters_};
  }

 private:
  struct load {
    uv_loop_t loop;
    std::uint64_t left;
  };
  struct request : uv_work_t {
    unsigned slot;
  };
  void submit(std::uint64_t n, unsigned first_slot) const {
    load mine;
    uv_loop_init(&mine.loop);
    mine.loop.data = &mine;
    std::vector<request> requests(std::min<std::uint64_t>(depth_, n));
    mine.left = n - requests.size();
    for (request& one : requests) {
      one.slot = first_slot++;
      queue(&mine.loop, &one);
    }
    uv_run(&mine.loop, UV_RUN_DEFAULT);
    uv_loop_close(&mine.loop);
  }
  static void queue(uv_loop_t* loop, uv_work_t* one) {
    uv_queue_work(
        loop, one, [](uv_work_t* now) { Call{}(static_cast<request*>(now)->slot); },
        [](uv_work_t* done, int) {
          auto& mine = *static_cast<load*>(done->loop->data);
          if (mine.left == 0) return;
          --mine.left;
          queue(done->loop, done);
        });
  }
  unsigned depth_, submitters_;
};
#endif

}  // namespace bench
