// SPDX-License-Identifier: BSL-1.0
// Copies a directory tree, many files at a time, and then compares the copy with the source.
// Holes, permissions, owners (where the caller may set them) and times are kept.
//
// The program is made so that no data is lost:
// - Directories are compared by device and inode before the first write. A target that is the
//   source, that is inside of it, or that holds one of its directories where it would be
//   overwritten, is refused however the paths are spelled (symbolic links, bind mounts, "..").
// - Each file is written under a temporary name (`.copy-...`) in its target directory, and is then
//   renamed. A file under its own name is therefore complete. A failure or a stop by SIGINT,
//   SIGTERM or SIGHUP removes the temporary file; only SIGKILL or a crash can leave one behind.
// - An existing target file is replaced, never written into. Other hard links of it keep their
//   contents, as with `cp -a`, which unlinks a target that has several links. Unlike with `cp -a`,
//   a target with one link also becomes a new file, and a symbolic link in the way is replaced.
// - A file that cannot be copied is named and counted, and the others are copied. The exit status
//   is then 1, and the file does not count as verified.
//
// The program keeps the names and identities of all directories of the source, and lists files in
// batches, so memory grows with the number of directories, not of files. Hard links of the source
// become separate files. Sockets, pipes and devices are named and skipped.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <compare>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
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
  bool may_exist = true;  // false in a target directory that this run created
};

struct totals {
  std::uint64_t files = 0, links = 0, directories = 0, skipped = 0, bytes = 0, verified = 0;
  std::uint64_t failed = 0;
};

/// Identifies a file, however its path is spelled.
struct file_id {
  std::uint64_t device, inode;
  auto operator<=>(const file_id&) const = default;
};

file_id id_of(const iowq::file_status& status) { return {status.device(), status.inode()}; }

struct directory {
  std::string name;
  bool created = false;  // in the target, by this run
};

/// The state of one copy, shared by all its coroutines.
struct job {
  options wanted;
  totals sum;
  std::vector<directory> directories;  // readable ones of the source; parents before children
  std::set<file_id> source_ids;        // the ids of all directories of the source
  std::set<std::string> failed;        // names of entries that were not copied
  bool finished = false;               // false after a stop
};

std::string join(const std::string& root, const std::string& name) {
  if (name.empty()) return root;
  return root.ends_with('/') ? root + name : root + '/' + name;
}

/// The directory that holds the last component of `path`, which does not end in a slash.
std::string parent_of(const std::string& path) {
  auto const slash = path.rfind('/');
  if (slash == path.npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::system_category(), what);
}

/// Counts an entry that was not copied, and names it in `message`.
void report(job& work, const std::string& name, const std::string& message) {
  std::cerr << "copy: " << message << '\n';
  ++work.sum.failed;
  work.failed.insert(name);
}

/// Returns if the error concerns one entry only, and rethrows a stop, which ends the copy.
void pass_on_stop(const std::runtime_error& error) {
  auto const* const system = dynamic_cast<const std::system_error*>(&error);
  if (system != nullptr && system->code() == std::errc::operation_canceled) throw;
}

/// Finds the next data at or after `begin`, up to the next hole. Returns false after the last data.
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

iowq::task<> copy_data(const iowq::fd& from, const iowq::fd& to, std::uint64_t size, totals& sum) {
  std::array<std::byte, 65536> buffer;
  off_t begin = 0, end = 0;
  for (;; begin = end) {
    bool const more = co_await next_data(from.get(), begin, end);
    if (!more) break;
    while (begin < end) {
      auto const want = std::min<std::size_t>(buffer.size(), static_cast<std::size_t>(end - begin));
      std::size_t const got = co_await iowq::pread(from, std::span(buffer).first(want), begin);
      if (got == 0) throw std::runtime_error("the source shrank during the copy");
      for (std::size_t done = 0; done < got;)
        done += co_await iowq::pwrite(to, std::span(buffer).first(got).subspan(done),
                                      begin + static_cast<off_t>(done));
      begin += static_cast<off_t>(got);
      sum.bytes += got;
    }
  }
  // A hole at the end has no data to write, so the size is set.
  co_await iowq::ftruncate(to, static_cast<std::int64_t>(size));
}

timespec to_timespec(const statx_timestamp& time) {
  return {time.tv_sec, static_cast<long>(time.tv_nsec)};
}

/// Sets the owner where the caller may, then the mode, then the times: each of these calls can
/// undo the ones after it. Without the owner, the set-user-id and set-group-id bits would give
/// the rights of the wrong user, so they are cleared.
iowq::task<> copy_attributes(const iowq::fd& to, const iowq::file_status& status) {
  struct ::statx const& raw = status.raw();
  timespec const times[2] = {to_timespec(raw.stx_atime), to_timespec(raw.stx_mtime)};
  int error = 0;
  auto const apply = [&] {
    auto const refused = [] { return errno == EPERM || errno == EINVAL; };
    mode_t mode = raw.stx_mode & 07777U;
    bool done = ::fchown(to.get(), raw.stx_uid, raw.stx_gid) == 0;
    if (!done && refused()) {
      mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
      done = ::fchown(to.get(), static_cast<uid_t>(-1), raw.stx_gid) == 0 || refused();
    }
    done = done && ::fchmod(to.get(), mode) == 0 && ::futimens(to.get(), times) == 0;
    error = done ? 0 : errno;  // read here: errno belongs to the worker's thread
  };
  co_await iowq::punt(apply);
  if (error != 0) fail(error, "attributes");
}

/// The temporary name of a file that is being written. The destructor removes the file unless
/// keep() was called after the rename.
class unfinished_file {
 public:
  explicit unfinished_file(const std::string& target) {
    static std::uint64_t const run =
        std::uint64_t{std::random_device{}()} << 32U | std::uint64_t{std::random_device{}()};
    static std::uint64_t count = 0;
    std::ostringstream name;
    name << parent_of(target) << "/.copy-" << std::hex << run << '-' << ++count;
    path_ = std::move(name).str();
  }
  unfinished_file(const unfinished_file&) = delete;
  unfinished_file& operator=(const unfinished_file&) = delete;
  /// A destructor cannot await. This call is on failure paths only, so it may block.
  ~unfinished_file() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  void keep() noexcept { path_.clear(); }

 private:
  std::string path_;
};

/// Throws if `to` is a name of the file that `source` describes.
iowq::task<> refuse_same_file(const iowq::file_status& source, const std::string& to) {
  auto const existing = co_await iowq::as_result(iowq::lstat(to));
  if (!existing && existing.error() == std::errc::no_such_file_or_directory) co_return;
  if (!existing) throw std::system_error(existing.error(), "lstat");
  if (id_of(*existing) == id_of(source)) throw std::runtime_error("are the same file");
}

iowq::task<> copy_regular(const std::string& from, const std::string& to, bool may_exist,
                          job& work) {
  iowq::fd source = co_await iowq::open(from, O_RDONLY | O_NOFOLLOW);
  iowq::file_status const status = co_await iowq::fstat(source);
  if (may_exist) co_await refuse_same_file(status, to);
  unfinished_file part{to};
  iowq::fd target =
      co_await iowq::open(part.path(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  co_await copy_data(source, target, status.size(), work.sum);
  co_await copy_attributes(target, status);
  if (work.wanted.fsync) co_await iowq::fsync(target);
  co_await iowq::close(std::move(target));
  co_await iowq::rename(part.path(), to);
  part.keep();
  co_await iowq::close(std::move(source));
  ++work.sum.files;
}

iowq::task<> copy_link(const std::string& from, const std::string& to, bool may_exist, job& work) {
  iowq::file_status const status = co_await iowq::lstat(from);
  if (may_exist) co_await refuse_same_file(status, to);
  std::string const text = co_await iowq::readlink(from);
  unfinished_file part{to};
  co_await iowq::symlink(text, part.path());
  co_await iowq::utimens(part.path(), to_timespec(status.raw().stx_atime),
                         to_timespec(status.raw().stx_mtime), AT_SYMLINK_NOFOLLOW);
  co_await iowq::rename(part.path(), to);
  part.keep();
  ++work.sum.links;
}

iowq::task<> copy_entry(const entry& one, job& work) {
  std::string const from = join(work.wanted.from, one.name), to = join(work.wanted.to, one.name);
  try {
    if (one.type == iowq::file_type::regular) {
      co_await copy_regular(from, to, one.may_exist, work);
    } else if (one.type == iowq::file_type::symlink) {
      co_await copy_link(from, to, one.may_exist, work);
    } else {
      std::cerr << "copy: " << from << ": skipped, neither file, directory nor link\n";
      ++work.sum.skipped;
    }
  } catch (const std::runtime_error& error) {
    pass_on_stop(error);
    report(work, one.name, from + " -> " + to + ": " + error.what());
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

/// The mode that copy_attributes() gives to a file that has the owner of `target`.
unsigned expected_mode(const iowq::file_status& source, const iowq::file_status& target) {
  bool const owner_kept = source.uid() == target.uid() && source.gid() == target.gid();
  unsigned const cleared = owner_kept ? 0U : static_cast<unsigned>(S_ISUID | S_ISGID);
  return source.mode() & ~cleared;
}

iowq::task<bool> same_entry(const entry& one, const std::string& from, const std::string& to) {
  iowq::file_status const source = co_await iowq::lstat(from), copied = co_await iowq::lstat(to);
  if (copied.mode() != expected_mode(source, copied)) co_return false;
  if (source.modified() != copied.modified()) co_return false;
  if (one.type == iowq::file_type::regular) {
    if (source.size() != copied.size()) co_return false;
    bool const same = co_await same_bytes(from, to);
    co_return same;
  }
  if (one.type == iowq::file_type::symlink) {
    std::string const text = co_await iowq::readlink(from), copy = co_await iowq::readlink(to);
    co_return text == copy;
  }
  co_return true;
}

/// Compares an entry that was copied with its source.
iowq::task<> verify_entry(const entry& one, job& work) {
  bool const comparable = one.type == iowq::file_type::regular ||
                          one.type == iowq::file_type::symlink ||
                          one.type == iowq::file_type::directory;
  if (!comparable || work.failed.contains(one.name)) co_return;
  std::string const from = join(work.wanted.from, one.name), to = join(work.wanted.to, one.name);
  try {
    bool const same = co_await same_entry(one, from, to);
    if (same)
      ++work.sum.verified;
    else
      report(work, one.name, from + " and " + to + " differ");
  } catch (const std::runtime_error& error) {
    pass_on_stop(error);
    report(work, one.name, from + " and " + to + " cannot be compared: " + error.what());
  }
}

/// Returns true if the directory was copied, and its entries are to be compared.
iowq::task<bool> verify_directory(const directory& one, job& work) {
  if (work.failed.contains(one.name)) co_return false;
  entry const named{one.name, iowq::file_type::directory};
  co_await verify_entry(named, work);
  co_return true;
}

/// The type of `name` in the source; some file systems do not put it into the directory.
iowq::task<iowq::file_type> type_of(iowq::file_type listed, const std::string& name, job& work) {
  if (listed != iowq::file_type::unknown) co_return listed;
  iowq::file_status const status = co_await iowq::lstat(join(work.wanted.from, name));
  co_return static_cast<iowq::file_type>(IFTODT(status.mode()));
}

/// Adds the source's directory `name` to the job, and returns those in it.
iowq::task<std::vector<std::string>> list_directory(const std::string& name, job& work) {
  std::string const path = join(work.wanted.from, name);
  iowq::file_status const status = co_await iowq::lstat(path);
  work.source_ids.insert(id_of(status));
  std::vector<std::string> found;
  auto entries = iowq::read_directory(path);
  while (auto next = co_await entries.next()) {
    std::string child =
        name.empty() ? std::string{next->name()} : join(name, std::string{next->name()});
    iowq::file_type const type = co_await type_of(next->type(), child, work);
    if (type == iowq::file_type::directory) found.push_back(std::move(child));
  }
  work.directories.push_back({name});
  co_return found;
}

/// Lists all directories of the source. This is done before the first write: the target is
/// compared with each of them, and a directory that the copy itself adds is never copied.
iowq::task<> list_directories(job& work) {
  std::vector<std::string> left{""};
  while (!left.empty()) {
    std::string const name = std::move(left.back());
    left.pop_back();
    try {
      auto found = co_await list_directory(name, work);
      std::move(found.begin(), found.end(), std::back_inserter(left));
    } catch (const std::runtime_error& error) {
      pass_on_stop(error);
      report(work, name, join(work.wanted.from, name) + ": " + error.what());
    }
  }
}

/// Calls `enter` with each directory of the source and, if it returns true, `each` with every entry
/// in it that is not a directory. `each` runs for up to `jobs` entries at a time.
template <class Enter, class Each>
iowq::task<> for_tree(job& work, Enter enter, Each each) {
  constexpr std::size_t batch = 4096;
  std::vector<entry> found;
  for (directory& parent : work.directories) {
    bool const entered = co_await enter(parent);
    if (!entered) continue;
    try {
      auto entries = iowq::read_directory(join(work.wanted.from, parent.name));
      while (auto next = co_await entries.next()) {
        std::string name{next->name()};
        if (!parent.name.empty()) name = join(parent.name, name);
        iowq::file_type const type = co_await type_of(next->type(), name, work);
        if (type != iowq::file_type::directory)
          found.push_back({std::move(name), type, !parent.created});
        if (found.size() < batch) continue;
        co_await iowq::for_each(found, work.wanted.jobs, each);
        found.clear();
      }
    } catch (const std::runtime_error& error) {
      pass_on_stop(error);
      report(work, parent.name, join(work.wanted.from, parent.name) + ": " + error.what());
    }
  }
  co_await iowq::for_each(found, work.wanted.jobs, each);
}

/// Throws if the existing target directory `to` cannot take a copy. Makes it writable for its owner
/// until finish_directory() sets its final mode.
iowq::task<> use_existing_directory(const std::string& to, const job& work) {
  iowq::file_status const status = co_await iowq::lstat(to);
  if (!status.is_directory()) fail(ENOTDIR, "exists");
  if (work.source_ids.contains(id_of(status)))
    throw std::runtime_error("is a directory of the source");
  if ((status.mode() & S_IRWXU) == S_IRWXU) co_return;
  // If this fails, the error of the first file in the directory says so.
  auto change = iowq::as_result(iowq::chmod(to, (status.mode() & 07777U) | S_IRWXU));
  static_cast<void>(co_await std::move(change));
}

/// Returns false if the directory is not there to copy into; it is then among the failed ones.
iowq::task<bool> make_directory(directory& made, job& work) {
  if (auto const slash = made.name.rfind('/');
      slash != made.name.npos && work.failed.contains(made.name.substr(0, slash))) {
    work.failed.insert(made.name);  // the parent was reported
    co_return false;
  }
  std::string const to = join(work.wanted.to, made.name);
  try {
    auto const answer = co_await iowq::as_result(iowq::mkdir(to, 0700));
    made.created = static_cast<bool>(answer);
    if (!answer && answer.error() != std::errc::file_exists)
      throw std::system_error(answer.error(), "mkdir");
    if (!answer) co_await use_existing_directory(to, work);
    ++work.sum.directories;
    co_return true;
  } catch (const std::runtime_error& error) {
    pass_on_stop(error);
    report(work, made.name, to + ": " + error.what() + "; nothing in it was copied");
    co_return false;
  }
}

/// Sets the attributes of a directory after everything in it has been written, because writing
/// changes its times and needs the right to write.
iowq::task<> finish_directory(const std::string& name, job& work) {
  std::string const from = join(work.wanted.from, name), to = join(work.wanted.to, name);
  try {
    iowq::fd source = co_await iowq::open(from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    iowq::file_status const status = co_await iowq::fstat(source);
    iowq::fd target = co_await iowq::open(to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    iowq::file_status const now = co_await iowq::fstat(target);
    if (work.source_ids.contains(id_of(now)))
      throw std::runtime_error("is a directory of the source");
    co_await copy_attributes(target, status);
    if (work.wanted.fsync) co_await iowq::fsync(target);
  } catch (const std::runtime_error& error) {
    pass_on_stop(error);
    report(work, name, from + " -> " + to + ": " + error.what());
  }
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

/// Returns the target's path without symbolic links, and whether the target exists. If it does not
/// exist, its parent must.
iowq::task<std::pair<std::string, bool>> resolve_target(std::string to) {
  if (to.empty()) fail(ENOENT, "the target \"\"");
  auto const status = co_await iowq::as_result(iowq::stat(to));
  if (!status && status.error() != std::errc::no_such_file_or_directory)
    throw std::system_error(status.error(), to);
  if (status && !status->is_directory()) fail(ENOTDIR, to);
  if (status) {
    std::string existing = co_await real_path(to);
    co_return std::pair{std::move(existing), true};
  }
  while (to.size() > 1 && to.back() == '/') to.pop_back();
  std::string const parent = co_await real_path(parent_of(to));
  co_return std::pair{join(parent, to.substr(to.rfind('/') + 1)), false};
}

/// Throws if the copy would write into the source. Runs before the first write.
iowq::task<> check_target(const options& spelled, bool exists, const job& work) {
  const std::string& to = work.wanted.to;
  for (std::string path = exists ? to : parent_of(to);; path = parent_of(path)) {
    iowq::file_status const status = co_await iowq::stat(path);
    if (work.source_ids.contains(id_of(status))) {
      iowq::file_status const root = co_await iowq::stat(work.wanted.from);
      bool const same = exists && path == to && id_of(status) == id_of(root);
      throw std::runtime_error(same
                                   ? spelled.from + " and " + spelled.to + " are the same directory"
                                   : spelled.to + " is inside of " + spelled.from);
    }
    if (path == "/") break;
  }
  if (!exists) co_return;  // there is nothing to overwrite
  for (const directory& one : work.directories) {
    std::string const target = join(to, one.name);
    auto const status = co_await iowq::as_result(iowq::lstat(target));
    if (status && work.source_ids.contains(id_of(*status)))
      throw std::runtime_error(target + " is a directory of the source and would be overwritten");
  }
}

iowq::task<> sync_directory(const std::string& path) {
  iowq::fd const opened = co_await iowq::open(path, O_RDONLY | O_DIRECTORY);
  co_await iowq::fsync(opened);
}

iowq::task<> copy_tree(job& work) {
  options const spelled = work.wanted;
  iowq::file_status const root = co_await iowq::stat(spelled.from);
  if (!root.is_directory()) fail(ENOTDIR, spelled.from);
  work.wanted.from = co_await real_path(spelled.from);
  auto const target = co_await resolve_target(spelled.to);
  work.wanted.to = target.first;
  co_await list_directories(work);
  co_await check_target(spelled, target.second, work);

  auto const enter = [&](directory& one) { return make_directory(one, work); };
  auto const copy = [&](const entry& one) { return copy_entry(one, work); };
  co_await for_tree(work, enter, copy);
  for (auto one = work.directories.rbegin(); one != work.directories.rend(); ++one)
    if (!work.failed.contains(one->name)) co_await finish_directory(one->name, work);
  if (work.wanted.fsync && !target.second) co_await sync_directory(parent_of(work.wanted.to));
  work.finished = !work.wanted.verify;
  if (work.finished) co_return;

  auto const look = [&](directory& one) { return verify_directory(one, work); };
  auto const compare = [&](const entry& one) { return verify_entry(one, work); };
  co_await for_tree(work, look, compare);
  work.finished = true;
}

iowq::executor* running = nullptr;

/// The first SIGINT, SIGTERM or SIGHUP stops the copy, the second one has its default effect.
void stop_on_signals(iowq::executor& executor) {
  running = &executor;
  struct sigaction stop{};
  stop.sa_flags = static_cast<int>(SA_RESETHAND);
  stop.sa_handler = [](int) { running->request_stop(); };
  for (int const signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &stop, nullptr);
}

void print_summary(const totals& sum) {
  std::cout << sum.files << " files, " << sum.links << " links, " << sum.directories
            << " directories, " << sum.bytes << " bytes copied; " << sum.verified << " verified, "
            << sum.skipped << " skipped, " << sum.failed << " failed\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Copies a directory tree, then compares it with the copy."};
  job work;
  options& wanted = work.wanted;
  cli.add_option("source", wanted.from, "a directory")->required();
  cli.add_option("target", wanted.to, "a directory, made if it does not exist")->required();
  cli.add_option("--jobs", wanted.jobs, "files at a time")
      ->check(CLI::Range(1U, 4096U))
      ->capture_default_str();
  cli.add_flag("--fsync,!--no-fsync", wanted.fsync, "put each file on the disk (default)");
  cli.add_flag("--verify,!--no-verify", wanted.verify, "compare afterwards (default)");
  cli.footer(
      "A target that is the source, is inside of it, or would overwrite part of it is refused.\n"
      "Files are written under temporary names (.copy-*) and renamed when they are complete.\n"
      "An existing file or link in the target is replaced, not written into: other hard links of\n"
      "it keep their contents, and a symbolic link is not followed.\n"
      "Set-user-id and set-group-id bits are cleared where the owner cannot be kept.\n"
      "An entry that cannot be copied is named, the others are copied, and the exit status is 1.");
  CLI11_PARSE(cli, argc, argv);
  try {
    iowq::executor executor;
    stop_on_signals(executor);
    executor.run(copy_tree(work));
    print_summary(work.sum);
    example::print_where_the_work_went(std::cout, executor.stats());
    if (!work.finished) std::cerr << "copy: stopped before the end\n";
    return work.finished && work.sum.failed == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "copy: " << error.what() << '\n';
    return 1;
  }
}
