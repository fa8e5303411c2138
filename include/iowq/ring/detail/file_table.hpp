// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/file_table.hpp -- the table of registered files of a ring.
//
// A ring has one table of registered files. A slot of the table is free or taken. This class
// allocates the slots, although the kernel could also choose one. An accept thus takes its slot
// before it starts. Otherwise the kernel could take a connection out of the backlog, find no free
// slot, and close the connection. If the table is not registered with the kernel, a slot holds a
// descriptor, and everything else is the same.
//
// F1  Each taken slot is given back exactly once, by its taker. Its file is closed then.
// F2  The kernel's slot is emptied before our slot becomes free, so a new file replaces nothing.
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

/// A table of `count` slots. It belongs to one ring at a time, from its first use there until that
/// ring is closed; during that time only the owner thread may use it. It deletes itself when its
/// owner has released it and no slot is taken.
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
  /// Called when the owner will take no more slots. Deletes *this if no slot is taken.
  void release_owner() noexcept {
    held_ = false;
    end_if_unused();
  }

  /// Attaches the table to the ring of `owner` if it belongs to no ring yet. Returns true if the
  /// table is registered with that ring's kernel.
  [[nodiscard]] bool is_registered_with(registrar& owner, const ring_features& has) noexcept {
    if (host() == nullptr) [[unlikely]]
      move_in(owner, has);
    IOWQ_ASSERT(host() == &owner.host(),
                "a table of files was used on another executor than the one that it is with");
    return registered_;
  }
  [[nodiscard]] bool is_registered() const noexcept { return registered_; }

  /// Takes a free slot, which holds no file. Returns `none` if all slots are taken.
  [[nodiscard]] unsigned take() noexcept {
    if (free_ == none) return none;
    unsigned const index = std::exchange(free_, slots_[free_].next);
    slots_[index].next = none;
    ++taken_;
    return index;
  }
  /// Records the file of slot `index`: `file`, which is registered with the kernel, or, if `file`
  /// is empty, the file that the kernel has already put there. `of_ring`: the file is closed with
  /// the ring.
  void fill(unsigned index, fd file, bool of_ring) noexcept {
    slot& s = slots_[index];
    s.of_ring = of_ring;
    s.known = registered_ && (!file || Kernel::update_file(*host(), index, file.get()) == 1);
    s.file = std::move(file);
  }
  /// Returns true if the kernel has the file in its slot.
  [[nodiscard]] bool knows(unsigned index) const noexcept { return slots_[index].known; }
  /// The slot's descriptor. It is empty if the file has only the slot, or if the slot has no file.
  [[nodiscard]] fd& file(unsigned index) noexcept { return slots_[index].file; }

  /// Empties the kernel's slot (F2).
  void withdraw(unsigned index) noexcept {
    if (!std::exchange(slots_[index].known, false)) return;
    check_owner();
    static_cast<void>(Kernel::update_file(*host(), index, -1));
  }
  /// Records that the kernel's slot is empty already.
  void withdrawn(unsigned index) noexcept { slots_[index].known = false; }
  /// Closes the file in the slot and frees the slot (F1). May delete *this.
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
  /// The ring was closed. Closes the files that end with it. Files that have a descriptor of the
  /// user stay usable with another ring.
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
