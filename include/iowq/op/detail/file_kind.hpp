// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/file_kind.hpp -- what kind of file a descriptor is, asked once.
//
// A write to a stored file goes to the pool, in order with others to that file; one to a stream
// waits on the ring. To know which costs a statx(2), as much as a small write. A table by number
// would be wrong as soon as a number is closed and given out again next_in_ring our back, so the
// answer is kept where it cannot grow stale, in the fd that owns the number. A bare number is
// looked at each time it is awaited.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstdint>

#include <iowq/base/fd.hpp>
#include <iowq/exec/detail/fd_cache.hpp>
#include <iowq/exec/detail/loop.hpp>

namespace iowq::inline v0 {

namespace detail {

/// What kind of file it is and, in one word, which: the key that orders writes to it.
class file_note {
 public:
  constexpr file_note() noexcept = default;
  constexpr explicit file_note(std::uint64_t word) noexcept : word_{word} {}
  file_note(unsigned mode, const file_identity& file) noexcept
      : word_{file.key() << 4 | (mode & S_IFMT) >> 12} {}

  /// 0: nothing is known.
  [[nodiscard]] std::uint64_t word() const noexcept { return word_; }
  [[nodiscard]] explicit operator bool() const noexcept { return word_ != 0; }
  /// The S_IFMT part of its mode; 0: unknown, or no descriptor.
  [[nodiscard]] unsigned type() const noexcept { return static_cast<unsigned>(word_ & 15) << 12; }
  [[nodiscard]] std::uint64_t key() const noexcept { return word_ >> 4; }

 private:
  std::uint64_t word_ = 0;
};

/// Looks, without asking a server for anything.
[[nodiscard]] inline file_note note_of(int file) noexcept {
  struct ::statx found;
  if (::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found) != 0)
    return {};
  return {found.stx_mode, {found.stx_dev_major, found.stx_dev_minor, found.stx_ino}};
}

/// A descriptor in an operation: what its fd knew of it, or what it finds when first asked. Asked
/// by the owner before a worker has it, and by the worker then.
class known_file {
 public:
  known_file(descriptor file) noexcept : number_{file.get()}, note_{file.note()} {}

  operator int() const noexcept { return number_; }
  [[nodiscard]] unsigned type() const noexcept {
    if (!note_) note_ = note_of(number_);
    return note_.type();
  }
  /// A regular file or block device: it may be slow, but waits for nobody.
  [[nodiscard]] bool is_stored() const noexcept { return type() == S_IFREG || type() == S_IFBLK; }
  [[nodiscard]] std::uint64_t key() const noexcept { return note_.key(); }  // if it is stored

 private:
  int number_;
  mutable file_note note_;
};

/// Does this file have offsets? The ring ignores that of a stream, and waits, where the system call
/// says ESPIPE. The kernel checks that first, so a call for no bytes asks, and waits for nobody:
/// not for who holds the file's position, as lseek(2) does, nor for who writes to the file.
[[nodiscard]] inline bool has_offsets(int file) noexcept {
  fd_cache& known = loop::current().devices().fds();
  if (known.seeks(file)) [[likely]]
    return true;
  if (::preadv(file, nullptr, 0, 0) == 0)
    known.learn_seeks(file);
  else if (errno == ESPIPE)
    return false;
  return true;
}

}  // namespace detail

namespace detail {

/// How operations take a descriptor whose kind they must know: as descriptor does, but the first
/// of them looks, and tells the fd.
class known_descriptor : public descriptor {
 public:
  known_descriptor(int number) noexcept : descriptor{number} {}
  known_descriptor(const fd& owner) noexcept : descriptor{owner} {
    if (note() == 0 && owner) remember(owner, note_of(owner.get()).word());
  }
  known_descriptor(descriptor file) noexcept : descriptor{file} {}
  known_descriptor(fd&&) = delete;
};

}  // namespace detail

}  // namespace iowq::inline v0
