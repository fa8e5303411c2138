// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/multishot_request.hpp -- one request that yields many results.
//
// A multishot request outlives every await of its results, and may outlive the stream that made it:
// the kernel has its address until the last CQE. So it is an operation of its own, in memory of its
// own. The in-flight registry contains it: dump() names it, and a stop request cancels it. It has
// at most one awaiter at a time, which waits for the next result.
//
//   idle -> armed -> idle       the last CQE came: the next await arms the request again
//             \---> abandoned   the stream was destroyed: cancelled, and deleted by its last CQE
//
// S1  An armed request does not move, nor does any memory that the kernel writes to for it.
// S2  Results are delivered in the order of their CQEs; the end of the request is reported after
//     all of them.
// S3  A result that will not be awaited is discarded by drop_all() of the request's call.
#pragma once

#include <cerrno>
#include <coroutine>
#include <cstdint>
#include <source_location>
#include <utility>

#include <iowq/coro/detail/frame_cache.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/loop.hpp>

namespace iowq::inline v0 {

/// How a stream of many results requests them.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"  // see exec/operation_row.hpp
enum class multishot : std::uint8_t {
  automatic,  // by one multishot request, where the kernel supports it
  off,        // by one request for each result, one after the other
};
#pragma GCC diagnostic pop

namespace detail {

/// A `Call` has row, prepare() and descriptor(), and a queue of results:
///   bool keep(int res, std::uint32_t flags)   enqueues the result of a CQE; false: it has none
///   bool empty() const                        the queue is empty
///   void drop_all()                           discards the queue, as S3 requires
///   bool full() const                         the queue is so long that the request is paused
template <class Call>
class multishot_request final : public operation_base {
 public:
  template <class... Arguments>
  explicit multishot_request(std::source_location at, Arguments&&... arguments)
      : operation_base{kind, at}, call_{std::forward<Arguments>(arguments)...} {
    set_action(&on_item);
  }
  static void* operator new(std::size_t size) { return allocate_frame(size); }
  static void operator delete(void* memory, std::size_t size) noexcept { free_frame(memory, size); }

  [[nodiscard]] Call& call() noexcept { return call_; }
  [[nodiscard]] bool has_answer() const noexcept { return !call_.empty(); }
  /// Call when has_answer() is false. Returns how the request ended: 0 or -errno. The next next()
  /// arms the request again.
  [[nodiscard]] int take_end() noexcept { return std::exchange(end_, again); }

  /// Call when the stream is destroyed. Deletes the request, or cancels it if it is armed; its last
  /// CQE then deletes it.
  void abandon() noexcept {
    call_.drop_all();
    if (!armed_) {
      delete this;
      return;
    }
    wanted_ = false;
    ++owner_->shots().abandoned;
    owner_->cancel(*this);
  }

  class next_awaiter;
  /// `co_await s.next(at)` waits until there is a result, or the request has ended. A stop request
  /// cancels the multishot request. The await still completes only with a result or the end of the
  /// request, so results that came before the stop request are delivered first.
  [[nodiscard]] next_awaiter next(std::source_location at) noexcept { return {*this, at}; }

 private:
  void arm(loop& here) noexcept {
    owner_ = &here;
    armed_ = true;
    bits_ = 0;
    ++here.shots().armed;
    if (io_uring_sqe* const sqe = here.backend().sqe(); sqe != nullptr) {
      stage_ = stage::ring;
      prepare(*this, *sqe);
      sqe->user_data = user_data_tag::of(*this);
      annotate_release(static_cast<operation_base*>(this));
    } else {
      here.backend().line_up(*this);
    }
    here.watch(*this, {}, true);
  }

  void take(cqe_result what) noexcept {
    bool const last = (what.flags() & IORING_CQE_F_MORE) == 0;
    bool const kept = call_.keep(what.res(), what.flags());
    if (last) over(kept ? again : what.res());
    if (!wanted_) {
      call_.drop_all();  // S3
      if (!last) return;
      --owner_->shots().abandoned;
      delete this;
      return;
    }
    if (!last && call_.full() && !is(cancel_wanted)) owner_->cancel(*this);
    if (waits_ == nullptr || (!last && !kept)) return;
    if (last && end_ == again && !kept) {  // paused when full, and awaited before it had ended
      if (!waits_->is_stopped()) return arm(*owner_);
      end_ = -ECANCELED;
    }
    tell();
  }
  void over(int res) noexcept {
    in_flight_registry::remove(*this);
    owner_->left(*this);
    stage_ = stage::completed;
    armed_ = false;
    --owner_->shots().armed;
    // A cancelled request reports EINTR or ECANCELED. Pass that on only to an awaiter that is
    // waiting now and was itself stopped. Otherwise the next await arms the request again.
    if (is(cancel_wanted) && (res == -EINTR || res == -ECANCELED))
      res = waits_ != nullptr && waits_->is_stopped() ? -ECANCELED : again;
    end_ = res;
  }
  /// Resumes the awaiter, if there is one. The caller must not touch *this afterwards: the awaiter
  /// may have destroyed it.
  inline void tell() noexcept;

  static void on_cqe(operation_base& op, cqe_result what) noexcept {
    static_cast<multishot_request&>(op).take(what);
  }
  /// Runs when the request was cancelled while it waited for an SQE.
  static void on_item(loop_item* self) noexcept {
    auto& op = static_cast<multishot_request&>(*static_cast<operation_base*>(self));
    op.take(op.result_);
  }
  static void prepare(operation_base& op, io_uring_sqe& sqe) noexcept {
    static_cast<multishot_request&>(op).call_.prepare(sqe);
  }
  static int descriptor_of(const operation_base& op) noexcept {
    return static_cast<const multishot_request&>(op).call_.descriptor();
  }
  static constexpr operation_kind kind{&Call::row, &on_cqe, &prepare,
                                       nullptr,    nullptr, &descriptor_of};
  static constexpr int again = 1;  // no end to report: the next await arms it again

  Call call_;
  loop* owner_ = nullptr;
  next_awaiter* waits_ = nullptr;
  int end_ = again;
  bool armed_ = false;
  bool wanted_ = true;
};

/// Awaiter of the next result.
template <class Call>
class [[nodiscard("co_await it")]] multishot_request<Call>::next_awaiter final
    : public operation_base {
 public:
  next_awaiter(multishot_request& from, std::source_location at) noexcept
      : operation_base{kind, at}, from_{from} {}

  bool await_ready() const noexcept { return from_.has_answer() || from_.end_ != again; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    waiter_ = waiter;
    return begin(loop::current(), stop_of(waiter));
  }
  void await_resume() const noexcept {}

 private:
  friend multishot_request;

  [[nodiscard]] bool is_stopped() const noexcept { return is(cancel_wanted); }
  bool begin(loop& here, stop_token token) noexcept {
    bool const ambient = token == here.ambient();
    bool const stopped = ambient ? here.stopping() : token.stop_requested();
    if (stopped && !from_.armed_) {
      here.template count<Call::row>(&operation_stats::cancelled);
      from_.end_ = -ECANCELED;
      return false;
    }
    IOWQ_ASSERT(!from_.armed_ || from_.owner_ == &here,
                "a stream was awaited on another executor than the one that its request is with");
    if (!ambient && !stop_hook::prepare(here, *this, token)) [[unlikely]] {
      from_.end_ = -ENOMEM;
      return false;
    }
    from_.waits_ = this;
    stage_ = stage::sync_wait;
    if (!from_.armed_) from_.arm(here);
    here.watch(*this, token, ambient);
    if (stopped) here.cancel(*this);
    return true;
  }
  void granted() noexcept {
    result_.set(from_.has_answer() ? 0 : from_.end_);
    from_.owner_->template finish<Call::row>(*this, &operation_stats::ring_ops);
  }
  static bool disarm(operation_base& op) noexcept {
    multishot_request& from = static_cast<next_awaiter&>(op).from_;
    from.owner_->cancel(from);
    return false;
  }
  static int descriptor_of(const operation_base& op) noexcept {
    return static_cast<const next_awaiter&>(op).from_.call_.descriptor();
  }
  static constexpr operation_kind kind{&Call::row, nullptr, nullptr,
                                       nullptr,    &disarm, &descriptor_of};
  multishot_request& from_;
};

template <class Call>
void multishot_request<Call>::tell() noexcept {
  if (waits_ != nullptr) std::exchange(waits_, nullptr)->granted();
}

/// Owns a multishot request on behalf of its stream, and abandons it in the destructor.
template <class Call>
class multishot_owner {
 public:
  template <class... Arguments>
  explicit multishot_owner(std::source_location at, Arguments&&... arguments)
      : shot_{new multishot_request<Call>{at, std::forward<Arguments>(arguments)...}} {}
  multishot_owner(const multishot_owner&) = delete;
  multishot_owner& operator=(const multishot_owner&) = delete;
  ~multishot_owner() { shot_->abandon(); }
  multishot_request<Call>* operator->() const noexcept { return shot_; }

 private:
  multishot_request<Call>* shot_;
};

}  // namespace detail
}  // namespace iowq::inline v0
