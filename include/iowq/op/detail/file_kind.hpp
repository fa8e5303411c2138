// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/file_kind.hpp -- finds out a descriptor's file type, once for each fd.
//
// A write to a stored file goes to the pool, ordered with other writes to that file. A write to a
// stream waits on the ring. Finding out which of the two a descriptor is takes a statx(2), which
// costs as much as a small write. A table indexed by descriptor number would become wrong when the
// program closes a number and the kernel reuses it, which the library does not notice. So the
// result is kept where it cannot become stale: in the fd that owns the number. A bare number is
// examined each time it is awaited.
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

/// The type of a file and its key, in one word. The key identifies the file: punted writes are
/// ordered by it.
class file_note {
 public:
  constexpr file_note() noexcept = default;
  constexpr explicit file_note(std::uint64_t word) noexcept : word_{word} {}
  file_note(unsigned mode, const file_identity& file) noexcept
      : word_{file.key() << 4 | (mode & S_IFMT) >> 12} {}

  /// 0: unknown.
  [[nodiscard]] std::uint64_t word() const noexcept { return word_; }
  [[nodiscard]] explicit operator bool() const noexcept { return word_ != 0; }
  /// The S_IFMT part of the mode; 0: unknown, or not a descriptor.
  [[nodiscard]] unsigned type() const noexcept { return static_cast<unsigned>(word_ & 15) << 12; }
  [[nodiscard]] std::uint64_t key() const noexcept { return word_ >> 4; }

 private:
  std::uint64_t word_ = 0;
};

/// Examines the file by statx(2), with AT_STATX_DONT_SYNC: no remote server is asked.
[[nodiscard]] inline file_note note_of(int file) noexcept {
  struct ::statx found;
  if (::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found) != 0)
    return {};
  return {found.stx_mode, {found.stx_dev_major, found.stx_dev_minor, found.stx_ino}};
}

/// A descriptor in an operation, and its file type: as its fd knew the type, or as found by the
/// first call of type(). Not synchronised: the owner calls it before a worker has the operation,
/// and only the worker does afterwards.
class known_file {
 public:
  known_file(descriptor file) noexcept : number_{file.get()}, note_{file.note()} {}

  operator int() const noexcept { return number_; }
  [[nodiscard]] unsigned type() const noexcept {
    if (!note_) note_ = note_of(number_);
    return note_.type();
  }
  /// True for a regular file or block device: access may be slow, but never waits for another
  /// party.
  [[nodiscard]] bool is_stored() const noexcept { return type() == S_IFREG || type() == S_IFBLK; }
  [[nodiscard]] std::uint64_t key() const noexcept { return note_.key(); }  // if is_stored()

 private:
  int number_;
  mutable file_note note_;
};

/// True if this file has offsets. io_uring ignores an offset on a stream and waits for data, where
/// the system call fails with ESPIPE. The kernel makes that check before all else, so a preadv(2)
/// without buffers finds out, and never blocks: unlike lseek(2) it does not wait for a thread that
/// uses the file position, nor does it wait for a writer of the file.
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

/// Parameter type of operations that must know the file type. Like descriptor, but the first such
/// operation on an fd examines the file and stores the result in the fd.
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
