// SPDX-License-Identifier: BSL-1.0
// Every operation does what its system call does, whichever way it goes. A seed makes a program of
// many steps on a few files; it is run by bare system calls and by each of the columns, in
// directories of their own on one file system, and every answer, every byte that was read, all
// that is left on the disk and every file position must be the same.
//
//     parity DIRECTORY SEEDS STEPS [SEED]     0: they agree; prints the rows that were used
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "files.hpp"
#include "others.hpp"

namespace {

using namespace parity;

struct step {
  task<> (*run)(machine&);
  unsigned weight;
};

constexpr step steps[] = {
    {open_one, 14},     {open_beneath, 2}, {close_one, 5},     {dup_one, 2},    {read_some, 10},
    {write_some, 14},   {read_parts, 4},   {write_parts, 5},   {durability, 3}, {room_for, 6},
    {between_files, 6}, {names, 10},       {attributes, 10},   {extended, 5},   {locks, 3},
    {directories, 3},   {trees, 2},        {pipes, 2},         {sockets, 2},    {datagrams, 1},
    {waits, 1},         {processes, 1},    {the_users_own, 2}, {many, 1},       {kept_buffers, 2},
    {slots, 2},
};

task<> program(machine& m, int count) {
  unsigned all = 0;
  for (const step& one : steps) all += one.weight;
  for (int i = 0; i < count; ++i) {
    auto at = static_cast<unsigned>(m.below(all));
    const step* next = steps;
    while (at >= next->weight) at -= (next++)->weight;
    co_await next->run(m);
  }
  m.note_everything();
}

std::vector<std::string> run(const column& which, const std::string& directory, std::uint64_t seed,
                             int count) {
  std::filesystem::create_directory(directory);
  machine m{which, directory, seed};
  // The bare column awaits nothing, but its steps are coroutines as the others' are.
  iowq::run(program(m, count), which.options);
  std::filesystem::remove_all(directory);
  return m.trace();
}

/// Where two columns part, or nothing.
std::optional<std::string> difference(const std::vector<std::string>& expected,
                                      const std::vector<std::string>& got) {
  std::size_t const both = std::min(expected.size(), got.size());
  for (std::size_t i = 0; i <= both; ++i) {
    bool const same = i < both ? expected[i] == got[i] : expected.size() == got.size();
    if (same) continue;
    std::string said = "line " + std::to_string(i) + ":\n";
    for (std::size_t k = i < 6 ? 0 : i - 6; k < i; ++k) said += "        " + expected[k] + '\n';
    said += "    bare: " + (i < expected.size() ? expected[i] : "(ended)") + '\n';
    said += "    here: " + (i < got.size() ? got[i] : "(ended)") + '\n';
    return said;
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fputs("parity DIRECTORY SEEDS STEPS [SEED]\n", stderr), 2;
  std::string const directory = argv[1];
  std::uint64_t const first = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 1;
  std::uint64_t const seeds = std::strtoull(argv[2], nullptr, 10);
  int const count = std::atoi(argv[3]);
  std::signal(SIGPIPE, SIG_IGN);  // the bare column's writes raise it, ours never do
  ::umask(022);
  auto const all = columns();
  int failures = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    auto const expected = run(all.front(), directory + "/x", seed, count);
    for (std::size_t i = 1; i < all.size(); ++i) {
      auto const parted = difference(expected, run(all[i], directory + "/x", seed, count));
      if (!parted) continue;
      std::printf("seed %llu, %s: %s", static_cast<unsigned long long>(seed), all[i].name,
                  parted->c_str());
      ++failures;
    }
  }
  for (const std::string& row : rows_used()) std::printf("row %s\n", row.c_str());
  return failures == 0 ? 0 : 1;
}
