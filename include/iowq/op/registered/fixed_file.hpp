// SPDX-License-Identifier: BSL-1.0
// iowq/op/registered/fixed_file.hpp -- registered files.
//
// Each call on a descriptor looks it up in a table that all threads share. A connection accepted
// into a slot never enters that table, and does not count towards the limit of descriptors. dup()
// makes a descriptor of it for calls that have no overload for registered files.
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

/// Registers the table with this executor's ring, if it is registered with none. Returns true if
/// the ring's kernel has the table.
[[nodiscard]] inline bool known_here(file_table& table) noexcept {
  ring_backend& backend = loop::current().backend();
  return table.is_registered_with(backend.resources(), backend.features());
}

/// A slot of a table, as operations name it. `table` is null if the fixed_file owns no slot.
struct slot_ref {
  file_table* table;
  unsigned index;

  [[nodiscard]] const fd& file() const noexcept {
    return table != nullptr ? table->file(index) : none;
  }
  /// The descriptor of the file; -1 if it has none.
  [[nodiscard]] int number() const noexcept { return file().get(); }
  /// The number by which the in-flight registry finds the operations on this file: the slot's if
  /// the kernel has the file in its table, else the descriptor. -1 if the slot has no file.
  [[nodiscard]] int user_number() const noexcept {
    return table != nullptr && table->knows(index) ? slot_number(static_cast<int>(index))
                                                   : number();
  }
  /// user_number() for an operation that begins on this executor: registers the table first.
  [[nodiscard]] int used_here() const noexcept {
    if (table != nullptr) static_cast<void>(known_here(*table));
    return user_number();
  }
  void name_in(io_uring_sqe& sqe) const noexcept {
    sqe.fd = static_cast<int>(index);
    sqe.flags = static_cast<std::uint8_t>(sqe.flags | IOSQE_FIXED_FILE);
  }
  /// If the file also has a descriptor: empties the kernel's slot, so that closing the descriptor
  /// closes the file.
  void withdraw_number() const noexcept {
    if (number() >= 0) table->withdraw(index);
  }

 private:
  static inline const fd none;
};

/// Owns a slot, which may not have a file yet.
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

  /// Takes a slot, if this owns none. Returns false if the table is full.
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

/// Owns an open file in a slot of a table, and closes it. Move-only; to be used and destroyed on
/// its executor's thread. As with an fd, use `co_await close(std::move(file))` where closing may
/// block; it also cancels the operations in flight on the file. The destructor closes directly,
/// and asserts that no operation is in flight on the file.
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

  /// Returns true if this owns a slot. An accepted file is closed when the executor that accepted
  /// it ends; from then on every operation on it fails with bad_file_descriptor.
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(slot_); }
  /// The number of the slot in the table.
  [[nodiscard]] unsigned index() const noexcept { return slot_.ref().index; }

  /// Closes the file and frees the slot, as the destructor does.
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

/// The parameter type of operations on a file in a slot. Borrows the file from its fixed_file.
class fixed_descriptor {
 public:
  fixed_descriptor(const fixed_file& owner) noexcept : slot_{owner.slot_.ref()} {}
  /// A temporary would close the file before the operation began.
  fixed_descriptor(fixed_file&&) = delete;

  [[nodiscard]] slot_ref slot() const noexcept { return slot_; }

 private:
  slot_ref slot_;
};

}  // namespace detail

/// A table of `count` slots for files. The first operation on an executor registers the table with
/// its ring, if the kernel supports it (Linux 6.14) and the ring has no other table. Otherwise a
/// slot holds a descriptor, and everything else is the same. Use a table with one executor at a
/// time. It may be destroyed before its files. The constructor throws std::system_error.
class fixed_files {
 public:
  explicit fixed_files(unsigned count) : table_{new detail::file_table{count}} {}
  fixed_files(const fixed_files&) = delete;
  fixed_files& operator=(const fixed_files&) = delete;
  ~fixed_files() { table_->release_owner(); }

  [[nodiscard]] unsigned count() const noexcept { return table_->count(); }
  /// The number of slots that have a file or wait for one.
  [[nodiscard]] unsigned taken() const noexcept { return table_->taken(); }
  /// Returns true if the table is registered with the kernel; false before its first operation.
  [[nodiscard]] bool is_registered() const noexcept { return table_->is_registered(); }

  /// Puts an open file into a slot. Its descriptor also stays open, for operations that run on
  /// workers. Throws bad_file_descriptor if `file` is empty, and too_many_files_open_in_system if
  /// all slots are taken; `file` is then unchanged.
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
