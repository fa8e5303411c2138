// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/nonblocking_io.hpp -- reads and writes that do not block, on every kind of file.
//
// With RWF_NOWAIT the kernel returns the data that it has without waiting: for a stored file, the
// cached part. A short read then does not mean the end of the file. It is accepted only if the
// file's size confirms it; otherwise a worker reads everything again. Not every file supports the
// flag: sockets do since Linux 6.5, pipes since 6.4, tmpfs does not. A stored file that refuses the
// flag is asked only once. The fd_cache remembers this by descriptor, not by device, because
// finding out the device costs more than trying the call.
#pragma once

#include <fcntl.h>
#include <limits.h>
#include <linux/stat.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <iowq/base/result.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>

namespace iowq::inline v0::detail {

inline constexpr std::int64_t at_position = -1;  // means the file position

/// Receives from a socket if `events` is POLLIN, else sends to it, without blocking. Returns
/// -ENOTSOCK if `file` is not a socket.
[[nodiscard]] inline int by_message(int file, short events,
                                    std::span<const ::iovec> parts) noexcept {
  ::msghdr all{};
  all.msg_iov = const_cast<::iovec*>(parts.data());
  all.msg_iovlen = parts.size();
  return static_cast<int>(or_errno(events == POLLIN
                                       ? ::recvmsg(file, &all, MSG_DONTWAIT)
                                       : ::sendmsg(file, &all, MSG_DONTWAIT | MSG_NOSIGNAL)));
}

/// The result of try_nonblocking() for a stream on which a call with RWF_NOWAIT returned `r`.
[[nodiscard]] inline int stream_answer(int file, short events, std::span<const ::iovec> parts,
                                       int r) noexcept {
  if (r == -EOPNOTSUPP)
    if (int const said = by_message(file, events, parts); said != -ENOTSOCK) r = said;
  if (r == -EINTR) return -EOPNOTSUPP;
  if (r != -EOPNOTSUPP) return r;
  // Some ttys and special files. Even if the file is ready, another reader or writer may come
  // first, and then an ordinary call would block. So the owner does not make it.
  return look_for_events(file, events) == -EAGAIN ? -EAGAIN : -EOPNOTSUPP;
}

/// Writes to a pipe that is ready, in chunks of at most PIPE_BUF bytes: such a write does not block
/// while poll(2) reports POLLOUT. Stops when the pipe is no longer ready. Writes from the first
/// non-empty part only. Returns the number of bytes written, or -errno.
[[nodiscard]] inline int fill_pipe(int pipe, std::span<const ::iovec> parts) noexcept {
  auto const part = std::ranges::find_if(parts, [](auto& one) { return one.iov_len != 0; });
  std::size_t done = 0;
  do {
    auto const* const from = static_cast<const std::byte*>(part->iov_base) + done;
    auto const r =
        or_errno(::write(pipe, from, std::min<std::size_t>(part->iov_len - done, PIPE_BUF)));
    if (r < 0) return static_cast<int>(done != 0 ? static_cast<::ssize_t>(done) : r);
    done += static_cast<std::size_t>(r);
  } while (done < part->iov_len && look_for_events(pipe, POLLOUT) == POLLOUT);
  return static_cast<int>(done);
}

/// Like stream_answer(), but on a worker. It may wait, but only where a stop request can end the
/// wait.
[[nodiscard]] inline int worker_answer(int file, short events, std::span<const ::iovec> parts,
                                       int r, const stop_token& stop) noexcept {
  if (r != -EOPNOTSUPP) return r;
  if (int const said = by_message(file, events, parts); said != -ENOTSOCK) return said;
  int const ready = wait_for_events(file, events, stop);
  if (ready < 0) return ready;
  auto const count = static_cast<int>(parts.size());
  if (events == POLLIN) return static_cast<int>(or_errno(::readv(file, parts.data(), count)));
  struct ::stat about;
  if (length_of(parts) > PIPE_BUF && ::fstat(file, &about) == 0 && S_ISFIFO(about.st_mode))
    return fill_pipe(file, parts);
  return static_cast<int>(or_errno(::writev(file, parts.data(), count)));
}

/// True if a read that returned `r` stopped at the end of `file`. Call only for files that support
/// RWF_NOWAIT: these are local, so their size is current.
[[nodiscard]] inline bool stopped_at_end(int file, std::int64_t offset, int r,
                                         const struct ::statx& about) noexcept {
  if (!S_ISREG(about.stx_mode)) return false;
  std::int64_t const end = offset == at_position ? ::lseek(file, 0, SEEK_CUR) : offset + r;
  return end >= 0 && static_cast<std::uint64_t>(end) >= about.stx_size;
}

/// try_nonblocking() of the calls that read.
[[nodiscard]] inline int probe_read(int file, std::span<const ::iovec> parts,
                                    std::int64_t offset) noexcept {
  fd_cache& known = loop::current().devices().fds();
  if (known.always_waits(file)) return -EOPNOTSUPP;
  auto const count = static_cast<int>(parts.size());
  auto const r =
      static_cast<int>(or_errno(::preadv2(file, parts.data(), count, offset, RWF_NOWAIT)));
  bool const all = r >= 0 && static_cast<std::size_t>(r) == length_of(parts);
  if (all || (r < 0 && r != -EAGAIN && r != -EOPNOTSUPP && r != -EINTR)) return r;
  struct ::statx about;
  if (::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, &about) != 0)
    return -EOPNOTSUPP;
  if (!S_ISREG(about.stx_mode) && !S_ISBLK(about.stx_mode))
    return stream_answer(file, POLLIN, parts, r);
  if (r >= 0 && stopped_at_end(file, offset, r, about)) return r;
  if (r == -EOPNOTSUPP) known.learn_always_waits(file);
  if (r > 0 && offset == at_position) ::lseek(file, -r, SEEK_CUR);
  return -EOPNOTSUPP;
}
[[nodiscard]] inline int probe_read(int file, mutable_bytes bytes, std::int64_t offset) noexcept {
  ::iovec const one{bytes.data(), bytes.length()};
  return probe_read(file, std::span{&one, 1}, offset);
}

}  // namespace iowq::inline v0::detail
