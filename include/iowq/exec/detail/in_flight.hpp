// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/in_flight.hpp -- the registry of operations in flight.
//
// One circular intrusive list per descriptor, as far as the table reaches: unlinking is O(1), and
// close() can find the operations that use a descriptor. Descriptors are small, dense numbers, so
// the table needs no hash. for_each_using(), which close() calls, grows the table when a list holds
// more than 8 unrelated operations; add() never pays for that. Untracked operations
// (exec/detail/fast_path.hpp) are not in the registry.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/detail/operation_counters.hpp>

namespace iowq::inline v0::detail {

/// The number that stands for a slot of the ring's file table where a descriptor is expected. No
/// descriptor has this number. The function is its own inverse, and -1 still means "none".
[[nodiscard]] constexpr int slot_number(int slot) noexcept { return -2 - slot; }
[[nodiscard]] constexpr bool is_slot(int number) noexcept { return number < -1; }

/// The lists of one loop. Owner thread only.
class in_flight_registry {
 public:
  explicit in_flight_registry(operation_counters& counts) noexcept : counters_{counts} {
    clear(at_first_.data(), at_first_.size());
  }
  in_flight_registry(const in_flight_registry&) = delete;
  in_flight_registry& operator=(const in_flight_registry&) = delete;

  [[nodiscard]] bool empty() const noexcept {
    bool none = true;
    for_each([&none](const operation_base&) { none = false; });
    return none;
  }

  void add(operation_base& op) noexcept {
    op.set(operation_base::listed);
    if (!now_is_known_) now_ = linux_policy::now_coarsely();
    now_is_known_ = true;
    op.since_ = now_;
    push(bucket_of(op), op);
  }
  static void remove(operation_base& op) noexcept {
    op.before->after = op.after;
    op.after->before = op.before;
  }

  /// Adds an operation that began untracked. It was counted as finished when it was submitted, and
  /// finish() will count it again, so the first count is undone.
  void track_late(operation_base& op) noexcept {
    --counters_.of(op.row()).ring_ops;
    op.set(operation_base::was_tracked_late);
    add(op);
  }

  /// Calls `f` with each operation, grouped by descriptor, newest first. `f` may add operations.
  template <class F>
  void for_each(F&& f) const {
    for_each_of(no_fd_ops_, f);
    for_each_of(two_fd_ops_, f);
    for (std::size_t i = 0; i < size_; ++i) for_each_of(table_[i], f);
  }

  /// Calls `f` with each operation that uses the descriptor `number`; otherwise as for_each().
  /// O(these operations, and those that use two descriptors).
  template <class F>
  void for_each_using(int number, F&& f) {
    if (number == -1) return;
    std::size_t other_entries = 0;
    auto const look = [&](operation_base& op) {
      if (op.uses(number))
        f(op);
      else
        ++other_entries;
    };
    for_each_of(bucket_of(number), look);
    if (other_entries > 8) grow();
    for_each_of(two_fd_ops_, look);
  }

  /// Returns an operation that uses `number` and was not cancelled, or null. Ignores the operations
  /// on the pool: they may have completed already without their coroutines having been resumed.
  [[nodiscard]] const operation_base* find_user(int number) noexcept {
    const operation_base* found = nullptr;
    for_each_using(number, [&found](const operation_base& op) {
      bool const sure = op.row().cancellable && op.stage_ != stage::pool;
      if (sure && !op.is(operation_base::cancel_wanted)) found = &op;
    });
    return found;
  }

  /// Calls `cancel` with each operation that uses the descriptor which `closer` will close. Returns
  /// false if there are no such operations. True: `closer` waits in the registry until they have
  /// completed (on_user_completed()).
  template <class Cancel>
  [[nodiscard]] bool cancel_users(operation_base& closer, Cancel&& cancel) noexcept {
    int left = 0;
    for_each_using(closer.used_descriptor(), [&](operation_base& op) {
      // An operation that is not cancellable is another close(), of a number that is closed twice.
      if (!op.row().cancellable) return;
      ++left;
      cancel(op);
    });
    if (left == 0) return false;
    closer.result_.set(left);
    closer.stage_ = stage::closing;
    add(closer);
    ++pending_closes_;
    return true;
  }

  /// Call after a cancelled operation was removed. Calls `resume` with each closer for which `op`
  /// was the last operation to wait for: the closer checks again.
  template <class GoOn>
  void on_user_completed(const operation_base& op, GoOn&& resume) noexcept {
    if (pending_closes_ == 0) return;
    int const one = op.used_descriptor(), other = op.used_second_descriptor();
    notify_closers(one, resume);
    if (other != one) notify_closers(other, resume);
  }

  /// Operations that are added from now on get a new time stamp. The clock is read by the first
  /// add(): a turn that registers nothing never reads it.
  void start_turn() noexcept { now_is_known_ = false; }

 private:
  static void clear(registry_node* anchors, std::size_t count) noexcept {
    for (std::size_t i = 0; i < count; ++i) anchors[i] = {&anchors[i], &anchors[i]};
  }
  static void push(registry_node& bucket, registry_node& node) noexcept {
    node.before = &bucket;
    node.after = bucket.after;
    bucket.after->before = &node;
    bucket.after = &node;
  }
  template <class F>
  static void for_each_of(const registry_node& bucket, F&& f) {
    for (registry_node *n = bucket.after, *next; n != &bucket; n = next) {
      next = n->after;
      f(*static_cast<operation_base*>(n));
    }
  }

  [[nodiscard]] registry_node& bucket_of(int number) noexcept {
    return table_[static_cast<std::size_t>(number) & (size_ - 1)];
  }
  [[nodiscard]] registry_node& bucket_of(const operation_base& op) noexcept {
    if (op.kind_->other != nullptr) return two_fd_ops_;
    int const number = op.used_descriptor();
    return number == -1 ? no_fd_ops_ : bucket_of(number);
  }

  /// Decrements the number of operations that each close() of `number` waits for. A closer was
  /// added later than most of these operations, so it is near the front, and there is usually only
  /// one: the walk is short.
  template <class GoOn>
  void notify_closers(int number, GoOn&& resume) noexcept {
    if (number == -1) return;
    registry_node& bucket = bucket_of(number);
    unsigned unseen = pending_closes_;
    for (registry_node *n = bucket.after, *next; n != &bucket && unseen != 0; n = next) {
      next = n->after;
      auto& closer = *static_cast<operation_base*>(n);
      if (closer.stage_ != stage::closing || !closer.uses(number)) continue;
      --unseen;
      closer.result_.set(closer.result_.res() - 1);
      if (closer.result_.res() > 0) continue;
      remove(closer);
      --pending_closes_;
      resume(closer);
    }
  }

  /// Doubles the number of lists. If there is no memory, the old lists remain.
  void grow() noexcept {
    std::unique_ptr<registry_node[]> more{new (std::nothrow) registry_node[2 * size_]};
    if (!more) return;
    clear(more.get(), 2 * size_);
    std::size_t const size = size_;
    registry_node* const old = table_;
    table_ = more.get();
    size_ = 2 * size;
    for (std::size_t i = 0; i < size; ++i)
      while (old[i].before != &old[i]) {  // the oldest first
        auto& op = *static_cast<operation_base*>(old[i].before);
        remove(op);
        push(bucket_of(op), op);
      }
    grown_ = std::move(more);
  }

  operation_counters& counters_;
  std::size_t size_ = 64;  // a power of two
  std::array<registry_node, 64> at_first_;
  std::unique_ptr<registry_node[]> grown_;
  registry_node* table_ = at_first_.data();
  registry_node no_fd_ops_{&no_fd_ops_, &no_fd_ops_};     // operations without a descriptor
  registry_node two_fd_ops_{&two_fd_ops_, &two_fd_ops_};  // operations with two
  time_point now_{};                                      // the time of this turn, if now_is_known_
  bool now_is_known_ = false;
  unsigned pending_closes_ = 0;
};

}  // namespace iowq::inline v0::detail
