// SPDX-License-Identifier: BSL-1.0
// Prints docs/operations.md from the rows of all operations.
#include <iostream>
#include <string_view>

#include <iowq/iowq.hpp>

namespace {

using iowq::operation_row;
namespace calls = iowq::detail;

struct line {
  const operation_row& row;
  std::string_view functions;
};

/// The first kernel with an opcode (include/uapi/linux/io_uring.h, by its history).
std::string_view kernel_of(int opcode) {
  struct since {
    int up_to;
    std::string_view kernel;
  };
  constexpr since all[] = {{7, "5.1"},   {8, "5.2"},   {10, "5.3"},  {12, "5.4"},  {16, "5.5"},
                           {29, "5.6"},  {32, "5.7"},  {33, "5.8"},  {36, "5.11"}, {39, "5.15"},
                           {40, "5.18"}, {46, "5.19"}, {47, "6.0"},  {48, "6.1"},  {53, "6.7"},
                           {54, "6.8"},  {55, "6.9"},  {57, "6.11"}, {61, "6.15"}, {62, "6.16"}};
  if (opcode == operation_row::no_opcode) return "";
  for (const since& one : all)
    if (opcode <= one.up_to) return one.kernel;
  return "newer";
}

std::string_view stopped(const operation_row& row) {
  if (!row.cancellable) return "never";
  if (row.first == iowq::route::inline_) return "";
  return row.first == iowq::route::ring || row.unbound ? "at any time" : "until it runs";
}

void print(const line& one) {
  const operation_row& row = one.row;
  std::cout << "| `" << row.name << "` | " << one.functions << " | " << iowq::to_string(row.first)
            << " | ";
  if (row.opcode != operation_row::no_opcode) std::cout << row.opcode;
  std::cout << " | " << kernel_of(row.opcode) << " | " << (row.unbound ? "unbound" : "bound")
            << " | " << row.key << " | " << stopped(row) << " | " << row.reason << " |\n";
}

template <std::size_t N>
void family(std::string_view title, const line (&lines)[N]) {
  std::cout << "\n## " << title
            << "\n\n"
               "| operation | functions | first | opcode | kernel | account | ordered by | stopped "
               "| because |\n"
               "|---|---|---|---|---|---|---|---|---|\n";
  for (const line& one : lines) print(one);
}

}  // namespace

int main() {
  std::cout <<
      R"(# Every operation, from its row

Printed by `tests/shape/operations.cpp`: change the rows, not this file.

- **operation**: its name in `executor_stats::operations`, in `dump()` and in what an error says.
- **first**: where it goes before anything else is known: *inline*, called at once by the owner;
  *ring*; *pool*, a worker. The descriptor or the arguments may change it:
  see **because**. An operation that would block on the ring goes to the pool.
- **opcode**: the number of its io_uring opcode; none: there is no opcode. An operation whose
  opcode the running kernel does not have goes to the pool.
- **kernel**: the first that has the opcode.
- **account**: which workers run it on the pool. `read`, `write`, `sendfile` and their variants are
  unbound if the descriptor is not a stored file.
- **ordered by**: on the pool, never beside another of the same key, and in the order awaited.
- **stopped**: until when a stop request can end it on its first route. A worker's system call that
  cannot be interrupted runs to its end, and its real result is reported.
  A stop request always ends an inline wait for the loop.

The functions that are coroutines made of these (`read_exactly`, `read_all`, `write_all`,
`send_all`, `read_directory`, `connect_to`, `listen_on`, `until_signal`) have no row, nor has
`linked`, which sends several of these as one chain. Other operations on a `fixed_file` have the row
of the same operation on a descriptor; where that row says pool, a file without a descriptor
goes to the ring.
)";
  family("Open and close", {{calls::open_call::row, "`open` `openat` `openat2`"},
                            {calls::close_call::row, "`close`"},
                            {calls::close_fixed_call::row, "`close` of a `fixed_file`"},
                            {calls::dup_call::row, "`dup`"},
                            {calls::dup_fixed_call::row, "`dup` of a `fixed_file`"},
                            {calls::pipe_call::row, "`pipe`"}});
  family("Data", {{calls::read_call::row, "`read` `pread`"},
                  {calls::write_call::row, "`write` `pwrite`"},
                  {calls::readv_call::row, "`readv` `preadv`"},
                  {calls::writev_call::row, "`writev` `pwritev`"},
                  {calls::read_fixed_call::row, "`read_fixed`"},
                  {calls::write_fixed_call::row, "`write_fixed`"},
                  {calls::copy_file_range_call::row, "`copy_file_range`"},
                  {calls::sendfile_call::row, "`sendfile`"},
                  {calls::splice_call::row, "`splice`"},
                  {calls::tee_call::row, "`tee`"}});
  family("Durability and space", {{calls::fsync_call::row, "`fsync` `fdatasync`"},
                                  {calls::sync_file_range_call::row, "`sync_file_range`"},
                                  {calls::fallocate_call::row, "`fallocate`"},
                                  {calls::ftruncate_call::row, "`ftruncate`"},
                                  {calls::fadvise_call::row, "`fadvise`"}});
  family("Names",
         {{calls::rename_call::row, "`rename` `renameat`"},
          {calls::unlink_call::row, "`unlink` `unlinkat` `rmdir`"},
          {calls::mkdir_call::row, "`mkdir` `mkdirat`"},
          {calls::link_call::row, "`link` `linkat`"},
          {calls::symlink_call::row, "`symlink` `symlinkat`"},
          {calls::readlink_call::row, "`readlink` `readlinkat`"},
          {calls::mkstemp_call::row, "`mkstemp`"},
          {calls::mkdtemp_call::row, "`mkdtemp`"},
          {calls::getdents_call::row, "`read_directory`"},
          {calls::open_directory_call::row, "`walk`"},
          {calls::read_ahead::wait_awaiter::row, "`walk`, before a directory it reads ahead"}});
  family("Attributes", {{calls::stat_call::row, "`stat` `lstat` `statx`"},
                        {calls::fstat_call::row, "`fstat`"},
                        {calls::statfs_call::row, "`statfs`"},
                        {calls::fstatfs_call::row, "`fstatfs`"},
                        {calls::chmod_call::row, "`chmod`"},
                        {calls::fchmod_call::row, "`fchmod`"},
                        {calls::chown_call::row, "`chown`"},
                        {calls::fchown_call::row, "`fchown`"},
                        {calls::utimens_call::row, "`utimens`"},
                        {calls::futimens_call::row, "`futimens`"},
                        {calls::getxattr_call::row, "`getxattr`"},
                        {calls::fgetxattr_call::row, "`fgetxattr`"},
                        {calls::setxattr_call::row, "`setxattr`"},
                        {calls::fsetxattr_call::row, "`fsetxattr`"},
                        {calls::listxattr_call::row, "`listxattr`"},
                        {calls::removexattr_call::row, "`removexattr`"},
                        {calls::flock_call::row, "`flock`"}});
  family("Sockets", {{calls::socket_call::row, "`socket`"},
                     {calls::bind_call::row, "`bind`"},
                     {calls::listen_call::row, "`listen`"},
                     {calls::accept_call::row, "`accept`"},
                     {calls::accept_into_call::row, "`accept_into`"},
                     {calls::connect_call::row, "`connect`"},
                     {calls::recv_call::row, "`recv`"},
                     {calls::send_call::row, "`send`"},
                     {calls::recvmsg_call::row, "`recvmsg`"},
                     {calls::sendmsg_call::row, "`sendmsg`"},
                     {calls::recvfrom_call::row, "`recvfrom`"},
                     {calls::sendto_call::row, "`sendto`"},
                     {calls::send_zc_call::row, "`send_zc`"},
                     {calls::sendmsg_zc_call::row, "`sendmsg_zc`"},
                     {calls::accept_many_call::row, "`accept_many`"},
                     {calls::recv_many_call::row, "`recv_many`"},
                     {calls::buffer_wait::row, "`recv_many`, without a free buffer"},
                     {calls::shutdown_call::row, "`shutdown`"},
                     {calls::getsockopt_call<int>::row, "`getsockopt`"},
                     {calls::setsockopt_call<int>::row, "`setsockopt`"},
                     {calls::resolve_call::row, "`resolve`"}});
  family("Waiting, processes, and the rest",
         {{calls::poll_call::row, "`poll`"},
          {calls::poll_many_call::row, "`poll_many`"},
          {calls::epoll_wait_call::row, "`epoll_wait`"},
          {calls::sleep_operation::row, "`sleep_for` `sleep_until`"},
          {calls::day_sleep_call::row, "`sleep_until` of the system clock"},
          {calls::futex_wait_call::row, "`futex_wait`"},
          {calls::futex_wake_call::row, "`futex_wake`"},
          {calls::waitid_call::row, "`waitid` `wait_for`"},
          {calls::spawn_call::row, "`spawn_process`"},
          {calls::raw_call<void (*)(io_uring_sqe&)>::row, "`raw`"},
          {calls::punt_call<int (*)()>::row, "`punt`"}});
}
