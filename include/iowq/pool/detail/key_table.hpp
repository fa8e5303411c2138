// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/key_table.hpp -- hashed work: items of one key run one by one, in order.
//
// io-wq hashes an inode to one of 64 buckets, and lets one worker claim all items that are queued
// for a bucket. So unrelated inodes wait for each other, a hot inode occupies a worker, and claimed
// items can no longer be cancelled. Here a key is exact, and the queue of a key needs no object of
// its own. The table holds the *key_head* of each key: its running item or, without one, its oldest
// queued item. The other items of the key wait behind the key_head in a ring. When the key_head
// leaves, the oldest waiter takes its place and inherits the ring. That is O(1) and allocates
// nothing, and a key without items occupies no memory.
//
//   bucket -> key_head -> key_head of another key
//               | waiters
//               v
//             newest -next-> oldest -> ... -> newest
//
// C1  A key has one key_head, and only the key_head is ready or running. So two items of one key
//     never overlap.
// C2  The ring is in enqueue order. Its oldest item is always the next key_head.
//
// The table grows and shrinks by one bucket at a time (linear hashing), so no single enqueue pays
// for rehashing a million keys. If memory for a segment is refused, the buckets only get longer.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <iowq/base/assert.hpp>
#include <iowq/pool/work.hpp>

namespace iowq::inline v0::detail {

/// The keys of one pool that have queued or running items. Under M.
class key_table {
 public:
  key_table() noexcept = default;
  key_table(const key_table&) = delete;
  key_table& operator=(const key_table&) = delete;
  ~key_table() {
    for (item** segment : segments_) std::free(segment);
  }

  /// The number of keys with queued or running items.
  [[nodiscard]] std::size_t keys() const noexcept { return keys_; }
  [[nodiscard]] std::size_t buckets() const noexcept { return buckets_; }

  /// Adds `entered`. Returns true if it becomes the key_head and may run. Returns false if it waits
  /// behind another item of its key; its state is then `chained`.
  bool enter(item& entered) noexcept {
    entered.waiters = nullptr;
    if (item* const key_head = *find(entered.key); key_head != nullptr) {
      item*& newest = key_head->waiters;
      entered.state = item_state::chained;
      entered.next = newest != nullptr ? newest->next : &entered;
      entered.prev = newest != nullptr ? newest : &entered;
      entered.next->prev = entered.prev->next = &entered;
      newest = &entered;
      return false;
    }
    if (++keys_ > buckets_) grow();
    item** const bucket = find(entered.key);
    entered.bucket = nullptr;
    *bucket = &entered;
    return true;
  }

  /// Removes `key_head`. Returns the next key_head of its key, which is in no ready list yet, or
  /// null if no item waits.
  [[nodiscard]] item* release(item& key_head) noexcept {
    item** const place = find(key_head.key);
    IOWQ_ASSERT(*place == &key_head);                                                        // C1
    item* const next_head = key_head.waiters != nullptr ? key_head.waiters->next : nullptr;  // C2
    if (next_head == nullptr) {
      *place = key_head.bucket;
      --keys_;
      for (int steps = 2; steps > 0 && buckets_ > least && keys_ * 2 < buckets_; --steps) shrink();
      return nullptr;
    }
    unlink(key_head, *next_head);
    next_head->waiters = key_head.waiters;
    next_head->bucket = key_head.bucket;
    *place = next_head;
    key_head.waiters = nullptr;
    return next_head;
  }

  /// Removes `waiting`, whose state is `chained`, from the ring of its key.
  void leave(item& waiting) noexcept { unlink(**find(waiting.key), waiting); }

  /// Removes the waiters of `key_head` for which `match` returns true, and passes each to `take`,
  /// oldest first.
  template <class Match, class Take>
  static void extract(item& key_head, Match&& match, Take&& take) {
    if (key_head.waiters == nullptr) return;
    item* const last = key_head.waiters;
    for (item *now = last->next, *next = nullptr; now != nullptr; now = next) {
      next = now == last ? nullptr : now->next;
      if (!match(*now)) continue;
      unlink(key_head, *now);
      take(*now);
    }
  }

 private:
  static constexpr std::size_t least = 64;

  static void unlink(item& key_head, item& waiting) noexcept {
    if (waiting.next == &waiting) {
      key_head.waiters = nullptr;
    } else {
      waiting.next->prev = waiting.prev;
      waiting.prev->next = waiting.next;
      if (key_head.waiters == &waiting) key_head.waiters = waiting.prev;
    }
    waiting.next = waiting.prev = nullptr;
  }

  /// Mixes the bits of a key, because keys such as inode numbers and account ids are not spread
  /// evenly. This is the finaliser of splitmix64.
  static std::uint64_t hash(std::uint64_t key) noexcept {
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    return key ^ (key >> 31);
  }
  /// Buckets 0 .. 63 are in the table itself, 64 .. 127 in segment 1, 128 .. 255 in segment 2, ...
  item** bucket_at(std::size_t index) noexcept {
    if (index < least) return &first_[index];
    std::size_t const start = std::bit_floor(index);
    return &segment_of(index)[index - start];
  }
  item**& segment_of(std::size_t index) noexcept {
    return segments_[static_cast<std::size_t>(std::bit_width(index / least))];
  }
  item** bucket_of(std::uint64_t key) noexcept {
    std::size_t const all = std::bit_ceil(buckets_);
    std::size_t index = hash(key) & (all - 1);
    if (index >= buckets_)
      index -= all / 2;  // that bucket does not exist yet: use the one it splits from
    return bucket_at(index);
  }
  /// The link that points to the key_head of `key`, or the null link at the end of its bucket.
  item** find(std::uint64_t key) noexcept {
    item** link = bucket_of(key);
    while (*link != nullptr && (*link)->key != key) link = &(*link)->bucket;
    return link;
  }
  void grow() noexcept {
    if (buckets_ / least == std::size_t{1} << (segments_.size() - 1)) return;
    if (std::has_single_bit(buckets_)) {  // calloc: pages of a large segment are used on demand
      void* const memory = std::calloc(buckets_, sizeof(item*));
      if (memory == nullptr) return;
      segment_of(buckets_) = static_cast<item**>(memory);
    }
    item** lower = bucket_at(buckets_ - std::bit_floor(buckets_));
    item** upper = bucket_at(buckets_);
    std::uint64_t const bit = std::bit_floor(buckets_);
    *upper = nullptr;
    ++buckets_;
    while (item* const key_head = *lower) {
      if ((hash(key_head->key) & bit) == 0) {
        lower = &key_head->bucket;
        continue;
      }
      *lower = key_head->bucket;
      key_head->bucket = nullptr;
      *upper = key_head;
      upper = &key_head->bucket;
    }
  }
  void shrink() noexcept {
    --buckets_;
    item** lower = bucket_at(buckets_ - std::bit_floor(buckets_));
    while (*lower != nullptr) lower = &(*lower)->bucket;
    *lower = *bucket_at(buckets_);
    if (std::has_single_bit(buckets_)) {
      std::free(segment_of(buckets_));
      segment_of(buckets_) = nullptr;
    }
  }

  std::size_t keys_ = 0;
  std::size_t buckets_ = least;
  std::array<item*, least> first_{};
  std::array<item**, 33> segments_{};  // element 0 is not used
};

}  // namespace iowq::inline v0::detail
