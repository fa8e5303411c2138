// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/fast_path.hpp -- operations that complete in the turn that submitted them.
//
// Every operation in flight must be discoverable, for dump() and for cancellation. But in a busy
// loop most operations complete in the turn that submits them, and for those registration would be
// the largest cost. So an operation on the ring begins untracked: only its SQE refers to it. After
// the turn's CQEs have been taken, the operations with an SQE and no CQE are registered. In most
// turns as many operations completed as were submitted, and nothing is registered.
//
// Y1  No SQE numbered first_ or later is overwritten; no CQE from the ring's head on is given back.
// Y2  An SQE numbered first_ or later that is tagged untracked belongs to a completed operation if,
//     and only if, one of those CQEs has the same user_data and was not consumed (consume()).
// Y3  An untracked operation has no bits set: it is not registered, not cancelled, and has no hook.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <iowq/exec/detail/in_flight.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/ring/detail/ring.hpp>

namespace iowq::inline v0::detail {

/// The meaning of an SQE's user_data: a pointer to a cqe_handler or to an operation. The low bits
/// of either pointer are free for the tag.
struct user_data_tag {
  static constexpr std::uint64_t operation = 1;
  static constexpr std::uint64_t untracked = 2;  // at the time of submission

  [[nodiscard]] static std::uint64_t of(operation_base& op, std::uint64_t age = 0) noexcept {
    return reinterpret_cast<std::uintptr_t>(&op) | operation | age;
  }
  [[nodiscard]] static bool is_operation(std::uint64_t user_data) noexcept {
    return (user_data & operation) != 0;
  }
  [[nodiscard]] static bool is_untracked(std::uint64_t user_data) noexcept {
    return (user_data & untracked) != 0;
  }
  [[nodiscard]] static operation_base& operation_of(std::uint64_t user_data) noexcept {
    return *reinterpret_cast<operation_base*>(
        static_cast<std::uintptr_t>(user_data & ~(operation | untracked)));
  }
};
static_assert(alignof(operation_base) > (user_data_tag::operation | user_data_tag::untracked));

/// The untracked operations of one loop. This class also reaps the CQEs, because it has to know
/// which of its operations completed. Owner thread only.
class fast_path {
 public:
  fast_path(ring& all, in_flight_registry& old) noexcept : ring_{all}, registry_{old} {}
  fast_path(const fast_path&) = delete;
  fast_path& operator=(const fast_path&) = delete;

  /// Call once the ring is open.
  void begin() noexcept {
    first_ = ring_.tail();
    run_number_ = ring_.cq_head();
  }

  /// The SQEs from this number on must not be overwritten.
  [[nodiscard]] unsigned first() const noexcept { return first_; }

  /// Takes at most `budget` CQEs, oldest first, and completes their operations. Calls `after()`
  /// after each CQE. Returns the number taken. A resumed coroutine may begin operations, and may
  /// cause release_cqes().
  template <class After>
  IOWQ_ALWAYS_INLINE unsigned reap(unsigned budget, After&& after) noexcept {
    unsigned const begin = ring_.cq_head();
    unsigned const end = begin + std::min({budget, most, ring_.arrived()});
    for (unsigned number = begin; number != end;) {
      auto const run = ring_.cqes(number, end - number);
      run_number_ = number;
      run_ = taken_ = run.data();
      for (io_uring_cqe* next = run.data(); next != run.data() + run.size();) {
        io_uring_cqe& cqe = *next;
        taken_ = ++next;
        if (!complete_fast(cqe)) [[unlikely]]
          complete_general(cqe);
        after();
      }
      number += static_cast<unsigned>(run.size());
    }
    release_cqes();
    return end - begin;
  }

  /// Registers the operations that are submitted and incomplete, and gives the taken CQEs back.
  IOWQ_ALWAYS_INLINE void release_cqes() noexcept {
    unsigned const taken = number_taken() - ring_.cq_head();
    if (taken - consumed_ == ring_.head() - first_) [[likely]]
      first_ = ring_.head();
    else
      track_submitted();
    ring_.give_back(taken);
    consumed_ = 0;
  }

  /// Registers all untracked operations, also those that the kernel has not taken yet.
  IOWQ_COLD void track_all() noexcept {
    release_cqes();
    for_each_pending([this](operation_base& op) { registry_.track_late(op); });
    first_ = ring_.tail();
  }

  /// Calls `f` with each untracked operation, oldest first.
  template <class F>
  void for_each(F&& f) const {
    for_each_submitted(f);
    for_each_pending(f);
  }

 private:
  static constexpr unsigned most = 1024;  // CQEs taken before they are given back

  /// The usual case: the only CQE of an untracked operation, without an error. Returns false,
  /// without any effect, for every other CQE.
  IOWQ_ALWAYS_INLINE static bool complete_fast(const io_uring_cqe& cqe) noexcept {
    std::uint64_t const user_data = cqe.user_data;
    cqe_result const what{cqe};
    if (!user_data_tag::is_untracked(user_data) ||
        !what.is_plain(IORING_CQE_F_NOTIF | IORING_CQE_F_MORE))
      return false;
    operation_base& op = user_data_tag::operation_of(user_data);
    annotate_acquire(&op);
    if (op.bits_ != 0) return false;  // Y3
    op.result_ = what;
    op.waiter_.resume();
    return true;
  }

  IOWQ_NOINLINE void complete_general(io_uring_cqe& cqe) noexcept {
    std::uint64_t const user_data = cqe.user_data;
    cqe_result const what{cqe};
    if (!user_data_tag::is_operation(user_data)) {
      consume(cqe);
      cqe_handler* const other = cqe_handler::from(user_data);
      if (other == nullptr) return;
      annotate_acquire(other);
      return other->complete(what.res(), what.flags());
    }
    operation_base& op = user_data_tag::operation_of(user_data);
    annotate_acquire(&op);
    if (op.is(operation_base::listed))
      consume(cqe);
    else
      registry_.track_late(op);
    op.kind_->on_cqe(op, what);
  }

  /// Marks a taken CQE as not the completion of an untracked operation. Y2
  void consume(io_uring_cqe& cqe) noexcept {
    cqe.user_data = 0;
    ++consumed_;
  }

  [[nodiscard]] unsigned number_taken() const noexcept {
    return run_number_ + static_cast<unsigned>(taken_ - run_);
  }

  IOWQ_NOINLINE void track_submitted() noexcept {
    for_each_submitted([this](operation_base& op) { registry_.track_late(op); });
    if (is_before(first_, ring_.head())) first_ = ring_.head();
  }

  [[nodiscard]] static bool is_before(unsigned a, unsigned b) noexcept {
    return static_cast<int>(b - a) > 0;
  }

  template <class F>
  void for_each_pending(F&& f) const {
    unsigned const head = ring_.head();
    for (unsigned n = is_before(first_, head) ? head : first_; n != ring_.tail(); ++n)
      if (std::uint64_t const user_data = ring_.sqe(n).user_data;
          user_data_tag::is_untracked(user_data))
        f(user_data_tag::operation_of(user_data));
  }

  /// Calls `f` with each untracked operation that the kernel has taken and that has no CQE yet.
  template <class F>
  void for_each_submitted(F&& f) const {
    auto const nothing = [](operation_base&) {};
    if (compare_in_order(nothing)) return static_cast<void>(compare_in_order(f));
    std::array<std::uint64_t, most> ended;
    std::size_t count = 0;
    for (unsigned n = ring_.cq_head(); n != number_taken(); ++n)
      ended[count++] = ring_.cqe(n).user_data;
    std::sort(ended.begin(), ended.begin() + count);
    for (unsigned n = first_; is_before(n, ring_.head()); ++n)
      if (std::uint64_t const user_data = ring_.sqe(n).user_data;
          user_data_tag::is_untracked(user_data) &&
          !std::binary_search(ended.begin(), ended.begin() + count, user_data))
        f(user_data_tag::operation_of(user_data));
  }

  /// The same, if the CQEs came in the order of their SQEs, as they do for operations that the
  /// kernel completes during submission. False: they did not, and `f` was called with too many
  /// operations.
  template <class F>
  bool compare_in_order(F&& f) const {
    unsigned const taken = number_taken();
    unsigned cq = ring_.cq_head();
    auto const next = [&] {
      while (cq != taken && ring_.cqe(cq).user_data == 0) ++cq;
      return cq != taken ? ring_.cqe(cq).user_data : 0;
    };
    std::uint64_t ended = next();
    for (unsigned n = first_; is_before(n, ring_.head()); ++n) {
      std::uint64_t const user_data = ring_.sqe(n).user_data;
      if (!user_data_tag::is_untracked(user_data)) continue;
      if (user_data == ended)
        ++cq, ended = next();
      else
        f(user_data_tag::operation_of(user_data));
    }
    return ended == 0;
  }

  ring& ring_;
  in_flight_registry& registry_;
  unsigned first_ = 0;
  unsigned consumed_ = 0;
  // The contiguous run of CQEs that holds the last one taken: its begin, the end of its taken part,
  // and the number of its first CQE.
  io_uring_cqe* run_ = nullptr;
  io_uring_cqe* taken_ = nullptr;
  unsigned run_number_ = 0;
};

}  // namespace iowq::inline v0::detail
