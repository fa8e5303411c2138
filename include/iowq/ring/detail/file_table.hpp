// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/file_table.hpp -- the table of registered files of a ring.
//
// A ring has one table of files. A slot of it is free or taken, and that is decided here and not
// by the kernel, which could choose one as well: an accept has its slot before it begins, so no
// connection is taken out of the backlog that then finds none, and is closed. Where the kernel does
// not have the table, what a slot has is a descriptor, and all else is the same.
//
// F1  A slot that is taken is given back by whoever mark_taken it, once, and its file is closed
// then. F2  The kernel's slot is emptied before ours is free: what comes next finds nothing to
// replace.
#pragma once

#include <cerrno>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/ring/detail/kernel.hpp>
#include <iowq/ring/detail/registered_resource.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0::detail {

/// So many slots. It is with one ring at a time, from its first use there until that ring's end,
/// and then on the owner thread only. It lives until nobody holds it and no slot is taken.
template <class Kernel = linux_kernel>
class basic_file_table : public registered_resource {
 public:
  static constexpr unsigned most = 1U << 20;  // the kernel's limit
  static constexpr unsigned none = ~0U;

  /// Throws std::system_error: invalid_argument; std::bad_alloc.
  explicit basic_file_table(unsigned count) : registered_resource{&on_ring_closed} {
    if (count == 0 || count > most) throw_error(-EINVAL, "fixed_files");
    slots_ = std::vector<slot>(count);
    for (unsigned i = count; i-- != 0;) push(i);
  }

  [[nodiscard]] unsigned count() const noexcept { return static_cast<unsigned>(slots_.size()); }
  [[nodiscard]] unsigned taken() const noexcept { return taken_; }
  /// Nobody takes a slot any more.
  void release_owner() noexcept {
    held_ = false;
    end_if_unused();
  }

  /// Moves in if it is at home nowhere. Does this ring's kernel have the table?
  [[nodiscard]] bool is_registered_with(registrar& owner, const ring_features& has) noexcept {
    if (host() == nullptr) [[unlikely]]
      move_in(owner, has);
    IOWQ_ASSERT(host() == &owner.host(),
                "a table of files was used on another executor than the one that it is with");
    return registered_;
  }
  [[nodiscard]] bool is_registered() const noexcept { return registered_; }

  /// A free slot, without a file; none: all are taken.
  [[nodiscard]] unsigned take() noexcept {
    if (free_ == none) return none;
    unsigned const index = std::exchange(free_, slots_[free_].next);
    slots_[index].next = none;
    ++taken_;
    return index;
  }
  /// Puts a file into it: of a descriptor or, without one, that which the kernel has put there.
  /// `of_ring`: it ends with the ring.
  void fill(unsigned index, fd file, bool of_ring) noexcept {
    slot& s = slots_[index];
    s.of_ring = of_ring;
    s.known = registered_ && (!file || Kernel::update_file(*host(), index, file.get()) == 1);
    s.file = std::move(file);
  }
  /// Does the kernel find the file in its slot?
  [[nodiscard]] bool knows(unsigned index) const noexcept { return slots_[index].known; }
  /// Empty: there is no other way to it than the slot, or nothing is in it.
  [[nodiscard]] fd& file(unsigned index) noexcept { return slots_[index].file; }

  /// F2
  void withdraw(unsigned index) noexcept {
    if (!std::exchange(slots_[index].known, false)) return;
    check_owner();
    static_cast<void>(Kernel::update_file(*host(), index, -1));
  }
  /// The kernel's slot is empty already.
  void withdrawn(unsigned index) noexcept { slots_[index].known = false; }
  /// Closes what is in it. It may be the last act of *this.
  void give_back(unsigned index) noexcept {
    withdraw(index);
    slots_[index].file.reset();
    push(index);
    --taken_;
    end_if_unused();
  }

 private:
  struct slot {
    fd file;
    unsigned next = none;
    bool known = false;
    bool of_ring = false;
  };

  ~basic_file_table() {
    if (!registered_) return;
    check_owner();
    static_cast<void>(Kernel::unregister_files(*host()));
  }
  void end_if_unused() noexcept {
    if (!held_ && taken_ == 0) delete this;
  }

  void push(unsigned index) noexcept { slots_[index].next = std::exchange(free_, index); }

  IOWQ_NOINLINE void move_in(registrar& owner, const ring_features& has) noexcept {
    owner_ = linux_policy::thread_id();
    enter(owner);
    std::unique_ptr<int[]> const all{has.keeps_files() ? new (std::nothrow) int[count()] : nullptr};
    if (!all) return;
    for (unsigned i = 0; i < count(); ++i) all[i] = slots_[i].file.get();
    registered_ = Kernel::register_files(*host(), all.get(), count()) == 0;
    for (slot& s : slots_) s.known = registered_ && s.file;
  }
  /// The ring is gone. What has a descriptor of the user's can go on elsewhere.
  static void on_ring_closed(registered_resource& self) noexcept {
    auto& me = static_cast<basic_file_table&>(self);
    me.registered_ = false;
    for (slot& s : me.slots_) {
      s.known = false;
      if (s.of_ring) s.file.reset();
    }
  }
  void check_owner() const noexcept {
    IOWQ_ASSERT(linux_policy::thread_id() == owner_,
                "a table of files, or a file of it, ended on a thread that is not its executor's");
  }

  std::vector<slot> slots_;
  unsigned free_ = none;
  unsigned taken_ = 0;
  int owner_ = 0;
  bool held_ = true;
  bool registered_ = false;
};

using file_table = basic_file_table<>;

}  // namespace iowq::inline v0::detail
