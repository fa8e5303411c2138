// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/detail/frame_cache.hpp>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "allocations.hpp"
#include "manual.hpp"
#include "skip.hpp"

namespace {
using iowq::detail::allocate_frame;
using iowq::detail::frame_cache;
using iowq::detail::free_frame;
using iowq_test::allocations;

/// Runs `body` on a thread of its own, whose cache is empty, and counts until the thread is gone.
template <class Body>
allocations on_new_thread(Body body) {
  const allocations before = allocations::now();
  std::thread{body}.join();
  return allocations::now() - before;
}

#define NEEDS_COUNTING() \
  if (!allocations::counted) SKIP_CASE("the sanitizer's operator new counts nothing")

iowq::task<int> add_one(int n) { co_return n + 1; }
iowq::task<int> depth(int left) {
  if (left == 0) co_return 0;
  const int below = co_await depth(left - 1);
  co_return below + 1;
}
iowq::stream<int> count_to(int last) {
  for (int i = 1; i <= last; ++i) co_yield i;
}
}  // namespace

TEST_SUITE("coro/frame_cache") {
  TEST_CASE("each size has the smallest class that holds it") {
    int misfits = 0;
    for (std::size_t size = 1; size <= frame_cache::limit; ++size) {
      const std::size_t index = frame_cache::class_of(size);
      const bool fits = index < frame_cache::classes && frame_cache::bytes_of(index) >= size;
      misfits += !fits || (index > 0 && frame_cache::bytes_of(index - 1) >= size);
    }
    CHECK(misfits == 0);
  }

  TEST_CASE("a frame of any size is aligned, whole, and nobody else's") {
    std::vector<std::size_t> sizes{1, 1'000'000};
    for (std::size_t index = 0; index < frame_cache::classes; ++index)
      for (std::size_t more : {0u, 1u, 2u})
        sizes.push_back(frame_cache::bytes_of(index) - 1 + more);
    for (int again = 0; again < 2; ++again) {  // fresh, then recycled
      std::vector<unsigned char*> frames;
      for (std::size_t size : sizes) {
        auto* const frame = static_cast<unsigned char*>(allocate_frame(size));
        CHECK(reinterpret_cast<std::uintptr_t>(frame) % 64 == 0);
        std::memset(frame, static_cast<int>(frames.size()), size);
        frames.push_back(frame);
      }
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        CHECK(frames[i][0] == static_cast<unsigned char>(i));
        CHECK(frames[i][sizes[i] - 1] == static_cast<unsigned char>(i));
        free_frame(frames[i], sizes[i]);
      }
    }
  }

  TEST_CASE("a warm task call allocates nothing, nor do a deep one and a stream") {
    NEEDS_COUNTING();
    allocations cold, warm;
    int sum = 0;
    auto calls = [&]() -> iowq::task<> {
      for (int i = 0; i < 1'000; ++i) sum = co_await add_one(sum);
      const int deep = co_await depth(100);
      sum += deep;
      auto numbers = count_to(100);
      while (auto number = co_await numbers.next()) sum += *number;
    };
    auto body = [&]() -> iowq::task<> {
      const allocations start = allocations::now();
      co_await calls();
      cold = allocations::now() - start;
      co_await calls();
      warm = allocations::now() - start;
    };
    std::thread{[&] {
      iowq_test::started run{body()};
      CHECK(run.ended());
    }}.join();
    CHECK(sum == 2 * (1'000 + 100 + 5'050));
    CHECK(cold.made > 0);
    CHECK(warm.made == cold.made);
    CHECK(warm.freed == cold.freed);
  }

  TEST_CASE("a freed frame serves the next of its class on that thread") {
    if (IOWQ_ASAN) SKIP_CASE("AddressSanitizer is left to see every frame come and go");
    bool same = false, other = true;
    on_new_thread([&] {
      void* const frame = allocate_frame(65);
      free_frame(frame, 65);
      void* const bigger = allocate_frame(129);
      other = bigger == frame;
      void* const next = allocate_frame(128);
      same = next == frame;
      free_frame(next, 128);
      free_frame(bigger, 129);
    });
    CHECK(same);
    CHECK_FALSE(other);
  }

  TEST_CASE("a frame beyond the largest class goes back to the heap at once") {
    NEEDS_COUNTING();
    const allocations before = allocations::now();
    free_frame(allocate_frame(frame_cache::limit + 1), frame_cache::limit + 1);
    const allocations used = allocations::now() - before;
    CHECK(used.made == 1);
    CHECK(used.freed == 1);
  }

  TEST_CASE("a class keeps at most 256 KiB, and a thread that ends keeps nothing") {
    NEEDS_COUNTING();
    for (std::size_t size : {std::size_t{64}, std::size_t{1'024}, frame_cache::limit}) {
      const std::size_t room = 256 * 1024 / size;
      allocations while_freeing;
      const allocations used = on_new_thread([&] {
        std::vector<void*> frames(room + 3);
        for (void*& frame : frames) frame = allocate_frame(size);
        const allocations before = allocations::now();
        for (void* frame : frames) free_frame(frame, size);
        while_freeing = allocations::now() - before;
      });
      CHECK(while_freeing.freed == 3);
      CHECK(used.made > static_cast<long>(room));
      CHECK(used.freed == used.made);
    }
  }

  TEST_CASE("a frame made on one thread is freed on another, that makes frames or does not") {
    for (bool makes : {false, true}) {
      const allocations before = allocations::now();
      std::thread{[makes] {
        std::vector<void*> frames(100);
        for (void*& frame : frames) frame = allocate_frame(500);
        std::thread{[&] {
          if (makes) free_frame(allocate_frame(500), 500);
          for (void* frame : frames) free_frame(frame, 500);
          if (makes) {
            void* const reused = allocate_frame(500);
            std::memset(reused, 1, 500);
            free_frame(reused, 500);
          }
        }}.join();
      }}.join();
      const allocations used = allocations::now() - before;
      CHECK(used.freed == used.made);
    }
  }

  TEST_CASE("a frame freed after the thread's cache has closed is not lost") {
    struct late {
      void* frame = nullptr;
      ~late() {  // thread-local objects go in reverse: the cache, born later, is gone
        free_frame(frame, 500);
        free_frame(allocate_frame(500), 500);
      }
    };
    const allocations used = on_new_thread([] {
      static thread_local late last;
      last.frame = nullptr;
      last.frame = allocate_frame(500);
    });
    CHECK(used.freed == used.made);
  }
}
