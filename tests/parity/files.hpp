// SPDX-License-Identifier: BSL-1.0
// Programs of tests/parity: files, their names and attributes.
#pragma once

#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "machine.hpp"

namespace parity {

using iowq::task;

inline bool has_nul(const std::string& path) { return path.find('\0') != path.npos; }
/// open(2) of a C string would see no more of it; ours says that it is invalid.
#define PARITY_PATH(path) \
  if (has_nul(path)) co_return

inline task<> open_one(machine& m) {
  int const flags =
      m.one_of({O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR}) |
      m.one_of({0, 0, O_CREAT, O_CREAT, O_CREAT | O_EXCL, O_CREAT | O_TRUNC, O_APPEND | O_CREAT,
                O_DIRECTORY, O_NOFOLLOW, O_PATH, O_DIRECT | O_CREAT, O_TMPFILE, O_TRUNC}) |
      (m.once_in(8) ? O_NONBLOCK : 0);
  iowq::fd& slot = m.file();
  std::string const path = m.path();
  PARITY_PATH(path);
  if (slot) co_return;
  // Of these two mistakes at once the ring names the other.
  bool const writes = (flags & O_ACCMODE) != O_RDONLY;
  if (path.empty() && (flags & O_TMPFILE) == O_TMPFILE && !writes) co_return;
  // Nothing here is a FIFO, so no open waits.
  co_await m.both_into(
      slot, "open", [&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0640); },
      [&] { return iowq::open(path, flags, 0640); });
}

inline task<> open_beneath(machine& m) {
  ::open_how how{};
  how.flags = O_RDWR | O_CREAT | O_CLOEXEC;
  how.mode = 0600;
  how.resolve = m.one_of<std::uint64_t>({0, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS});
  std::string const name = m.one_of<std::string>({m.name(), "../x", m.name() + '/' + m.name()});
  iowq::fd& slot = m.file();
  if (slot) co_return;
  iowq::fd const top{::open(m.directory().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  co_await m.both_into(
      slot, "open",
      [&] {
        return static_cast<int>(::syscall(SYS_openat2, top.get(), name.c_str(), &how, sizeof how));
      },
      [&] { return iowq::openat2(top, name, how); });
}

inline task<> close_one(machine& m) {
  iowq::fd& slot = m.file();
  co_await m.both(
      "close", [&] { return ::close(slot.release()); },
      [&] { return iowq::close(std::move(slot)); });
}

inline task<> dup_one(machine& m) {
  iowq::fd &from = m.file(), &to = m.file();
  if (to) co_return;
  co_await m.both_into(
      to, "dup", [&] { return ::fcntl(from.get(), F_DUPFD_CLOEXEC, 0); },
      [&] { return iowq::dup(from); });
}

inline task<> read_some(machine& m) {
  iowq::fd& f = m.file();
  std::size_t const n = m.length();
  std::int64_t const at = m.offset(f);
  bool const positional = m.once_in(2) || m.is_direct(f);
  iowq::mutable_bytes const into{m.room(), n};
  long const got = co_await m.both(
      "read",
      [&] {
        return positional ? ::pread(f.get(), m.room(), n, at < 0 ? -2 : at)
                          : ::read(f.get(), m.room(), n);
      },
      [&] { return positional ? iowq::pread(f, into, at) : iowq::read(f, into); });
  m.note_bytes(m.room(), got);
}

inline task<> write_some(machine& m) {
  iowq::fd& f = m.file();
  std::size_t const n = m.length(), from = m.below(64);
  std::int64_t const at = m.offset(f);
  bool const positional = m.once_in(2) || m.is_direct(f);
  std::size_t const size = std::min(n, machine::buffer_size - from);
  iowq::const_bytes const bytes{m.bytes() + from, size};
  co_await m.both(
      "write",
      [&] {
        return positional ? ::pwrite(f.get(), bytes.data(), size, at < 0 ? -2 : at)
                          : ::write(f.get(), bytes.data(), size);
      },
      [&] { return positional ? iowq::pwrite(f, bytes, at) : iowq::write(f, bytes); });
}

inline task<> read_parts(machine& m) {
  iowq::fd& f = m.file();
  std::size_t const n = m.below(5000), k = m.below(5000);
  std::int64_t const at = m.offset(f);
  bool const positional = m.once_in(2) || m.is_direct(f);
  ::iovec parts[] = {{m.room(), n}, {m.room() + 5000, k}};
  long const got = co_await m.both(
      "readv",
      [&] {
        return positional ? ::preadv(f.get(), parts, 2, at < 0 ? -2 : at)
                          : ::readv(f.get(), parts, 2);
      },
      [&] { return positional ? iowq::preadv(f, parts, at) : iowq::readv(f, parts); });
  m.note_bytes(m.room(), got < 0 ? 0 : std::min(got, static_cast<long>(n)));
}

inline task<> write_parts(machine& m) {
  iowq::fd& f = m.file();
  std::size_t const n = m.below(5000), k = m.below(5000);
  std::int64_t const at = m.offset(f);
  bool const positional = m.once_in(2) || m.is_direct(f);
  ::iovec parts[] = {{m.bytes(), n}, {m.bytes() + 5000, k}};
  co_await m.both(
      "writev",
      [&] {
        return positional ? ::pwritev(f.get(), parts, 2, at < 0 ? -2 : at)
                          : ::writev(f.get(), parts, 2);
      },
      [&] { return positional ? iowq::pwritev(f, parts, at) : iowq::writev(f, parts); });
}

inline task<> durability(machine& m) {
  iowq::fd& f = m.file();
  std::int64_t const at = m.offset(f);
  auto const n = static_cast<std::int64_t>(m.length());
  switch (m.below(3)) {
    case 0:
      co_await m.both("fsync", [&] { return ::fsync(f.get()); }, [&] { return iowq::fsync(f); });
      break;
    case 1:
      co_await m.both(
          "fsync", [&] { return ::fdatasync(f.get()); }, [&] { return iowq::fdatasync(f); });
      break;
    default:
      co_await m.both(
          "sync_file_range",
          [&] { return ::sync_file_range(f.get(), at, n, SYNC_FILE_RANGE_WRITE); },
          [&] { return iowq::sync_file_range(f, at, n, SYNC_FILE_RANGE_WRITE); });
  }
}

inline task<> room_for(machine& m) {
  iowq::fd& f = m.file();
  std::int64_t const at = m.offset(f);
  auto const n = static_cast<std::int64_t>(m.length()) + (m.is_usable(f) ? 0 : 1);
  int const mode = m.one_of({0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
  int const advice = m.one_of({POSIX_FADV_NORMAL, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, 99});
  switch (m.below(3)) {
    case 0:
      co_await m.both(
          "fallocate", [&] { return ::fallocate(f.get(), mode, at, n); },
          [&] { return iowq::fallocate(f, mode, at, n); });
      break;
    case 1:
      co_await m.both(
          "ftruncate", [&] { return ::ftruncate(f.get(), at); },
          [&] { return iowq::ftruncate(f, at); });
      break;
    default:
      co_await m.both(
          "fadvise",
          [&] {
            errno = ::posix_fadvise(f.get(), at, n, advice);
            return errno == 0 ? 0 : -1;
          },
          [&] { return iowq::fadvise(f, at, n, advice); });
  }
}

inline task<> between_files(machine& m) {
  iowq::fd &from = m.file(), &to = m.file();
  std::size_t const n = m.length();
  std::int64_t const in = m.offset(), out = m.offset();
  iowq::file_offset const in_at = m.once_in(2) ? iowq::file_offset{in} : iowq::file_offset{};
  iowq::file_offset const out_at = m.once_in(2) ? iowq::file_offset{out} : iowq::file_offset{};
  ::off64_t a = in, b = out;
  if (m.once_in(2))
    co_await m.both(
        "copy_file_range",
        [&] {
          return ::copy_file_range(from.get(), in_at ? &a : nullptr, to.get(),
                                   out_at ? &b : nullptr, n, 0);
        },
        [&] { return iowq::copy_file_range(from, in_at, to, out_at, n); });
  else
    co_await m.both(
        "sendfile", [&] { return ::sendfile64(to.get(), from.get(), in_at ? &a : nullptr, n); },
        [&] { return iowq::sendfile(to, from, in_at, n); });
}

inline task<> names(machine& m) {
  std::string const a = m.path(), b = m.path();
  PARITY_PATH(a);
  PARITY_PATH(b);
  char const *const x = a.c_str(), *const y = b.c_str();
  unsigned const how = m.one_of<unsigned>({0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE});
  std::size_t const which = m.below(8);
  // Of two mistakes at once the ring names that of the second string, before it looks at the first.
  bool const is_no_name = b.empty() || b.size() >= PATH_MAX;
  struct ::stat about;
  if ((which == 0 || which == 4) && is_no_name && ::lstat(x, &about) != 0) co_return;
  if (which == 0)
    co_await m.both(
        "rename", [&] { return ::renameat2(AT_FDCWD, x, AT_FDCWD, y, how); },
        [&] { return iowq::renameat(AT_FDCWD, a, AT_FDCWD, b, how); });
  if (which == 1)
    co_await m.both("unlink", [&] { return ::unlink(x); }, [&] { return iowq::unlink(a); });
  if (which == 2)
    co_await m.both("unlink", [&] { return ::rmdir(x); }, [&] { return iowq::rmdir(a); });
  if (which == 3)
    co_await m.both(
        "mkdir", [&] { return ::mkdir(x, 0750); }, [&] { return iowq::mkdir(a, 0750); });
  if (which == 4)
    co_await m.both("link", [&] { return ::link(x, y); }, [&] { return iowq::link(a, b); });
  if (which == 5)
    co_await m.both(
        "symlink", [&] { return ::symlink("a", y); }, [&] { return iowq::symlink("a", b); });
  if (which == 6) {
    std::string said;
    co_await m.both(
        "readlink",
        [&] {
          char text[4096];
          auto const n = ::readlink(x, text, sizeof text);
          if (n > 0) said.assign(text, static_cast<std::size_t>(n));
          return n < 0 ? -1L : static_cast<long>(n);
        },
        [&] { return iowq::readlink(a); },
        [&](std::string text) {
          said = std::move(text);
          return static_cast<long>(said.size());
        });
    m.note("  " + said);
  }
  if (which == 7) {
    std::string const pattern = m.directory() + "/made-XXXXXX";
    std::string made;
    iowq::fd file;
    if (m.once_in(2))
      co_await m.both(
          "mkstemp",
          [&] {
            made = pattern;
            file.reset(::mkostemp(made.data(), O_CLOEXEC));
            return file ? 0 : -1;
          },
          [&] { return iowq::mkstemp(pattern); },
          [&](std::pair<iowq::fd, std::string> both) {
            file = std::move(both.first);
            made = both.second;
            return 0L;
          });
    else
      co_await m.both(
          "mkdtemp",
          [&] {
            made = pattern;
            return ::mkdtemp(made.data()) != nullptr ? 0 : -1;
          },
          [&] { return iowq::mkdtemp(pattern); },
          [&](std::string name) {
            made = std::move(name);
            return 0L;
          });
    struct ::statx s{};
    ::statx(AT_FDCWD, made.c_str(), 0, STATX_BASIC_STATS, &s);
    m.note_status(s);
    ::remove(made.c_str());  // its name is chance
  }
}

inline task<> attributes(machine& m) {
  std::string const path = m.path();
  PARITY_PATH(path);
  iowq::fd& f = m.file();
  char const* const x = path.c_str();
  ::mode_t const mode = m.one_of<::mode_t>({0600, 0644, 0755, 0});
  auto const id = static_cast<unsigned>(m.below(3));
  ::timespec const times[2] = {{1000 + id, 5}, {2000, 7}};
  struct ::statx s{};
  struct ::statfs system{};
  auto const seen = [&](const iowq::file_status& status) {
    s = status.raw();
    return 0L;
  };
  auto const kind = [&](struct ::statfs found) { return static_cast<long>(found.f_type); };
  switch (m.below(10)) {
    case 0:
      co_await m.both(
          "stat", [&] { return ::statx(AT_FDCWD, x, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &s); },
          [&] { return iowq::lstat(path); }, seen);
      m.note_status(s);
      break;
    case 1:
      co_await m.both(
          "fstat", [&] { return ::statx(f.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &s); },
          [&] { return iowq::fstat(f); }, seen);
      m.note_status(s);
      break;
    case 2:
      co_await m.both(
          "statfs",
          [&] { return ::statfs(x, &system) == 0 ? static_cast<long>(system.f_type) : -1L; },
          [&] { return iowq::statfs(path); }, kind);
      break;
    case 3:
      co_await m.both(
          "fstatfs",
          [&] { return ::fstatfs(f.get(), &system) == 0 ? static_cast<long>(system.f_type) : -1L; },
          [&] { return iowq::fstatfs(f); }, kind);
      break;
    case 4:
      co_await m.both(
          "chmod", [&] { return ::chmod(x, mode); }, [&] { return iowq::chmod(path, mode); });
      break;
    case 5:
      co_await m.both(
          "fchmod", [&] { return ::fchmod(f.get(), mode); }, [&] { return iowq::fchmod(f, mode); });
      break;
    case 6:
      co_await m.both(
          "chown", [&] { return ::lchown(x, id, id); },
          [&] { return iowq::chown(path, id, id, AT_SYMLINK_NOFOLLOW); });
      break;
    case 7:
      co_await m.both(
          "fchown", [&] { return ::fchown(f.get(), id, id); },
          [&] { return iowq::fchown(f, id, id); });
      break;
    case 8:
      co_await m.both(
          "utimens", [&] { return ::utimensat(AT_FDCWD, x, times, 0); },
          [&] { return iowq::utimens(path, times[0], times[1]); });
      if (::statx(AT_FDCWD, x, 0, STATX_BASIC_STATS, &s) == 0)
        m.note("  modified " + std::to_string(s.stx_mtime.tv_sec));
      break;
    default:
      co_await m.both(
          "futimens", [&] { return ::futimens(f.get(), times); },
          [&] { return iowq::futimens(f, times[0], times[1]); });
  }
}

inline task<> extended(machine& m) {
  std::string const path = m.path();
  PARITY_PATH(path);
  iowq::fd& f = m.file();
  char const* const x = path.c_str();
  std::string const name = m.one_of<std::string>({"user.a", "user.b", "nonsense"});
  std::size_t const n = m.one_of<std::size_t>({0, 1, 100});
  iowq::mutable_bytes const into{m.room(), n};
  iowq::const_bytes const value{m.bytes(), n};
  int const how = m.one_of<int>({0, 0, XATTR_CREATE, XATTR_REPLACE});
  switch (m.below(6)) {
    case 0:
      co_await m.both(
          "getxattr", [&] { return ::getxattr(x, name.c_str(), m.room(), n); },
          [&] { return iowq::getxattr(path, name, into); });
      break;
    case 1:
      co_await m.both(
          "fgetxattr", [&] { return ::fgetxattr(f.get(), name.c_str(), m.room(), n); },
          [&] { return iowq::fgetxattr(f, name, into); });
      break;
    case 2:
      co_await m.both(
          "setxattr", [&] { return ::setxattr(x, name.c_str(), m.bytes(), n, how); },
          [&] { return iowq::setxattr(path, name, value, how); });
      break;
    case 3:
      co_await m.both(
          "fsetxattr", [&] { return ::fsetxattr(f.get(), name.c_str(), m.bytes(), n, how); },
          [&] { return iowq::fsetxattr(f, name, value, how); });
      break;
    case 4:
      co_await m.both(
          "listxattr", [&] { return ::listxattr(x, m.room(), n); },
          [&] { return iowq::listxattr(path, into); });
      break;
    default:
      co_await m.both(
          "removexattr", [&] { return ::removexattr(x, name.c_str()); },
          [&] { return iowq::removexattr(path, name); });
  }
}

inline task<> locks(machine& m) {
  iowq::fd& f = m.file();
  int const how = m.one_of({LOCK_SH, LOCK_EX, LOCK_UN}) | LOCK_NB;
  co_await m.both(
      "flock", [&] { return ::flock(f.get(), how); }, [&] { return iowq::flock(f, how); });
}

inline task<> directories(machine& m) {
  std::string const path = m.once_in(2) ? m.directory() : m.path();
  PARITY_PATH(path);
  rows_used().insert("getdents");
  std::vector<std::string> found;
  int error = 0;
  if (m.bare()) {
    DIR* const all = ::opendir(path.c_str());
    error = all == nullptr ? errno : 0;
    while (const dirent* one = all != nullptr ? ::readdir(all) : nullptr)
      if (std::string_view const n = one->d_name; n != "." && n != "..")
        found.push_back(std::string{n} + ' ' + std::to_string(one->d_type));
    if (all != nullptr) ::closedir(all);
  } else {
    auto entries = iowq::read_directory(path);
    try {
      while (auto one = co_await entries.next())
        found.push_back(std::string{one->name()} + ' ' +
                        std::to_string(static_cast<unsigned>(one->type())));
    } catch (const std::system_error& e) {
      error = e.code().value();
    }
  }
  std::sort(found.begin(), found.end());
  m.note("getdents " + std::to_string(error));
  for (std::string& one : found) m.note("  " + std::move(one));
}

inline task<> trees(machine& m) {
  std::string const path = m.once_in(2) ? m.directory() : m.path();
  PARITY_PATH(path);
  rows_used().insert({"walk", "walk_turn"});
  std::vector<std::string> found;
  int error = 0;
  if (m.bare()) {
    auto const below = [&found, &path](auto&& self, const std::string& in, int depth) -> int {
      DIR* const all = ::opendir(in.c_str());
      if (all == nullptr) return errno;
      while (const dirent* one = ::readdir(all)) {
        std::string_view const n = one->d_name;
        if (n == "." || n == "..") continue;
        std::string const name = in + '/' + one->d_name;
        found.push_back(name.substr(path.size()) + ' ' + std::to_string(one->d_type) + ' ' +
                        std::to_string(depth));
        if (one->d_type == DT_DIR) self(self, name, depth + 1);
      }
      ::closedir(all);
      return 0;
    };
    struct ::stat about{};
    bool const link = ::lstat(path.c_str(), &about) == 0 && S_ISLNK(about.st_mode);
    error = link ? ENOTDIR : below(below, path, 0);
  } else {
    auto entries = iowq::walk(path);
    try {
      while (auto one = co_await entries.next())
        found.push_back(std::string{one->path().substr(path.size())} + ' ' +
                        std::to_string(static_cast<unsigned>(one->type())) + ' ' +
                        std::to_string(one->depth()));
    } catch (const std::system_error& e) {
      error = e.code().value();
    }
  }
  std::sort(found.begin(), found.end());
  m.note("walk " + std::to_string(error));
  for (std::string& one : found) m.note("  " + std::move(one));
}

}  // namespace parity
