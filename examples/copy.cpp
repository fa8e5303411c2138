// SPDX-License-Identifier: BSL-1.0
// Copies a directory tree: many files at a time, each in order, holes left holes, modes and times
// kept, everything on the disk at the end; then reads both trees again and compares.
//
// Names are listed in batches, so memory grows with the number of directories, not of files.
// Hard links become files of their own. Sockets and devices are skipped, and named.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <iowq/iowq.hpp>

#include "report.hpp"

namespace {

struct options {
  std::string from, to;
  unsigned jobs = 64;
  bool fsync = true;
  bool verify = true;
};

struct entry {
  std::string name;  // relative to the tree's root; empty: the root itself
  iowq::file_type type;
};

struct totals {
  std::uint64_t files = 0, links = 0, directories = 0, skipped = 0, bytes = 0, verified = 0;
};

std::string join(const std::string& root, const std::string& name) {
  return name.empty() ? root : root + '/' + name;
}

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::system_category(), what);
}

/// A call that has no operation of its own yet, on a worker; its errno becomes an exception.
template <class Call>
iowq::task<decltype(std::declval<Call>()())> punted(Call call, const char* name) {
  int error = 0;
  auto const on_worker = [&call, &error] {
    auto const answer = call();
    error = answer < 0 ? errno : 0;  // here: errno is the worker's
    return answer;
  };
  auto const answer = co_await iowq::punt(on_worker);
  if (answer < 0) fail(error, name);
  co_return answer;
}

/// From here to the next hole; false behind the last data.
iowq::task<bool> next_data(int file, off_t& begin, off_t& end) {
  int error = 0;
  auto const seek = [&] {
    off_t const data = ::lseek(file, begin, SEEK_DATA);
    if (data < 0) return error = errno, false;
    begin = data;
    end = ::lseek(file, data, SEEK_HOLE);
    return end >= 0 ? true : (error = errno, false);
  };
  bool const found = co_await iowq::punt(seek);
  if (!found && error != ENXIO) fail(error, "lseek");
  co_return found;
}

iowq::task<> copy_data(int from, int to, std::uint64_t size, totals& sum) {
  std::array<std::byte, 65536> buffer;
  off_t begin = 0, end = 0;
  for (;; begin = end) {
    bool const more = co_await next_data(from, begin, end);
    if (!more) break;
    while (begin < end) {
      auto const want = std::min<std::size_t>(buffer.size(), static_cast<std::size_t>(end - begin));
      std::size_t const got = co_await iowq::pread(from, std::span(buffer).first(want), begin);
      if (got == 0) break;  // shrank meanwhile; the comparison will tell
      for (std::size_t done = 0; done < got;)
        done += co_await iowq::pwrite(to, std::span(buffer).first(got).subspan(done),
                                      begin + static_cast<off_t>(done));
      begin += static_cast<off_t>(got);
      sum.bytes += got;
    }
  }
  // A hole at the end has no data to write: the size says that it is there.
  co_await punted([=] { return ::ftruncate(to, static_cast<off_t>(size)); }, "ftruncate");
}

/// Owner where we may, then mode, then times: each would undo the one after it.
iowq::task<> copy_attributes(int to, const iowq::file_status& status) {
  struct ::statx const& raw = status.raw();
  timespec const times[2] = {{raw.stx_atime.tv_sec, static_cast<long>(raw.stx_atime.tv_nsec)},
                             {raw.stx_mtime.tv_sec, static_cast<long>(raw.stx_mtime.tv_nsec)}};
  auto const apply = [&] {
    if (::fchown(to, raw.stx_uid, raw.stx_gid) != 0 && errno != EPERM) return -1;
    if (::fchmod(to, raw.stx_mode & 07777U) != 0) return -1;
    return ::futimens(to, times);
  };
  co_await punted(apply, "fchmod");
}

iowq::task<> copy_regular(const std::string& from, const std::string& to, const options& wanted,
                          totals& sum) {
  iowq::fd source = co_await iowq::open(from, O_RDONLY | O_NOFOLLOW);
  iowq::file_status const status = co_await iowq::fstat(source);
  iowq::fd target = co_await iowq::open(to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
  co_await copy_data(source.get(), target.get(), status.size(), sum);
  co_await copy_attributes(target.get(), status);
  if (wanted.fsync) co_await iowq::fsync(target);
  co_await iowq::close(std::move(target));
  co_await iowq::close(std::move(source));
  ++sum.files;
}

iowq::task<std::string> read_link(const std::string& path) {
  std::string target(4096, '\0');
  auto const call = [&] { return ::readlink(path.c_str(), target.data(), target.size()); };
  auto const size = co_await punted(call, "readlink");
  target.resize(static_cast<std::size_t>(size));
  co_return target;
}

iowq::task<> copy_link(const std::string& from, const std::string& to, totals& sum) {
  std::string const target = co_await read_link(from);
  iowq::file_status const status = co_await iowq::lstat(from);
  timespec const times[2] = {
      {status.raw().stx_atime.tv_sec, static_cast<long>(status.raw().stx_atime.tv_nsec)},
      {status.raw().stx_mtime.tv_sec, static_cast<long>(status.raw().stx_mtime.tv_nsec)}};
  auto const make = [&] {
    if (::symlink(target.c_str(), to.c_str()) != 0) return -1;
    return ::utimensat(AT_FDCWD, to.c_str(), times, AT_SYMLINK_NOFOLLOW);
  };
  co_await punted(make, "symlink");
  ++sum.links;
}

/// Names the file in whatever goes wrong with it.
iowq::task<> copy_entry(const entry& one, const options& wanted, totals& sum) {
  std::string const from = join(wanted.from, one.name), to = join(wanted.to, one.name);
  try {
    if (one.type == iowq::file_type::regular) {
      co_await copy_regular(from, to, wanted, sum);
    } else if (one.type == iowq::file_type::symlink) {
      co_await copy_link(from, to, sum);
    } else {
      std::cerr << "copy: " << from << ": skipped, neither file, directory nor link\n";
      ++sum.skipped;
    }
  } catch (const std::system_error& error) {
    throw std::system_error(error.code(), from + " -> " + to);
  }
}

iowq::task<bool> same_bytes(const std::string& a, const std::string& b) {
  iowq::fd left = co_await iowq::open(a, O_RDONLY | O_NOFOLLOW);
  iowq::fd right = co_await iowq::open(b, O_RDONLY | O_NOFOLLOW);
  std::array<std::byte, 32768> here, there;
  for (;;) {
    std::size_t const n = co_await iowq::read_exactly(left, here);
    std::size_t const m = co_await iowq::read_exactly(right, there);
    if (n != m || std::memcmp(here.data(), there.data(), n) != 0) co_return false;
    if (n < here.size()) co_return true;
  }
}

iowq::task<> verify_entry(entry one, const options& wanted, totals& sum) {
  std::string const from = join(wanted.from, one.name), to = join(wanted.to, one.name);
  bool const regular = one.type == iowq::file_type::regular;
  if (!regular && one.type != iowq::file_type::symlink && one.type != iowq::file_type::directory)
    co_return;
  iowq::file_status const a = co_await iowq::lstat(from), b = co_await iowq::lstat(to);
  bool same = a.mode() == b.mode() && a.modified() == b.modified();
  if (same && regular) {
    same = a.size() == b.size();
    if (same) same = co_await same_bytes(from, to);
  }
  if (same && one.type == iowq::file_type::symlink) {
    std::string const left = co_await read_link(from), right = co_await read_link(to);
    same = left == right;
  }
  if (!same) throw std::runtime_error(from + " and " + to + " differ");
  ++sum.verified;
}

/// Calls `each` for everything beneath the root that is no directory, `jobs` at a time, and
/// `enter` for each directory before what is in it.
template <class Enter, class Each>
iowq::task<> for_tree(const options& wanted, Enter enter, Each each) {
  constexpr std::size_t batch = 4096;
  std::vector<std::string> directories{""};
  std::vector<entry> found;
  while (!directories.empty()) {
    std::string const directory = std::move(directories.back());
    directories.pop_back();
    co_await enter(directory);
    auto entries = iowq::read_directory(join(wanted.from, directory));
    while (auto next = co_await entries.next()) {
      std::string name = directory.empty() ? std::string{} : directory + '/';
      name += next->name();
      iowq::file_type type = next->type();
      if (type == iowq::file_type::unknown) {  // a file system that does not say
        iowq::file_status const status = co_await iowq::lstat(join(wanted.from, name));
        type = static_cast<iowq::file_type>(IFTODT(status.mode()));
      }
      if (type == iowq::file_type::directory)
        directories.push_back(std::move(name));
      else
        found.push_back({std::move(name), type});
      if (found.size() < batch) continue;
      co_await iowq::for_each(found, wanted.jobs, each);
      found.clear();
    }
  }
  co_await iowq::for_each(found, wanted.jobs, each);
}

iowq::task<> make_directory(std::string name, const options& wanted, std::vector<std::string>& made,
                            totals& sum) {
  std::string const to = join(wanted.to, name);
  auto const answer = co_await iowq::as_result(iowq::mkdir(to, 0700));
  if (!answer && answer.error() != std::errc::file_exists)
    throw std::system_error(answer.error(), to);
  if (!answer) {
    iowq::file_status const status = co_await iowq::lstat(to);
    if (!status.is_directory()) fail(ENOTDIR, to);
  }
  made.push_back(std::move(name));
  ++sum.directories;
}

/// Last, and the deepest first: writing into a directory changes its times, and it may be one
/// that nobody may write into.
iowq::task<> finish_directory(const std::string& name, const options& wanted) {
  iowq::fd source = co_await iowq::open(join(wanted.from, name), O_RDONLY | O_DIRECTORY);
  iowq::file_status const status = co_await iowq::fstat(source);
  iowq::fd target = co_await iowq::open(join(wanted.to, name), O_RDONLY | O_DIRECTORY);
  co_await copy_attributes(target.get(), status);
  if (wanted.fsync) co_await iowq::fsync(target);
}

iowq::task<std::string> real_path(std::string path) {
  char* found = nullptr;
  int error = 0;
  auto const resolve = [&] {
    found = ::realpath(path.c_str(), nullptr);
    error = errno;
  };
  co_await iowq::punt(resolve);
  std::unique_ptr<char, void (*)(void*)> const owned{found, &std::free};
  if (found == nullptr) fail(error, path);
  co_return found;
}

iowq::task<totals> copy_tree(options wanted) {
  totals sum;
  iowq::file_status const root = co_await iowq::stat(wanted.from);
  if (!root.is_directory()) fail(ENOTDIR, wanted.from);
  wanted.from = co_await real_path(wanted.from);
  std::vector<std::string> made;
  {
    // The target may not exist yet, the directory it will be in must.
    auto const slash = wanted.to.find_last_of('/', wanted.to.find_last_not_of('/'));
    std::string const parent = slash == wanted.to.npos ? "." : wanted.to.substr(0, slash + 1);
    std::string const inside = co_await real_path(parent);
    if ((inside + '/').starts_with(wanted.from + '/'))
      fail(EINVAL, wanted.to + " is inside of " + wanted.from);
  }
  auto const enter = [&](std::string name) {
    return make_directory(std::move(name), wanted, made, sum);
  };
  auto const copy = [&](const entry& one) { return copy_entry(one, wanted, sum); };
  co_await for_tree(wanted, enter, copy);
  std::reverse(made.begin(), made.end());
  for (const std::string& name : made) co_await finish_directory(name, wanted);
  if (!wanted.verify) co_return sum;

  auto const look = [&](std::string name) {
    return verify_entry({std::move(name), iowq::file_type::directory}, wanted, sum);
  };
  auto const compare = [&](entry one) { return verify_entry(std::move(one), wanted, sum); };
  co_await for_tree(wanted, look, compare);
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Copies a directory tree, then compares it with the copy."};
  options wanted;
  cli.add_option("source", wanted.from, "a directory")->required();
  cli.add_option("target", wanted.to, "a directory, made if it does not exist")->required();
  cli.add_option("--jobs", wanted.jobs, "files at a time")
      ->check(CLI::Range(1U, 4096U))
      ->capture_default_str();
  cli.add_flag("--fsync,!--no-fsync", wanted.fsync, "put each file on the disk (default)");
  cli.add_flag("--verify,!--no-verify", wanted.verify, "compare afterwards (default)");
  CLI11_PARSE(cli, argc, argv);
  try {
    iowq::executor executor;
    totals const sum = executor.run(copy_tree(wanted));
    std::cout << sum.files << " files, " << sum.links << " links, " << sum.directories
              << " directories, " << sum.bytes << " bytes copied; " << sum.verified << " verified, "
              << sum.skipped << " skipped\n";
    example::print_where_the_work_went(std::cout, executor.stats());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "copy: " << error.what() << '\n';
    return 1;
  }
}
