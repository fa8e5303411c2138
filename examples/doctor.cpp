// SPDX-License-Identifier: BSL-1.0
// Prints what this machine offers an executor, which features iowq uses and why, and what to
// change. The output is for people, or for programs with --json. It changes no settings. The exit
// status is 1 if an executor cannot run here.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <iowq/iowq.hpp>

namespace {

using json = nlohmann::ordered_json;

/// Returns the first word of a file of the kernel (/proc, /sys), or "" if the file does not exist.
std::string word_of(const std::string& path) {
  std::string word;
  std::ifstream{path} >> word;
  return word;
}

// ---- io_uring ----

/// Opcodes in the order of their numbers, from 0.
constexpr const char* opcodes[] = {"nop",
                                   "readv",
                                   "writev",
                                   "fsync",
                                   "read_fixed",
                                   "write_fixed",
                                   "poll_add",
                                   "poll_remove",
                                   "sync_file_range",
                                   "sendmsg",
                                   "recvmsg",
                                   "timeout",
                                   "timeout_remove",
                                   "accept",
                                   "async_cancel",
                                   "link_timeout",
                                   "connect",
                                   "fallocate",
                                   "openat",
                                   "close",
                                   "files_update",
                                   "statx",
                                   "read",
                                   "write",
                                   "fadvise",
                                   "madvise",
                                   "send",
                                   "recv",
                                   "openat2",
                                   "epoll_ctl",
                                   "splice",
                                   "provide_buffers",
                                   "remove_buffers",
                                   "tee",
                                   "shutdown",
                                   "renameat",
                                   "unlinkat",
                                   "mkdirat",
                                   "symlinkat",
                                   "linkat",
                                   "msg_ring",
                                   "fsetxattr",
                                   "setxattr",
                                   "fgetxattr",
                                   "getxattr",
                                   "socket",
                                   "uring_cmd",
                                   "send_zc",
                                   "sendmsg_zc",
                                   "read_multishot",
                                   "waitid",
                                   "futex_wait",
                                   "futex_wake",
                                   "futex_waitv",
                                   "fixed_fd_install",
                                   "ftruncate",
                                   "bind",
                                   "listen",
                                   "recv_zc",
                                   "epoll_wait",
                                   "readv_fixed",
                                   "writev_fixed",
                                   "pipe"};

/// Bits of io_uring_params::features, from 0.
constexpr const char* features[] = {
    "single_mmap", "nodrop",      "submit_stable",   "rw_cur_pos",   "cur_personality",
    "fast_poll",   "poll_32bits", "sqpoll_nonfixed", "ext_arg",      "native_workers",
    "rsrc_tags",   "cqe_skip",    "linked_file",     "reg_reg_ring", "recvsend_bundle",
    "min_timeout", "rw_attr",     "no_iowait"};

/// Bits of io_uring_params::flags that iowq requests.
constexpr struct {
  unsigned bit;
  const char* name;
} setups[] = {{iowq::detail::compat::setup_single_issuer, "single_issuer"},
              {iowq::detail::compat::setup_defer_taskrun, "defer_taskrun"},
              {iowq::detail::compat::setup_coop_taskrun, "coop_taskrun"},
              {iowq::detail::compat::setup_submit_all, "submit_all"},
              {iowq::detail::compat::setup_no_sqarray, "no_sqarray"}};

/// Reports whether a ring can be created, and what it supports. Creates no ring if the user forbids
/// it.
json look_at_io_uring() {
  json all;
  std::string const disabled = word_of("/proc/sys/kernel/io_uring_disabled");
  all["io_uring_disabled"] = disabled.empty() ? json{} : json(std::stoi(disabled));
  try {
    if (iowq::detail::backend_of_environment() == iowq::backend_kind::poll) {
      all["setup"] = "not asked: IOWQ_BACKEND=poll";
      return all;
    }
  } catch (const std::system_error& error) {
    all["setup"] = error.what();
    return all;
  }
  iowq::detail::ring ring;
  if (int const r = ring.open(256, 0); r < 0) {
    all["setup"] = iowq::detail::explain_ring_failure(r);
    return all;
  }
  all["setup"] = "granted";
  all["flags"] = all["features"] = all["opcodes"] = all["missing_opcodes"] = json::array();
  iowq::detail::ring_features const& has = ring.features();
  for (auto const& [bit, name] : setups)
    if ((has.setup_flags & bit) != 0) all["flags"].push_back(name);
  for (unsigned i = 0; i < std::size(features); ++i)
    if (has.has_feature(1U << i)) all["features"].push_back(features[i]);
  for (unsigned i = 0; i < std::size(opcodes); ++i)
    all[has.has(static_cast<int>(i)) ? "opcodes" : "missing_opcodes"].push_back(opcodes[i]);
  return all;
}

// ---- The process and its machine ----

json limit_of(__rlimit_resource_t what) {
  rlimit limit{};
  ::getrlimit(what, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? json{} : json(limit.rlim_cur);
}

/// Returns the limit in the file `file` of this process's cgroup, by version 2 or by version 1 at
/// its usual paths.
json cgroup_limit(const std::string& controller, const std::string& file) {
  std::ifstream groups{"/proc/self/cgroup"};
  for (std::string line; std::getline(groups, line);) {
    std::size_t const first = line.find(':'), second = line.find(':', first + 1);
    std::string const names = line.substr(first + 1, second - first - 1);
    std::string const path = line.substr(second + 1);
    std::string const root = names.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    if (!names.empty() && names.find(controller) == names.npos) continue;
    for (std::string const& folder : {root + path, root})
      if (std::string word = word_of(folder + '/' + file); !word.empty()) return word;
  }
  return {};
}

json look_at_limits() {
  json all;
  all["memlock_bytes"] = limit_of(RLIMIT_MEMLOCK);
  all["descriptors"] = limit_of(RLIMIT_NOFILE);
  all["threads_of_user"] = limit_of(RLIMIT_NPROC);
  all["pids_of_cgroup"] = cgroup_limit("pids", "pids.max");
  all["cpu_of_cgroup"] = cgroup_limit("cpu", "cpu.max");
  return all;
}

json look_at_processors() {
  json all;
  auto const mine = iowq::cpu_set::of_caller<iowq::detail::linux_policy>();
  all["usable"] = mine.count();
  all["online"] = ::sysconf(_SC_NPROCESSORS_ONLN);
  all["nodes"] = json::array();
  auto const nodes = iowq::topology::system().resolve();
  // A node without a list of processors stands for the whole machine.
  for (unsigned i = 0; i < nodes.size(); ++i)
    all["nodes"].push_back(nodes.cpus(i).empty() ? mine.count() : nodes.cpus(i).count());
  return all;
}

/// Reports what the file system of `folder` can do without blocking. Creates a file without a name
/// in `folder`.
json look_at_folder(const std::string& folder) {
  json all;
  all["path"] = folder;
  struct ::statfs system{};
  if (::statfs(folder.c_str(), &system) != 0) {
    all["error"] = iowq::detail::to_error(-errno).message();
    return all;
  }
  std::ostringstream magic;
  magic << "0x" << std::hex << system.f_type;
  all["type"] = magic.str();
  all["local"] = iowq::detail::is_local_filesystem(static_cast<std::uint64_t>(system.f_type));
  iowq::fd const file{::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
  char byte = 'x';
  ::iovec const one{&byte, 1};
  if (!file || ::pwrite(file.get(), &byte, 1, 0) != 1) {
    all["reads_cached_without_waiting"] = json{};
    all["writes_without_waiting"] = json{};
  } else {
    all["reads_cached_without_waiting"] = ::preadv2(file.get(), &one, 1, 0, RWF_NOWAIT) == 1;
    all["writes_without_waiting"] = ::pwritev2(file.get(), &one, 1, 0, RWF_NOWAIT) == 1;
  }
  ::open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC;
  how.resolve = iowq::detail::open_call::resolve_cached;
  iowq::fd const opened{
      static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, folder.c_str(), &how, sizeof how))};
  all["opens_cached_without_waiting"] = static_cast<bool>(opened);
  return all;
}

// ---- The result ----

json look_at_backend() {
  json all;
  try {
    iowq::executor const here;
    bool const ring = here.backend() == iowq::backend_kind::io_uring;
    all["chosen"] = ring ? "io_uring" : "poll";
    all["reason"] = here.backend_reason();
  } catch (const std::system_error& error) {
    all["chosen"] = json{};
    all["reason"] = error.what();
  }
  return all;
}

json advice_on(const json& report) {
  json all = json::array();
  auto const contains = [](const json& text, std::string_view word) {
    return text.is_string() && text.get<std::string>().find(word) != std::string::npos;
  };
  json const& ring = report["io_uring"];
  json const& limits = report["limits"];
  json const& disabled = ring["io_uring_disabled"];
  if (contains(ring["setup"], "EPERM") || contains(ring["setup"], "EACCES")) {
    if (disabled.is_number() && disabled > 0)
      all.push_back(
          "sysctl kernel.io_uring_disabled=0 lets every process have a ring, =1 those "
          "with CAP_SYS_ADMIN and the group kernel.io_uring_group");
    else
      all.push_back(
          "a seccomp filter or security module forbids io_uring: in a container, allow "
          "io_uring_setup, io_uring_enter and io_uring_register (docs/portability.md)");
  }
  if (contains(ring["setup"], "ENOSYS"))
    all.push_back(
        "io_uring wants Linux 5.13 or newer, built with CONFIG_IO_URING and not hidden by "
        "a filter");
  if (contains(ring["setup"], "ENOMEM"))
    all.push_back("raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) to 64 KiB or more for a ring");
  if (limits["descriptors"].is_number() && limits["descriptors"] < 1024)
    all.push_back(
        "raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=): each connection takes one "
        "descriptor, an executor two");
  if (ring["setup"] == "granted" && ring["flags"].size() < 4)
    all.push_back("Linux 6.6 or newer grants all that makes a ring cheap");
  if (ring.contains("missing_opcodes") && !ring["missing_opcodes"].empty())
    all.push_back(
        "operations without an opcode here go to the pool: nothing to change, a newer "
        "kernel has them");
  if (report["folder"].value("reads_cached_without_waiting", json{}) == false)
    all.push_back(
        "reads of this folder's files go to workers, cached or not: ext4, xfs and btrfs "
        "would give what is cached at once");
  return all;
}

void print_value(const json& value) {
  if (value.is_null()) {
    std::cout << "none";
  } else if (value.is_boolean()) {
    std::cout << (value.get<bool>() ? "yes" : "no");
  } else if (value.is_array()) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      std::cout << (i == 0 ? "" : " ");
      print_value(value[i]);
    }
    if (value.empty()) std::cout << "none";
  } else if (value.is_string()) {
    std::cout << value.get<std::string>();
  } else {
    std::cout << value;
  }
}

void print_for_people(const json& report) {
  for (auto const& [chapter, content] : report.items()) {
    std::cout << chapter;
    if (content.is_object()) {
      std::cout << '\n';
      for (auto const& [name, value] : content.items()) {
        std::cout << "  " << name << ": ";
        print_value(value);
        std::cout << '\n';
      }
    } else if (content.is_array()) {
      std::cout << '\n';
      for (auto const& line : content) std::cout << "  - " << line.get<std::string>() << '\n';
    } else {
      std::cout << ": " << content.get<std::string>() << '\n';
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What this machine offers an executor, and what to change", "doctor"};
  bool as_json = false;
  std::string folder = ".";
  app.add_flag("--json", as_json, "for programs");
  app.add_option("--folder", folder, "whose file system to look at");
  CLI11_PARSE(app, argc, argv);

  ::utsname kernel{};
  ::uname(&kernel);
  json report;
  report["kernel"] = std::string{kernel.release} + ' ' + kernel.machine;
  report["backend"] = look_at_backend();
  report["io_uring"] = look_at_io_uring();
  report["limits"] = look_at_limits();
  report["processors"] = look_at_processors();
  report["folder"] = look_at_folder(folder);
  report["advice"] = advice_on(report);
  if (as_json)
    std::cout << report.dump(2) << '\n';
  else
    print_for_people(report);
  return report["backend"]["chosen"].is_null() ? 1 : 0;
}
