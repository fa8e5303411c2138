// SPDX-License-Identifier: BSL-1.0
// Prints how many bytes a tree holds, like `du -s --apparent-size -b`. One walk lists the tree, and
// the status of up to `--jobs` entries is read at a time.
//
// A file with several names counts once. An entry that cannot be read is named on standard error,
// and the rest is still counted. Newer versions of GNU du do not count the directories themselves;
// --files-only does the same here.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

#include "report.hpp"

namespace {

struct options {
  std::string path = ".";
  unsigned jobs = 64;
  bool files_only = false;
  bool stats = false;
};

/// The running total. Only the owner's thread uses it.
struct account {
  bool directories = true;
  std::uint64_t bytes = 0;
  bool complete = true;
  std::set<std::pair<std::uint64_t, std::uint64_t>> counted;  // files with several names

  void add(const iowq::file_status& status) {
    bool const more_names = status.links() > 1 && !status.is_directory();
    if (more_names && !counted.emplace(status.device(), status.inode()).second) return;
    if (status.is_regular() || status.is_symlink() || (status.is_directory() && directories))
      bytes += status.size();
  }
  void complain(std::string_view path, const std::error_code& error) {
    std::cerr << "du: " << path << ": " << error.message() << '\n';
    complete = false;
  }
};

iowq::task<> count(account& sum, std::string path) {
  auto const status = co_await iowq::as_result(iowq::lstat(path));
  if (status)
    sum.add(*status);
  else if (status.error() != std::errc::no_such_file_or_directory)  // removed after it was listed
    sum.complain(path, status.error());
}

/// Reads one batch of entries ahead of the counting, so a large tree does not fill the memory.
iowq::task<> count_tree(account& sum, std::string root, unsigned jobs) {
  sum.add(co_await iowq::lstat(root));
  auto tree = iowq::walk(root);
  std::vector<std::string> batch;
  for (bool more = true; more;) {
    batch.clear();
    while (batch.size() < std::size_t{16} * jobs) {
      auto const entry = co_await tree.next();
      more = static_cast<bool>(entry);
      if (!more) break;
      if (entry->error()) sum.complain(entry->path(), entry->error());
      batch.emplace_back(entry->path());
    }
    co_await iowq::for_each(batch, jobs,
                            [&sum](const std::string& path) { return count(sum, path); });
  }
}

iowq::task<> total(account& sum, const options& wanted) {
  auto const status = co_await iowq::lstat(wanted.path);
  if (status.is_directory())
    co_await count_tree(sum, wanted.path, wanted.jobs);
  else
    sum.add(status);
  std::cout << sum.bytes << '\t' << wanted.path << '\n';
  if (wanted.stats)
    example::print_where_the_work_went(std::cerr, iowq::executor::current().stats());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"How many bytes a tree holds, as du -s --apparent-size -b", "du"};
  options wanted;
  app.add_option("path", wanted.path, "file or directory");
  app.add_option("--jobs", wanted.jobs, "how many entries are asked about at a time")
      ->check(CLI::Range(1U, 4096U));
  app.add_flag("--files-only", wanted.files_only, "leave out the directories themselves");
  app.add_flag("--stats", wanted.stats, "say where the work went");
  CLI11_PARSE(app, argc, argv);
  account sum;
  sum.directories = !wanted.files_only;
  try {
    iowq::run(total(sum, wanted));
  } catch (const std::exception& error) {
    std::cerr << "du: " << wanted.path << ": " << error.what() << '\n';
    return 1;
  }
  return sum.complete ? 0 : 1;
}
