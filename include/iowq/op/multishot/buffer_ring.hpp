// SPDX-License-Identifier: BSL-1.0
// iowq/op/multishot/buffer_ring.hpp -- a set of receive buffers from which the kernel picks.
//
// Ten thousand idle connections need no buffer; the one with data needs one now. So no buffer
// belongs to a connection. The kernel picks a buffer when data has arrived, and the reader gets a
// lease on it (buffer_view), which returns the buffer when it is destroyed. The memory is freed
// when the last of its users is gone: the buffer_ring, its leases, and the requests of its streams.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string_view>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/op/detail/multishot_request.hpp>
#include <iowq/queue/intrusive_list.hpp>
#include <iowq/ring/detail/buffer_group.hpp>

namespace iowq::inline v0 {

class buffer_ring;

namespace detail {

class buffer_wait;

/// The buffers that a buffer_ring, its leases and its streams share; reference-counted by join()
/// and leave(). Owner thread only.
class buffer_pool : public buffer_group {
 public:
  buffer_pool(unsigned count, std::size_t size, multishot how)
      : buffer_group{count, size}, how_{how} {}

  void join() noexcept { ++users_; }
  void leave() noexcept {
    if (--users_ == 0) delete this;
  }

  /// Returns true if the kernel picks the buffers on this loop. Registers the buffers with the
  /// loop's ring if they are registered with none; if that is impossible, each receive takes its
  /// own buffer from then on.
  [[nodiscard]] bool offer_to(loop& here) noexcept {
    if (how_ == multishot::automatic && host() == nullptr) {
      // Never mix the two: a receive that takes its own buffer would wait for buffers that the
      // kernel holds.
      auto& backend = here.backend();
      if (!backend.features().receives_many() || offer(backend.resources()) < 0)
        how_ = multishot::off;
    }
    return how_ == multishot::automatic;
  }

  /// Returns a buffer that was taken, and resumes all waiters, which try again. Not only the first
  /// waiter: it may not need a buffer for a long time.
  inline void give_back(std::uint16_t id) noexcept;

 private:
  friend buffer_wait;
  ~buffer_pool() = default;
  inline void call_all() noexcept;

  std::size_t users_ = 0;
  multishot how_;
  buffer_wait* first_ = nullptr;
};

}  // namespace detail

/// A lease on a buffer with received bytes. Returns the buffer when it is destroyed. A range of
/// std::byte; move-only; to be used and destroyed on the executor's thread. The bytes may be
/// modified.
class buffer_view {
 public:
  buffer_view() noexcept = default;
  buffer_view(buffer_view&& other) noexcept
      : pool_{std::exchange(other.pool_, nullptr)}, id_{other.id_}, size_{other.size_} {}
  buffer_view& operator=(buffer_view&& other) noexcept {
    if (this != &other) {
      reset();
      pool_ = std::exchange(other.pool_, nullptr);
      id_ = other.id_;
      size_ = other.size_;
    }
    return *this;
  }
  ~buffer_view() { reset(); }

  [[nodiscard]] std::byte* data() const noexcept {
    return pool_ != nullptr ? pool_->data(id_) : nullptr;
  }
  [[nodiscard]] std::size_t size() const noexcept { return pool_ != nullptr ? size_ : 0; }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  [[nodiscard]] std::byte* begin() const noexcept { return data(); }
  [[nodiscard]] std::byte* end() const noexcept { return data() + size(); }
  [[nodiscard]] std::string_view text() const noexcept {
    return {reinterpret_cast<const char*>(data()), size()};
  }

  /// Returns the buffer now; the view is empty afterwards.
  void reset() noexcept {
    if (pool_ == nullptr) return;
    auto* const from = std::exchange(pool_, nullptr);
    from->give_back(id_);
    from->leave();
  }

  /// For streams: leases buffer `id`, which was taken from the pool.
  buffer_view(detail::buffer_pool& from, std::uint16_t id, std::size_t size) noexcept
      : pool_{&from}, id_{id}, size_{static_cast<std::uint32_t>(size)} {
    from.join();
  }

 private:
  detail::buffer_pool* pool_ = nullptr;
  std::uint16_t id_ = 0;
  std::uint32_t size_ = 0;
};

/// `count` buffers (rounded up to a power of two; at most 32768) of `size` bytes each, for any
/// number of streams of one executor. Buffers that were never used occupy no memory. The
/// constructor throws std::system_error. With `multishot::off` the buffers are not given to the
/// kernel: each receive takes one itself.
class buffer_ring {
 public:
  buffer_ring(unsigned count, std::size_t size, multishot how = multishot::automatic)
      : pool_{new detail::buffer_pool{count, size, how}} {
    pool_->join();
  }
  buffer_ring(const buffer_ring&) = delete;
  buffer_ring& operator=(const buffer_ring&) = delete;
  ~buffer_ring() { pool_->leave(); }

  [[nodiscard]] unsigned count() const noexcept { return pool_->count(); }
  [[nodiscard]] std::size_t size() const noexcept { return pool_->size(); }
  /// The number of buffers that hold received data and have not been returned.
  [[nodiscard]] unsigned taken() const noexcept { return pool_->taken(); }

  [[nodiscard]] detail::buffer_pool& pool() const noexcept { return *pool_; }  // for streams

 private:
  detail::buffer_pool* pool_;
};

namespace detail {

/// Waits until a buffer is returned.
class [[nodiscard("co_await it")]] buffer_wait final : public parked_operation<buffer_wait> {
 public:
  static constexpr operation_row row{
      .name = "buffer_ring", .first = route::inline_, .reason = "waits until a lease comes back"};
  static constexpr const char* reported_as = "recv_many";

  buffer_wait(buffer_pool& pool, std::source_location at) noexcept
      : parked_operation{at}, pool_{pool} {}

 private:
  friend parked_operation;
  friend buffer_pool;

  bool try_complete() noexcept {
    result_.set(0);
    return pool_.taken() < pool_.count();
  }
  void park(loop&) noexcept { behind_ = std::exchange(pool_.first_, this); }
  bool unpark() noexcept {
    buffer_wait** link = &pool_.first_;
    while (*link != this) link = &(*link)->behind_;
    *link = behind_;
    return true;
  }
  void called() noexcept { complete(*this_thread_loop, 0); }

  buffer_pool& pool_;
  buffer_wait* behind_ = nullptr;
};

inline void buffer_pool::give_back(std::uint16_t id) noexcept {
  put_back(id);
  if (first_ != nullptr) call_all();
}
inline void buffer_pool::call_all() noexcept {
  for (buffer_wait* next = std::exchange(first_, nullptr); next != nullptr;) {
    buffer_wait* const one = std::exchange(next, next->behind_);
    one->called();
  }
}

}  // namespace detail
}  // namespace iowq::inline v0
