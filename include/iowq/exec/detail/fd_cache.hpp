// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/fd_cache.hpp -- cached facts about file systems and descriptors.
#pragma once

#include <linux/magic.h>
#include <sys/vfs.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

namespace iowq::inline v0::detail {

/// A file as the kernel identifies it.
struct file_identity {
  std::uint32_t major = 0, minor = 0;
  std::uint64_t inode = 0;

  [[nodiscard]] std::uint64_t device() const noexcept { return std::uint64_t{major} << 32 | minor; }
  /// The key under which punted writes to this file are ordered.
  [[nodiscard]] std::uint64_t key() const noexcept {
    // Keys are compared exactly, so mixing need not be thorough, but device and inode must not
    // cancel each other out. 60 bits: the upper 4 hold the kind of file (op/detail/file_kind.hpp).
    return (device() * 0x9E3779B97F4A7C15ULL ^ inode) & ~std::uint64_t{0} >> 4;
  }
};

/// Returns true if this file system (statfs(2), f_type) keeps its inodes in memory or on a local
/// disk. A remote or user-space file system may take any time to respond, so unknown means not
/// local.
[[nodiscard]] inline bool is_local_filesystem(std::uint64_t magic) noexcept {
  switch (magic) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
    case SQUASHFS_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case PIPEFS_MAGIC:
    case SOCKFS_MAGIC:
    case ANON_INODE_FS_MAGIC:
    case MSDOS_SUPER_MAGIC:
    case ISOFS_SUPER_MAGIC:
      return true;
    default:
      return false;
  }
}

/// Facts about descriptors, by number, that otherwise cost a system call as expensive as a small
/// read. The program may have closed a number and reused it for another file without this cache
/// noticing. So it only holds facts that do no harm when they are stale. Owner thread only.
class fd_cache {
 public:
  /// The file has a position. If stale: an offset on a stream is ignored, as the ring ignores it.
  [[nodiscard]] bool seeks(int number) const noexcept { return has(seeks_, number); }
  void learn_seeks(int number) noexcept { put(seeks_, number); }
  /// A stored file without support for RWF_NOWAIT. If stale: a worker does an operation that the
  /// owner could have done.
  [[nodiscard]] bool always_waits(int number) const noexcept { return has(always_waits_, number); }
  void learn_always_waits(int number) noexcept { put(always_waits_, number); }

  /// Call when the descriptor is closed.
  void forget(int number) noexcept {
    if (!is_known(number)) return;
    for (bits* const set : {&seeks_, &always_waits_}) (*set)[index_of(number)] &= ~bit_of(number);
  }

 private:
  using bits = std::array<std::uint64_t, 64>;  // higher numbers are not cached

  [[nodiscard]] static bool is_known(int number) noexcept {
    return static_cast<unsigned>(number) < 64 * std::tuple_size_v<bits>;
  }
  [[nodiscard]] static std::size_t index_of(int number) noexcept {
    return static_cast<unsigned>(number) / 64;
  }
  [[nodiscard]] static std::uint64_t bit_of(int number) noexcept {
    return std::uint64_t{1} << (static_cast<unsigned>(number) % 64);
  }
  [[nodiscard]] static bool has(const bits& set, int number) noexcept {
    return is_known(number) && (set[index_of(number)] & bit_of(number)) != 0;
  }
  static void put(bits& set, int number) noexcept {
    if (is_known(number)) set[index_of(number)] |= bit_of(number);
  }

  bits seeks_{}, always_waits_{};
};

/// The local devices that one loop has met. Owner thread only. An answer is stale only if the
/// device number was given to another file system after umount(2); the cost is one slow call.
class devices {
 public:
  [[nodiscard]] bool is_local(std::uint64_t device) const noexcept {
    for (std::size_t i = 0; i < known_; ++i)
      if (local_[i] == device) return true;
    return false;
  }
  void learn_local(std::uint64_t device) noexcept {
    if (is_local(device)) return;
    local_[next_++ % local_.size()] = device;
    if (known_ < local_.size()) ++known_;
  }

  [[nodiscard]] fd_cache& fds() noexcept { return fds_; }

 private:
  class fd_cache fds_;
  std::array<std::uint64_t, 16> local_{};
  std::size_t known_ = 0;
  std::size_t next_ = 0;
};

}  // namespace iowq::inline v0::detail
