// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/key_table.hpp -- hashed work: items of one key run one after the other, in
// order.
//
// io-wq hashes an inode to one of 64 buckets and lets one worker have all that is queued for a
// bucket: strangers wait for each other, a hot inode keeps a worker, and what a worker has
// claimed can no longer be cancelled. Here a key is exact, and a chain has no object of its own.
// The *leader* of a key, its running item or else its oldest queued one, stands in the table;
// the others hang behind it in a ring. When the leader leaves, the oldest follower takes its
// place, ring and all: O(1), nothing allocated, and a key that is not in use leaves nothing.
//
//   bucket -> leader -> leader of another key        C1  One leader a key; only it is ready
//               | followers                              or running, so a key never overlaps.
//               v                                    C2  The ring is in enqueue order; its head
//             newest -next-> oldest -> ... -> newest      is the next leader, always.
//
// The table grows and shrinks by one bucket at a time (linear hashing), so that no enqueue pays
// for a million keys. If memory for a segment is refused, buckets are longer; nothing else.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <iowq/base/assert.hpp>
#include <iowq/pool/work.hpp>

namespace iowq::detail {

/// The keys of one pool. Under M.
class chain_table {
 public:
  chain_table() noexcept = default;
  chain_table(const chain_table&) = delete;
  chain_table& operator=(const chain_table&) = delete;
  ~chain_table() {
    for (item** segment : segments_) std::free(segment);
  }

  /// Keys with queued or running work.
  [[nodiscard]] std::size_t keys() const noexcept { return keys_; }
  [[nodiscard]] std::size_t buckets() const noexcept { return buckets_; }

  /// True: `entered` leads its key and may run. False: it waits behind another and is `chained`.
  bool enter(item& entered) noexcept {
    entered.followers = nullptr;
    if (item* const leader = *find(entered.key); leader != nullptr) {
      item*& newest = leader->followers;
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

  /// `leader` gives its key up. The next leader, which is in no list yet, or null: none waits.
  [[nodiscard]] item* release(item& leader) noexcept {
    item** const place = find(leader.key);
    IOWQ_ASSERT(*place == &leader);                                                     // C1
    item* const heir = leader.followers != nullptr ? leader.followers->next : nullptr;  // C2
    if (heir == nullptr) {
      *place = leader.bucket;
      --keys_;
      for (int steps = 2; steps > 0 && buckets_ > least && keys_ * 2 < buckets_; --steps) shrink();
      return nullptr;
    }
    unlink(leader, *heir);
    heir->followers = leader.followers;
    heir->bucket = leader.bucket;
    *place = heir;
    leader.followers = nullptr;
    return heir;
  }

  /// Takes `waiting`, which is chained, out of its key's ring.
  void leave(item& waiting) noexcept { unlink(**find(waiting.key), waiting); }

  /// Takes the followers of `leader` for which `match` is true and hands them to `take`, oldest
  /// first.
  template <class Match, class Take>
  static void extract(item& leader, Match&& match, Take&& take) {
    if (leader.followers == nullptr) return;
    item* const last = leader.followers;
    for (item *now = last->next, *next = nullptr; now != nullptr; now = next) {
      next = now == last ? nullptr : now->next;
      if (!match(*now)) continue;
      unlink(leader, *now);
      take(*now);
    }
  }

 private:
  static constexpr std::size_t least = 64;

  static void unlink(item& leader, item& waiting) noexcept {
    if (waiting.next == &waiting) {
      leader.followers = nullptr;
    } else {
      waiting.next->prev = waiting.prev;
      waiting.prev->next = waiting.next;
      if (leader.followers == &waiting) leader.followers = waiting.prev;
    }
    waiting.next = waiting.prev = nullptr;
  }

  /// Keys are inode numbers and account ids: spread them (the finaliser of splitmix64).
  static std::uint64_t hash(std::uint64_t key) noexcept {
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    return key ^ (key >> 31);
  }
  /// Buckets 0 .. 63 live in the table, 64 .. 127 in segment 1, 128 .. 255 in segment 2, ...
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
    if (index >= buckets_) index -= all / 2;  // not split yet: still with its lower half
    return bucket_at(index);
  }
  /// Where the leader of `key` is linked, or the null at the end of its bucket.
  item** find(std::uint64_t key) noexcept {
    item** link = bucket_of(key);
    while (*link != nullptr && (*link)->key != key) link = &(*link)->bucket;
    return link;
  }
  void grow() noexcept {
    if (buckets_ / least == std::size_t{1} << (segments_.size() - 1)) return;
    if (std::has_single_bit(buckets_)) {  // calloc: a large segment costs its pages when used
      void* const memory = std::calloc(buckets_, sizeof(item*));
      if (memory == nullptr) return;
      segment_of(buckets_) = static_cast<item**>(memory);
    }
    item** lower = bucket_at(buckets_ - std::bit_floor(buckets_));
    item** upper = bucket_at(buckets_);
    std::uint64_t const bit = std::bit_floor(buckets_);
    *upper = nullptr;
    ++buckets_;
    while (item* const leader = *lower) {
      if ((hash(leader->key) & bit) == 0) {
        lower = &leader->bucket;
        continue;
      }
      *lower = leader->bucket;
      leader->bucket = nullptr;
      *upper = leader;
      upper = &leader->bucket;
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
  std::array<item**, 33> segments_{};  // the first is not used
};

}  // namespace iowq::detail
