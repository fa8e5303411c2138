// SPDX-License-Identifier: BSL-1.0
// iowq/op/registered/fixed_file.hpp -- registered files.
//
// A descriptor is looked up in a table that all threads share, for each call; a connection accepted
// into a slot never enters it, and no limit of descriptors counts it. Who needs a descriptor after
// all, for a call that is not here, makes one by dup().
#pragma once

#include <cerrno>
#include <cstdint>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/in_flight.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/ring/detail/file_table.hpp>

namespace iowq::inline v0 {

namespace detail {

class fixed_descriptor;

/// Moves the table in with this executor, if it is at home nowhere.
[[nodiscard]] inline bool known_here(file_table& table) noexcept {
  ring_backend& backend = loop::current().backend();
  return table.is_registered_with(backend.resources(), backend.features());
}

/// A slot of a table, as operations name it. No table: of a fixed_file that owns none.
struct slot_ref {
  file_table* table;
  unsigned index;

  [[nodiscard]] const fd& file() const noexcept {
    return table != nullptr ? table->file(index) : none;
  }
  /// -1: it has no descriptor.
  [[nodiscard]] int number() const noexcept { return file().get(); }
  /// What finds its users in the census. -1: there is nothing in it any more.
  [[nodiscard]] int user_number() const noexcept {
    return table != nullptr && table->knows(index) ? slot_number(static_cast<int>(index))
                                                   : number();
  }
  /// The same before an operation, on its executor.
  [[nodiscard]] int used_here() const noexcept {
    if (table != nullptr) static_cast<void>(known_here(*table));
    return user_number();
  }
  void name_in(io_uring_sqe& sqe) const noexcept {
    sqe.fd = static_cast<int>(index);
    sqe.flags = static_cast<std::uint8_t>(sqe.flags | IOSQE_FIXED_FILE);
  }
  /// Of a file that has a descriptor, too: the kernel's slot is emptied, so that its end is the
  /// descriptor's.
  void withdraw_number() const noexcept {
    if (number() >= 0) table->withdraw(index);
  }

 private:
  static inline const fd none;
};

/// Owns a slot; what is in it may come later.
class taken_slot {
 public:
  taken_slot() noexcept = default;
  taken_slot(taken_slot&& other) noexcept
      : ref_{std::exchange(other.ref_.table, nullptr), other.ref_.index} {}
  taken_slot& operator=(taken_slot&& other) noexcept {
    if (this == &other) return *this;
    give_back();
    ref_ = {std::exchange(other.ref_.table, nullptr), other.ref_.index};
    return *this;
  }
  ~taken_slot() { give_back(); }

  /// False: the table is full.
  [[nodiscard]] bool take(file_table& from) noexcept {
    if (*this) return true;
    unsigned const index = from.take();
    if (index == file_table::none) return false;
    ref_ = {&from, index};
    return true;
  }
  void give_back() noexcept {
    if (*this) std::exchange(ref_.table, nullptr)->give_back(ref_.index);
  }
  [[nodiscard]] explicit operator bool() const noexcept { return ref_.table != nullptr; }
  [[nodiscard]] slot_ref ref() const noexcept { return ref_; }

 private:
  slot_ref ref_{nullptr, 0};
};

}  // namespace detail

/// Owns an open file in a slot of a table, and closes it; move-only, on its executor's thread.
/// As with an fd, `co_await close(std::move(file))` is for what may block, and ends what is in
/// flight on it; the destructor stops the program if there is something.
class fixed_file {
 public:
  fixed_file() noexcept = default;
  fixed_file(fixed_file&& other) noexcept = default;
  fixed_file& operator=(fixed_file&& other) noexcept {
    if (this == &other) return *this;
    reset();
    slot_ = std::move(other.slot_);
    return *this;
  }
  ~fixed_file() { reset(); }

  /// Does it own a slot? The file in it ends with the executor that accepted it, and then every
  /// operation fails with bad_file_descriptor.
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(slot_); }
  /// Its place in the table.
  [[nodiscard]] unsigned index() const noexcept { return slot_.ref().index; }

  /// Closes it.
  void reset() noexcept {
    if (!slot_) return;
    if (detail::before_close != nullptr) detail::before_close(slot_.ref().user_number());
    slot_.give_back();
  }

  explicit fixed_file(detail::taken_slot filled) noexcept : slot_{std::move(filled)} {}

 private:
  friend class detail::fixed_descriptor;
  detail::taken_slot slot_;
};

namespace detail {

/// How operations take a file in a slot, which stays the caller's.
class fixed_descriptor {
 public:
  fixed_descriptor(const fixed_file& owner) noexcept : slot_{owner.slot_.ref()} {}
  /// A temporary would close it before the operation began.
  fixed_descriptor(fixed_file&&) = delete;

  [[nodiscard]] slot_ref slot() const noexcept { return slot_; }

 private:
  slot_ref slot_;
};

}  // namespace detail

/// `count` slots for files. The first operation on an executor registers them there, if its kernel
/// has such tables (Linux 6.14) and it has no other one; where not, a slot holds a descriptor, and
/// everything else is the same. With one executor at a time. May go before its files. Throws
/// std::system_error.
class fixed_files {
 public:
  explicit fixed_files(unsigned count) : table_{new detail::file_table{count}} {}
  fixed_files(const fixed_files&) = delete;
  fixed_files& operator=(const fixed_files&) = delete;
  ~fixed_files() { table_->release_owner(); }

  [[nodiscard]] unsigned count() const noexcept { return table_->count(); }
  /// How many have a file, or wait for one.
  [[nodiscard]] unsigned taken() const noexcept { return table_->taken(); }
  /// Does the kernel have the table? Not before its first operation.
  [[nodiscard]] bool is_registered() const noexcept { return table_->is_registered(); }

  /// Puts an open file into a slot. Its descriptor stays open beside it, for what workers do with
  /// it. All slots taken: throws too_many_files_open_in_system, and `file` is still the caller's.
  [[nodiscard]] fixed_file add(fd&& file) {
    detail::taken_slot slot;
    if (!file) detail::throw_error(-EBADF, "fixed_files::add");
    if (!slot.take(*table_)) detail::throw_error(-ENFILE, "fixed_files::add");
    table_->fill(slot.ref().index, std::move(file), false);
    return fixed_file{std::move(slot)};
  }

  [[nodiscard]] detail::file_table& table() const noexcept { return *table_; }  // for operations

 private:
  detail::file_table* table_;
};

}  // namespace iowq::inline v0
