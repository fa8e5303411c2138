// SPDX-License-Identifier: BSL-1.0
// doctest itself, compiled once, and the list of what could not be tested here.
#define DOCTEST_CONFIG_IMPLEMENT
#include "run.hpp"

#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "skip.hpp"

namespace iowq_test {
namespace {
struct skipped_case {
  std::string name;
  std::string reason;
};
std::mutex skipped_mutex;
std::vector<skipped_case> skipped;

/// For whoever wants to know after a run of all cases: tests/pool/checklist.py.
void leave_note(const std::string& path) {
  std::FILE* const note = std::fopen(path.c_str(), "w");
  if (note == nullptr) return;  // a directory that is not to be written to
  for (const auto& [name, reason] : skipped)
    std::fprintf(note, "skipped: %s: %s\n", name.c_str(), reason.c_str());
  std::fclose(note);
}
}  // namespace

void note_skip(std::string reason) {
  const auto* test = doctest::getContextOptions()->currentTest;
  std::lock_guard lock(skipped_mutex);
  skipped.push_back({test != nullptr ? test->m_name : "?", std::move(reason)});
}

int run(int argc, char** argv) {
  std::thread([] {}).join();  // a sanitizer's own thread starts with the first; before any count
  doctest::Context context(argc, argv);
  const int failed = context.run();
  // Names and reasons have colons. tests/summary.py reads this.
  for (const auto& [name, reason] : skipped)
    std::printf("skipped: %s | %s\n", name.c_str(), reason.c_str());
  if (argc == 1) leave_note(std::string(argv[0]) + ".skipped");
  return failed;
}
}  // namespace iowq_test
