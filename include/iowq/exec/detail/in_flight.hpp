// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/in_flight.hpp -- the registry of operations in flight.
//
// Rings of links, so that who ends leaves from the middle: one for every descriptor, as far as
// the table reaches, since close() asks who uses one. Descriptors are small numbers that lie close
// together, so the table needs no hash; it grows when close() meets strangers in a ring, and who
// enters never pays for that. Who is young (exec/detail/fast_path.hpp) is not in here.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/detail/operation_counters.hpp>

namespace iowq::detail {

/// What an operation on a slot of the ring's table of files has for a descriptor: a number that no
/// descriptor has, and its own inverse. -1 remains nothing.
[[nodiscard]] constexpr int slot_number(int slot) noexcept { return -2 - slot; }
[[nodiscard]] constexpr bool is_slot(int number) noexcept { return number < -1; }

/// The lists of a loop. Owner thread only.
class census {
 public:
  explicit census(ledger& counts) noexcept : counts_{counts} {
    clear(at_first_.data(), at_first_.size());
  }
  census(const census&) = delete;
  census& operator=(const census&) = delete;

  [[nodiscard]] bool empty() const noexcept {
    bool none = true;
    for_each([&none](const operation_base&) { none = false; });
    return none;
  }

  void enter(operation_base& op) noexcept {
    op.set(operation_base::listed);
    if (!now_is_known_) now_ = linux_policy::now_coarsely();
    now_is_known_ = true;
    op.since_ = now_;
    push(ring_of(op), op);
  }
  static void leave(operation_base& op) noexcept {
    op.before->after = op.after;
    op.after->before = op.before;
  }

  /// Enters one that was young. It had been counted as done when it began; it will be, again.
  void grow_up(operation_base& op) noexcept {
    --counts_.of(op.row()).ring_ops;
    op.set(operation_base::was_young);
    enter(op);
  }

  /// Calls `f` with each, those of one descriptor side by side, newest first. `f` may enter others.
  template <class F>
  void for_each(F&& f) const {
    for_each_of(none_, f);
    for_each_of(several_, f);
    for (std::size_t i = 0; i < size_; ++i) for_each_of(table_[i], f);
  }

  /// Calls `f` with each that uses the descriptor `number`; as for_each(). O(those, and those that
  /// use several).
  template <class F>
  void for_each_on(int number, F&& f) {
    if (number == -1) return;
    std::size_t strangers = 0;
    auto const look = [&](operation_base& op) {
      if (op.uses(number))
        f(op);
      else
        ++strangers;
    };
    for_each_of(ring_of(number), look);
    if (strangers > 8) grow();
    for_each_of(several_, look);
  }

  /// One that uses `number` and was not told to end, or null. Not of a worker's: those may be over,
  /// and only their coroutines do not know yet.
  [[nodiscard]] const operation_base* user_of(int number) noexcept {
    const operation_base* found = nullptr;
    for_each_on(number, [&found](const operation_base& op) {
      bool const sure = op.row().cancellable && op.stage_ != stage::pool;
      if (sure && !op.is(operation_base::cancel_wanted)) found = &op;
    });
    return found;
  }

  /// Calls `cancel` with each operation that uses what `closer` will close. False: there are none.
  /// True: `closer` waits here for their ends (ended()).
  template <class Cancel>
  [[nodiscard]] bool evict(operation_base& closer, Cancel&& cancel) noexcept {
    int left = 0;
    for_each_on(closer.descriptor_number(), [&](operation_base& op) {
      // What is not cancellable is another close(): that of a number which is closed twice.
      if (!op.row().cancellable) return;
      ++left;
      cancel(op);
    });
    if (left == 0) return false;
    closer.answer_.set(left);
    closer.stage_ = stage::closing;
    enter(closer);
    ++closers_;
    return true;
  }

  /// One that was to be cancelled has ended, and left. Calls `go_on` with a closer that waited for
  /// it as for the last: it looks again.
  template <class GoOn>
  void ended(const operation_base& op, GoOn&& go_on) noexcept {
    if (closers_ == 0) return;
    int const one = op.descriptor_number(), other = op.other_number();
    tell_closers(one, go_on);
    if (other != one) tell_closers(other, go_on);
  }

  /// Who enters from now on came later. The clock is asked when somebody does: in a turn of young
  /// ones nobody.
  void turn() noexcept { now_is_known_ = false; }

 private:
  static void clear(census_node* anchors, std::size_t count) noexcept {
    for (std::size_t i = 0; i < count; ++i) anchors[i] = {&anchors[i], &anchors[i]};
  }
  static void push(census_node& ring, census_node& node) noexcept {
    node.before = &ring;
    node.after = ring.after;
    ring.after->before = &node;
    ring.after = &node;
  }
  template <class F>
  static void for_each_of(const census_node& ring, F&& f) {
    for (census_node *n = ring.after, *next; n != &ring; n = next) {
      next = n->after;
      f(*static_cast<operation_base*>(n));
    }
  }

  [[nodiscard]] census_node& ring_of(int number) noexcept {
    return table_[static_cast<std::size_t>(number) & (size_ - 1)];
  }
  [[nodiscard]] census_node& ring_of(const operation_base& op) noexcept {
    if (op.kind_->other != nullptr) return several_;
    int const number = op.descriptor_number();
    return number == -1 ? none_ : ring_of(number);
  }

  /// Who closes `number` waits for one less. He came after most that he waits for, and most often
  /// he is the only one: so the walk is short.
  template <class GoOn>
  void tell_closers(int number, GoOn&& go_on) noexcept {
    if (number == -1) return;
    census_node& ring = ring_of(number);
    unsigned unseen = closers_;
    for (census_node *n = ring.after, *next; n != &ring && unseen != 0; n = next) {
      next = n->after;
      auto& closer = *static_cast<operation_base*>(n);
      if (closer.stage_ != stage::closing || !closer.uses(number)) continue;
      --unseen;
      closer.answer_.set(closer.answer_.res() - 1);
      if (closer.answer_.res() > 0) continue;
      leave(closer);
      --closers_;
      go_on(closer);
    }
  }

  /// Twice the rings. Without memory for them the old ones do.
  void grow() noexcept {
    std::unique_ptr<census_node[]> more{new (std::nothrow) census_node[2 * size_]};
    if (!more) return;
    clear(more.get(), 2 * size_);
    std::size_t const size = size_;
    census_node* const old = table_;
    table_ = more.get();
    size_ = 2 * size;
    for (std::size_t i = 0; i < size; ++i)
      while (old[i].before != &old[i]) {  // the oldest first
        auto& op = *static_cast<operation_base*>(old[i].before);
        leave(op);
        push(ring_of(op), op);
      }
    grown_ = std::move(more);
  }

  ledger& counts_;
  std::size_t size_ = 64;  // a power of two
  std::array<census_node, 64> at_first_;
  std::unique_ptr<census_node[]> grown_;
  census_node* table_ = at_first_.data();
  census_node none_{&none_, &none_};           // of those that use no descriptor
  census_node several_{&several_, &several_};  // ... and of those that use two
  time_point now_{};                           // of this turn, once it
  bool now_is_known_ = false;
  unsigned closers_ = 0;
};

}  // namespace iowq::detail
