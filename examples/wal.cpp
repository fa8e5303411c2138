// SPDX-License-Identifier: BSL-1.0
// A write-ahead log: many writers append to a few logs, and an append returns when its record is on
// the disk. Who comes while a log is being written waits for the next batch, so that one fdatasync
// serves them all; the busier it is, the less each pays.
//
// A record says how long it is, which of its log it is, and its checksum. What a crash leaves
// behind at the end of a file does not match, and is cut off when the log is opened again. No
// record that was acknowledged can be there: it was on the disk before anything was written behind
// it.
#include <fcntl.h>
#include <zlib.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstring>
#include <deque>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include <iowq/iowq.hpp>

#include "report.hpp"

namespace {

/// In front of each record's bytes; the checksum is of all that follows it. Native byte order.
struct record_head {
  std::uint32_t checksum;
  std::uint32_t size;
  std::uint64_t number;
};

std::uint32_t checksum_of(const record_head& head, std::string_view bytes) {
  auto const data = [](const void* p) { return static_cast<const Bytef*>(p); };
  constexpr std::size_t skipped = sizeof head.checksum;
  uLong const sum = ::crc32_z(0, data(&head) + skipped, sizeof head - skipped);
  return static_cast<std::uint32_t>(::crc32_z(sum, data(bytes.data()), bytes.size()));
}

/// Calls `use(number, bytes)` with each record of `file` up to the first that is torn, and says
/// where that begins.
template <class Use>
std::size_t walk(std::string_view file, Use use) {
  std::size_t at = 0;
  for (std::uint64_t number = 0; file.size() - at >= sizeof(record_head); ++number) {
    record_head head;
    std::memcpy(&head, file.data() + at, sizeof head);
    if (head.number != number || head.size > file.size() - at - sizeof head) break;
    std::string_view const bytes = file.substr(at + sizeof head, head.size);
    if (head.checksum != checksum_of(head, bytes)) break;
    use(number, bytes);
    at += sizeof head + head.size;
  }
  return at;
}

class write_ahead_log {
 public:
  explicit write_ahead_log(std::string path, std::uint64_t key)
      : path_{std::move(path)}, key_{key} {}

  /// Cuts off what is torn, and goes on behind it.
  iowq::task<> open() {
    file_ = co_await iowq::open(path_, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    std::string const found = co_await iowq::read_all(file_);
    std::size_t const whole = walk(found, [this](std::uint64_t, std::string_view) { ++next_; });
    if (whole == found.size()) co_return;
    std::cerr << path_ << ": " << found.size() - whole << " bytes were torn\n";
    co_await iowq::ftruncate(file_, static_cast<std::int64_t>(whole));
    co_await iowq::fdatasync(file_);
  }

  /// Returns the record's number when it is on the disk. Throws if that could not be done; then the
  /// log takes no more.
  iowq::task<std::uint64_t> append(std::string_view bytes) {
    if (broken_) throw std::system_error{broken_, path_};
    std::shared_ptr<batch> const mine = filling_;
    record_head head{0, static_cast<std::uint32_t>(bytes.size()), next_++};
    head.checksum = checksum_of(head, bytes);
    mine->bytes.append(reinterpret_cast<const char*>(&head), sizeof head).append(bytes);
    // The first of a batch to get the lock writes it, for all of them.
    auto const turn = co_await one_writes_.lock();
    if (!mine->over) {
      filling_ = std::make_shared<batch>();  // who comes now is of the next
      // A stop of this writer must not tear the records of the others.
      auto written = iowq::as_result(iowq::with_stop({}, write(mine->bytes)));
      if (auto const done = co_await written; !done) broken_ = mine->error = done.error();
      mine->over = true;
    }
    if (mine->error) throw std::system_error{mine->error, path_};
    co_return head.number;
  }

  [[nodiscard]] std::uint64_t batches() const noexcept { return batches_; }

 private:
  struct batch {
    std::string bytes;
    bool over = false;
    std::error_code error;
  };

  iowq::task<> write(std::string_view bytes) {
    // After a failure nothing is tried again: the kernel may have dropped the very pages that it
    // could not write.
    if (broken_) throw std::system_error{broken_};
    ++batches_;
    co_await iowq::write_all(file_, bytes);
    auto sync = iowq::hashed(key_, iowq::fdatasync(file_));
    co_await sync;
  }

  std::string path_;
  std::uint64_t key_;
  iowq::fd file_;
  std::uint64_t next_ = 0;
  iowq::mutex one_writes_;
  std::shared_ptr<batch> filling_ = std::make_shared<batch>();
  std::error_code broken_;
  std::uint64_t batches_ = 0;
};

struct options {
  std::string directory;
  unsigned logs = 4, writers = 64;
  std::uint64_t records = 1000;  // of each writer
  std::size_t size = 100;
};

std::string path_of(const options& wanted, unsigned log) {
  return wanted.directory + "/" + std::to_string(log) + ".wal";
}

/// Says of each record that it was acknowledged, when it was.
iowq::task<> write_records(const options& wanted, std::deque<write_ahead_log>& logs,
                           unsigned writer) {
  for (std::uint64_t n = 0; n != wanted.records; ++n) {
    unsigned const log = static_cast<unsigned>((writer + n) % wanted.logs);
    std::string text = std::to_string(writer) + ' ' + std::to_string(n) + ' ';
    text.append(static_cast<std::size_t>((writer * 31 + n * 7) % (wanted.size + 1)), 'x');
    std::uint64_t const number = co_await logs[log].append(text);
    std::string const line = std::to_string(log) + ' ' + std::to_string(number) + ' ' + text + '\n';
    co_await iowq::write_all(STDOUT_FILENO, line);
  }
}

iowq::task<> write_all_logs(const options& wanted) {
  std::deque<write_ahead_log> logs;
  for (unsigned log = 0; log < wanted.logs; ++log) {
    logs.emplace_back(path_of(wanted, log), log);
    co_await logs.back().open();
  }
  // That the files are there must last as well.
  iowq::fd const directory = co_await iowq::open(wanted.directory, O_RDONLY | O_DIRECTORY);
  co_await iowq::fsync(directory);

  auto const write = [&](unsigned writer) { return write_records(wanted, logs, writer); };
  co_await iowq::for_each(std::views::iota(0U, wanted.writers), wanted.writers, write);
  std::uint64_t batches = 0;
  for (const write_ahead_log& log : logs) batches += log.batches();
  std::cerr << wanted.records * wanted.writers << " records in " << batches << " batches\n";
}

/// Prints every whole record; changes nothing.
iowq::task<> read_logs(const options& wanted) {
  for (unsigned log = 0; log < wanted.logs; ++log) {
    std::string const path = path_of(wanted, log);
    auto opened = co_await iowq::as_result(iowq::open(path, O_RDONLY | O_CLOEXEC));
    if (!opened) {
      if (opened.error() == std::errc::no_such_file_or_directory) continue;
      throw std::system_error{opened.error(), path};
    }
    iowq::fd const file = *std::move(opened);
    std::string const found = co_await iowq::read_all(file);
    std::size_t const whole = walk(found, [log](std::uint64_t number, std::string_view text) {
      std::cout << log << ' ' << number << ' ' << text << '\n';
    });
    if (whole != found.size())
      std::cerr << path << ": " << found.size() - whole << " bytes are torn\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Writes records to a few logs so that a crash loses none that was acknowledged."};
  options wanted;
  cli.add_option("--logs", wanted.logs, "how many")->check(CLI::Range(1U, 1000U));
  auto* const write = cli.add_subcommand("write", "appends, and says what is on the disk");
  auto* const read = cli.add_subcommand("read", "prints what is there");
  cli.require_subcommand(1)->fallthrough();
  write->add_option("directory", wanted.directory, "where the logs are")->required();
  read->add_option("directory", wanted.directory, "where the logs are")->required();
  write->add_option("--writers", wanted.writers, "at once")->check(CLI::Range(1U, 100'000U));
  write->add_option("--records", wanted.records, "of each writer");
  write->add_option("--size", wanted.size, "of a record, at most")->check(CLI::Range(0U, 1U << 20));
  CLI11_PARSE(cli, argc, argv);
  try {
    iowq::executor executor;
    executor.run(write->parsed() ? write_all_logs(wanted) : read_logs(wanted));
    if (write->parsed()) example::print_where_the_work_went(std::cerr, executor.stats());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "wal: " << error.what() << '\n';
    return 1;
  }
}
