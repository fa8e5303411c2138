// SPDX-License-Identifier: BSL-1.0
// std::atomic as the standard's memory model has it, not as a processor does: a load may find any
// value that nothing forbids, as long as deviations are left; a relaxed access orders nothing.
//
// Kept are the last few stores of each place. A load may find one of them unless a newer one
// happened before the load, or was found by this fiber already. A read-modify-write finds the
// newest, and carries the order of the store it replaces on. A sequentially consistent load does
// not look behind the last sequentially consistent store; that orders nothing else. A weak compare
// and swap does not fail for no reason: all of ours are in a loop, and go round it once more.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "world.hpp"

namespace explore {

[[nodiscard]] constexpr bool acquires(std::memory_order order) noexcept {
  return order != std::memory_order_relaxed && order != std::memory_order_release;
}
[[nodiscard]] constexpr bool releases(std::memory_order order) noexcept {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

/// The part of an atomic that does not depend on its type.
class place {
 public:
  static constexpr unsigned kept = 4;

  place(const place&) = delete;
  place& operator=(const place&) = delete;

 protected:
  struct stored {
    std::uint64_t value = 0;
    std::uint64_t history = 0;
    clock_vector released;  // what an acquire that finds it learns
    moment when = 0;
    int by = 0;
    bool synchronises = false;
    bool sequential = false;
  };

  explicit place(std::uint64_t value) noexcept : number_{here.new_place()} {
    here.happened(3);
    stored& first = at(0);
    first.value = value;
    first.history = here.me().history;
    first.by = here.me().id;
    first.when = here.tick();
    made_ = first.when;
    maker_ = first.by;
    accesses_.add(first.by, first.when, true);
  }
  ~place() {
    check_alive();
    if (!accesses_.ordered(here.me().clock, true))
      here.fail("atomic #%u is destroyed while another thread may still use it", number_);
    alive_ = 0;
  }

  [[nodiscard]] std::uint64_t do_load(std::memory_order order, const char* what,
                                      const where& from) {
    begin(false);
    fiber& self = here.me();
    unsigned older = 0;
    unsigned const most = newest_ < kept - 1 ? newest_ : kept - 1;
    while (older < most && newest_ - older > found_[self.id] &&
           self.clock.of[at(newest_ - older).by] < at(newest_ - older).when &&
           !(order == std::memory_order_seq_cst && at(newest_ - older).sequential))
      ++older;
    unsigned const index = newest_ - here.choose_value(older + 1);
    stored const& one = at(index);
    found_[self.id] = index;
    if (acquires(order)) acquire(one);
    accesses_.add(self.id, here.tick(), false);
    here.happened(one.history);
    here.trace(index == newest_ ? what : "load, an old value", number_, one.value, from);
    return one.value;
  }
  void do_store(std::uint64_t value, std::memory_order order, const where& from) {
    begin(true);
    push(value, order, nullptr, "store", from);
  }
  /// `change` is told the value and gives the new one.
  template <class Change>
  std::uint64_t do_change(std::memory_order order, const char* what, const where& from,
                          Change&& change) {
    begin(true);
    stored const old = at(newest_);
    if (acquires(order)) acquire(old);
    push(change(old.value), order, &old, what, from);
    return old.value;
  }
  bool do_compare(std::uint64_t& expected, std::uint64_t value, std::memory_order order,
                  std::memory_order on_failure, const where& from) {
    begin(true);
    stored const old = at(newest_);
    if (old.value == expected) {
      if (acquires(order)) acquire(old);
      push(value, order, &old, "compare, swapped", from);
      return true;
    }
    fiber& self = here.me();
    found_[self.id] = newest_;
    if (acquires(on_failure)) acquire(old);
    accesses_.add(self.id, here.tick(), false);
    here.happened(old.history);
    here.trace("compare, kept", number_, old.value, from);
    expected = old.value;
    return false;
  }

 public:
  // ---- A futex: the kernel sees the newest value and orders nothing ----

  bool futex_wait(std::uint64_t expected, iowq::detail::time_point deadline, const where& from) {
    here.share(number_);
    begin(true);
    fiber& self = here.me();
    (void)here.tick();
    here.happened(at(newest_).history ^ mix(queue_history_));
    if (at(newest_).value != expected) {
      here.trace("futex_wait, changed", number_, at(newest_).value, from);
      return true;
    }
    here.trace("futex_wait", number_, expected, from);
    queue_history_ = self.history;
    self.on = this;
    self.woken = 0;
    self.queued = ++queued_;
    bool const woken = here.wait(self.woken, 1, "a futex", deadline);
    bool const spurious = self.spurious;
    self.on = nullptr;
    self.queued = 0;
    self.spurious = false;
    (void)here.tick();
    here.happened(woken ? self.woken : spurious ? 19 : 23);
    if (!woken) queue_history_ = mix(queue_history_ ^ self.history);
    here.trace(woken      ? "futex_wait, woken"
               : spurious ? "futex_wait, for nothing"
                          : "futex_wait, late",
               number_, at(newest_).value, from);
    return woken || spurious;
  }
  void futex_wake(int count, const where& from) {
    here.share(number_);
    begin(true);
    (void)here.tick();
    here.happened(mix(queue_history_) ^ 29);
    int woken = 0;
    for (; woken < count; ++woken) {
      fiber* first = nullptr;
      for (int i = 0; i < here.fibers(); ++i) {
        fiber& one = here.of(i);
        if (one.on == this && one.woken == 0 && (first == nullptr || one.queued < first->queued))
          first = &one;
      }
      if (first == nullptr) break;
      first->woken = here.me().history | 1;
    }
    if (woken > 0) queue_history_ = here.me().history;
    here.trace(woken > 0 ? "futex_wake" : "futex_wake, nobody", number_, at(newest_).value, from);
  }

 private:
  stored& at(unsigned index) noexcept { return stores_[index % kept]; }

  void check_alive() const {
    if (alive_ != alive) here.fail("an atomic is used that was destroyed, or never made");
  }

  /// The turn before an access, if it takes one; afterwards the access is one of ours.
  void begin(bool write) {
    check_alive();
    if (here.shared(number_)) {
      here.turn();
      check_alive();
    } else if (!accesses_.ordered(here.me().clock, write)) {
      here.share(number_);
    }
    if (here.me().clock.of[maker_] < made_)
      here.fail("atomic #%u is used by a thread that need not have seen it made", number_);
  }

  void acquire(const stored& found) noexcept {
    fiber& self = here.me();
    if (found.synchronises) {
      if (found.by != self.id) here.share(number_);  // what it orders, it must not hide
      self.clock.join(found.released);
    }
  }

  void push(std::uint64_t value, std::memory_order order, const stored* replaced, const char* what,
            const where& from) noexcept {
    fiber& self = here.me();
    here.happened(at(newest_).history ^ 31);
    moment const now = here.tick();
    stored& made = at(++newest_);
    made.value = value;
    made.history = self.history;
    made.when = now;
    made.by = self.id;
    made.synchronises = false;
    made.released = {};
    made.sequential = order == std::memory_order_seq_cst;
    if (releases(order)) {
      made.released = self.clock;
      made.synchronises = true;
    }
    if (replaced != nullptr && replaced->synchronises) {
      made.released.join(replaced->released);
      made.synchronises = true;
    }
    found_[self.id] = newest_;
    accesses_.add(self.id, now, true);
    here.trace(what, number_, value, from);
  }

  static constexpr std::uint32_t alive = 0xa70a1c;
  std::uint32_t alive_ = alive;
  unsigned number_;
  unsigned newest_ = 0;  // index of the store that is last in modification order
  moment made_ = 0;
  int maker_ = 0;
  std::uint64_t queue_history_ = 0;
  std::uint64_t queued_ = 0;
  unsigned found_[max_fibers] = {};  // the newest store that each fiber has found
  accesses accesses_;
  stored stores_[kept];
};

template <class T>
class atomic : public place {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  using order = std::memory_order;
  static constexpr order seq_cst = std::memory_order_seq_cst;

 public:
  using value_type = T;

  atomic() noexcept : atomic(T{}) {}
  atomic(T value) noexcept : place{pack(value)} {}

  T load(order how = seq_cst, const where& at = where::current()) const noexcept {
    return unpack(const_cast<atomic*>(this)->do_load(how, "load", at));
  }
  void store(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    do_store(pack(value), how, at);
  }
  T exchange(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    return unpack(do_change(how, "exchange", at, [&](std::uint64_t) { return pack(value); }));
  }
  bool compare_exchange_strong(T& expected, T value, order how, order on_failure,
                               const where& at = where::current()) noexcept {
    std::uint64_t packed = pack(expected);
    bool const swapped = do_compare(packed, pack(value), how, on_failure, at);
    if (!swapped) expected = unpack(packed);
    return swapped;
  }
  bool compare_exchange_strong(T& expected, T value, order how = seq_cst,
                               const where& at = where::current()) noexcept {
    return compare_exchange_strong(expected, value, how, without_release(how), at);
  }
  bool compare_exchange_weak(T& expected, T value, order how, order on_failure,
                             const where& at = where::current()) noexcept {
    return compare_exchange_strong(expected, value, how, on_failure, at);
  }
  bool compare_exchange_weak(T& expected, T value, order how = seq_cst,
                             const where& at = where::current()) noexcept {
    return compare_exchange_strong(expected, value, how, at);
  }
  T fetch_add(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    return change(how, "add", at, [&](T old) { return static_cast<T>(old + value); });
  }
  T fetch_sub(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    return change(how, "subtract", at, [&](T old) { return static_cast<T>(old - value); });
  }
  T fetch_or(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    return change(how, "or", at, [&](T old) { return static_cast<T>(old | value); });
  }
  T fetch_and(T value, order how = seq_cst, const where& at = where::current()) noexcept {
    return change(how, "and", at, [&](T old) { return static_cast<T>(old & value); });
  }

 private:
  template <class Change>
  T change(order how, const char* what, const where& at, Change&& to) noexcept {
    return unpack(
        do_change(how, what, at, [&](std::uint64_t old) { return pack(to(unpack(old))); }));
  }
  static constexpr order without_release(order how) noexcept {
    if (how == std::memory_order_release) return std::memory_order_relaxed;
    if (how == std::memory_order_acq_rel) return std::memory_order_acquire;
    return how;
  }
  static std::uint64_t pack(T value) noexcept {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
  }
  static T unpack(std::uint64_t bits) noexcept {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

/// Plain data. Two accesses without an order, one of them a write, are a failure.
template <class T>
class var {
 public:
  var(T value = {}) : value_{value} { (void)note(true, where::current()); }
  var(const var&) = delete;
  var& operator=(const var&) = delete;
  ~var() { (void)note(true, where::current()); }

  [[nodiscard]] T get(const where& at = where::current()) const {
    const_cast<var*>(this)->note(false, at);
    return value_;
  }
  void set(T value, const where& at = where::current()) {
    note(true, at);
    value_ = value;
  }

 private:
  void note(bool write, const where& at) {
    if (!accesses_.ordered(here.me().clock, write))
      here.fail("a data race: %s of plain data at line %u, and nothing orders it after another's",
                write ? "write" : "read", at.line());
    accesses_.add(here.me().id, here.tick(), write);
  }
  T value_;
  accesses accesses_;
};

/// A `var` that is read and written like what it holds.
template <class T>
class guarded : public var<T> {
 public:
  using var<T>::var;
  guarded& operator=(T value) {
    this->set(value);
    return *this;
  }
  operator T() const { return this->get(); }
};

}  // namespace explore
