// SPDX-License-Identifier: BSL-1.0
// Runs a program that the kernel refuses some system calls, as a container's seccomp filter does:
//
//   deny EPERM io_uring_setup io_uring_enter io_uring_register -- PROGRAM ARGUMENT...
//   deny KILL io_uring_setup -- PROGRAM ARGUMENT...
//
// EPERM, ENOSYS and the like are what the calls answer; KILL ends the program at the first of them,
// which proves of one that lives that it made none.
#include <seccomp.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace {
std::uint32_t action_of(std::string_view word) {
  struct {
    std::string_view name;
    std::uint32_t action;
  } const all[] = {
      {"KILL", SCMP_ACT_KILL_PROCESS},    {"EPERM", SCMP_ACT_ERRNO(EPERM)},
      {"ENOSYS", SCMP_ACT_ERRNO(ENOSYS)}, {"ENOMEM", SCMP_ACT_ERRNO(ENOMEM)},
      {"EMFILE", SCMP_ACT_ERRNO(EMFILE)},
  };
  for (auto const& [name, action] : all)
    if (word == name) return action;
  return 0;
}

int fail(const char* what, int error) {
  std::fprintf(stderr, "deny: %s: %s\n", what, std::strerror(error));
  return 125;
}
}  // namespace

int main(int argc, char** argv) {
  std::uint32_t const action = argc > 3 ? action_of(argv[1]) : 0;
  if (action == 0) return fail("deny ERRNO CALL... -- PROGRAM...", EINVAL);
  scmp_filter_ctx const filter = seccomp_init(SCMP_ACT_ALLOW);
  int at = 2;
  for (; at < argc && std::string_view{argv[at]} != "--"; ++at) {
    int const call = seccomp_syscall_resolve_name(argv[at]);
    if (call == __NR_SCMP_ERROR) return fail(argv[at], ENOSYS);
    if (int const r = seccomp_rule_add(filter, action, call, 0); r < 0) return fail(argv[at], -r);
  }
  if (at + 1 >= argc) return fail("no program", EINVAL);
  if (int const r = seccomp_load(filter); r < 0) return fail("seccomp_load", -r);
  ::execvp(argv[at + 1], argv + at + 1);
  return fail(argv[at + 1], errno);
}
