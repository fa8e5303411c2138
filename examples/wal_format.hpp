// SPDX-License-Identifier: BSL-1.0
// The file format of a write-ahead log, and the decision between a torn end and damage.
//
// A file is a head (magic, random salt, checksum) and then records. A record is a mark of 8 bytes,
// a head and the payload. Its checksum covers the salt, so a record of another log never matches.
//
// The mark never occurs inside a record: where a head or payload contains the mark's first 7 bytes,
// a filler byte follows them. The first byte of the mark occurs in it only once, and the filler is
// neither that byte nor the last one, so that no other position can spell the mark either. A mark
// in the file is therefore the begin of a record or damage, but never payload, whatever a user
// stores (a whole log, or this very log). This also bounds the search behind damage: a candidate
// ends at the next mark, so all checksums together read each byte once.
//
// A writer writes the records of a batch together, flushes them, acknowledges them, and only then
// writes the next batch. Each record names the first record of its batch. When a record does not
// match, this decides:
// - No whole record is behind it: the end is torn. A crash leaves this, with or without zeros.
// - A whole record of a later batch is behind it. The bytes that do not match were flushed and
//   acknowledged: the log is damaged.
// - Only records of the same batch are behind it: a power failure can lose a sector of a batch and
//   keep later ones. The file grew there, so a lost sector reads as zeros. With such a sector the
//   batch is torn and was not acknowledged; without one the log is damaged.
// In the last batch alone, damage that looks like a torn write cannot be told from one: nothing on
// the disk says that this batch was acknowledged. The program then reports how much it cuts off.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>

namespace wal {

using namespace std::string_view_literals;

inline constexpr std::string_view magic = "iowqwal2"sv;
inline constexpr std::string_view mark = "\xf1\x9d\x57\xc3\x8b\xa6\xe4\x3d"sv;
inline constexpr std::string_view stuffed = mark.substr(0, mark.size() - 1);
inline constexpr char filler = '\0';
inline constexpr std::size_t sector = 512;
inline constexpr std::size_t largest_record = std::size_t{1} << 30U;
static_assert(mark.find(mark[0], 1) == mark.npos && mark.back() != filler && mark[0] != filler);

/// In native byte order, as all numbers in the file.
struct file_head {
  std::array<char, 8> magic;
  std::array<char, 20> salt;
  std::uint32_t checksum;  // covers the magic and the salt
};

struct record_head {
  std::uint32_t checksum;  // covers the salt, the rest of this head and the payload
  std::uint32_t size;      // bytes of the payload
  std::uint64_t number;    // counts from 0 in each log
  std::uint64_t first;     // the number of the first record of the same batch
};

inline std::uint32_t crc(std::uint32_t start, const void* data, std::size_t size) {
  return static_cast<std::uint32_t>(::crc32_z(start, static_cast<const Bytef*>(data), size));
}

inline std::uint32_t checksum_of(const file_head& head) {
  return crc(0, &head, offsetof(file_head, checksum));
}

inline file_head new_file_head() {
  file_head head{};
  std::copy(magic.begin(), magic.end(), head.magic.begin());
  std::random_device random;
  for (char& byte : head.salt) byte = static_cast<char>(random());
  head.checksum = checksum_of(head);
  return head;
}

/// Appends `bytes` to `out` so that the mark does not occur.
inline void stuff(std::string& out, std::string_view bytes) {
  for (;;) {
    std::size_t const at = bytes.find(stuffed);
    out += bytes.substr(0, at == bytes.npos ? at : at + stuffed.size());
    if (at == bytes.npos) return;
    out += filler;
    bytes.remove_prefix(at + stuffed.size());
  }
}

/// The reverse of stuff(). Stops where stuff() cannot have written `bytes`.
inline std::string unstuff(std::string_view bytes) {
  std::string out;
  for (;;) {
    std::size_t const at = bytes.find(stuffed), behind = at + stuffed.size();
    bool const valid = at != bytes.npos && behind < bytes.size() && bytes[behind] == filler;
    out += bytes.substr(0, valid ? behind : at);
    if (!valid) return out;
    bytes.remove_prefix(behind + 1);
  }
}

struct record {
  record_head head;
  std::string payload;
  std::size_t end;  // offset in the file after the record
};

/// Writes and reads the records of one file.
class format {
 public:
  explicit format(const file_head& head) : salt_{head.salt} {}

  void append(std::string& out, std::uint64_t number, std::uint64_t first,
              std::string_view payload) const {
    record_head head{0, static_cast<std::uint32_t>(payload.size()), number, first};
    head.checksum = checksum_of(head, payload);
    std::string plain{reinterpret_cast<const char*>(&head), sizeof head};
    plain += payload;
    out += mark;
    stuff(out, plain);
  }

  /// The record that begins at `at`, if it is whole.
  [[nodiscard]] std::optional<record> record_at(std::string_view file, std::size_t at) const {
    if (!file.substr(at).starts_with(mark)) return std::nullopt;
    std::size_t const begin = at + mark.size(), next = file.find(mark, begin);
    std::string plain = unstuff(file.substr(begin, next == file.npos ? next : next - begin));
    record_head head;
    if (plain.size() < sizeof head) return std::nullopt;
    std::memcpy(&head, plain.data(), sizeof head);
    if (head.size > plain.size() - sizeof head) return std::nullopt;
    plain.resize(sizeof head + head.size);
    std::string payload = plain.substr(sizeof head);
    if (head.checksum != checksum_of(head, payload)) return std::nullopt;
    std::string again;
    stuff(again, plain);
    return record{head, std::move(payload), begin + again.size()};
  }

 private:
  [[nodiscard]] std::uint32_t checksum_of(const record_head& head, std::string_view payload) const {
    constexpr std::size_t skipped = sizeof head.checksum;
    std::uint32_t const salted = crc(0, salt_.data(), salt_.size());
    std::uint32_t const headed =
        crc(salted, reinterpret_cast<const char*>(&head) + skipped, sizeof head - skipped);
    return crc(headed, payload.data(), payload.size());
  }

  std::array<char, 20> salt_;
};

enum class condition {
  whole,
  unborn,   // has no head yet: new, or its creation was interrupted
  torn,     // whole up to a point, and nothing that was acknowledged is behind it
  damaged,  // acknowledged records are behind the damage
  old,      // written by the first version of this program, which had no file head
  foreign,  // something else, or its head is damaged
};

struct survey {
  condition state = condition::whole;
  std::size_t whole = 0;            // bytes that are fine
  std::uint64_t next = 0;           // the number of the next record
  std::size_t records_behind = 0;   // whole records behind the damage
  std::optional<file_head> head{};  // if it is whole
};

/// Returns whether a sector of a torn write is missing from [begin, end). `starts_batch`: the write
/// began at `begin`. Otherwise the sector that holds `begin` was written together with the bytes
/// before it.
inline bool lost_a_sector(std::string_view file, std::size_t begin, std::size_t end,
                          bool starts_batch) {
  for (std::size_t at = begin / sector * sector; at + sector <= end; at += sector) {
    std::size_t const from = std::max(at, begin), length = at + sector - from;
    if (from != at && (!starts_batch || length < mark.size())) continue;
    if (file.substr(from, length).find_first_not_of('\0') == file.npos) return true;
  }
  return false;
}

/// Decides between torn and damaged for a file that is not whole.
inline void look_behind(std::string_view file, const format& records, survey& result) {
  bool same_batch = true, starts_batch = false;
  std::size_t gap_end = 0;
  for (std::size_t at = file.find(mark, result.whole); at != file.npos;
       at = file.find(mark, at + mark.size())) {
    auto const found = records.record_at(file, at);
    if (!found) continue;
    if (result.records_behind++ == 0) {
      gap_end = at;
      starts_batch = found->head.first == result.next;
    }
    same_batch = same_batch && found->head.first <= result.next && result.next < found->head.number;
  }
  bool const torn = result.records_behind == 0 ||
                    (same_batch && lost_a_sector(file, result.whole, gap_end, starts_batch));
  result.state = torn ? condition::torn : condition::damaged;
}

/// Returns the condition of a file without a whole head.
inline condition state_without_head(std::string_view file) {
  bool const zeros = file.find_first_not_of('\0') == file.npos;
  if (file.size() < sizeof(file_head) &&
      (zeros || file.starts_with(magic) || magic.starts_with(file)))
    return condition::unborn;
  if (file.size() == sizeof(file_head) && zeros) return condition::unborn;
  struct {
    std::uint32_t checksum, size;
    std::uint64_t number;
  } old;
  if (file.size() < sizeof old) return condition::foreign;
  std::memcpy(&old, file.data(), sizeof old);
  if (old.number != 0 || old.size > file.size() - sizeof old) return condition::foreign;
  std::uint32_t const found = crc(0, file.data() + 4, sizeof old - 4 + old.size);
  return found == old.checksum ? condition::old : condition::foreign;
}

/// Calls `use(number, payload)` with each whole record before the first one that does not match,
/// and returns what the file is.
template <class Use>
survey examine(std::string_view file, Use use) {
  survey result;
  file_head head;
  if (file.size() >= sizeof head) std::memcpy(&head, file.data(), sizeof head);
  if (file.size() < sizeof head || !file.starts_with(magic) || head.checksum != checksum_of(head)) {
    result.state = state_without_head(file);
    return result;
  }
  result.head = head;
  result.whole = sizeof head;
  format const records{head};
  for (;;) {
    auto const found = records.record_at(file, result.whole);
    if (!found || found->head.number != result.next) break;
    use(found->head.number, std::string_view{found->payload});
    result.whole = found->end;
    ++result.next;
  }
  if (result.whole != file.size()) look_behind(file, records, result);
  return result;
}

/// The error message for a file that is refused.
inline std::string problem_of(const survey& result) {
  if (result.state == condition::damaged)
    return "damaged at offset " + std::to_string(result.whole) + ", and " +
           std::to_string(result.records_behind) + " whole records are behind the damage";
  if (result.state == condition::old)
    return "written by an older version of this program; only that version can read it";
  return "not a log of this version, or its file head (the first " +
         std::to_string(sizeof(file_head)) + " bytes) is damaged";
}

[[nodiscard]] inline bool is_refused(const survey& result) {
  return result.state == condition::damaged || result.state == condition::old ||
         result.state == condition::foreign;
}

}  // namespace wal
