// SPDX-License-Identifier: BSL-1.0
// iowq/exec/devices.hpp -- which file systems answer fstat without waiting for anybody.
// Layer exec; needs base. Next in the book: exec/lazy_pool.hpp.
#pragma once

#include <linux/magic.h>
#include <sys/vfs.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace iowq::detail {

/// A file as the kernel numbers it.
struct file_identity {
  std::uint32_t major = 0, minor = 0;
  std::uint64_t inode = 0;

  [[nodiscard]] std::uint64_t device() const noexcept { return std::uint64_t{major} << 32 | minor; }
  /// The key under which punted writes to this file are ordered.
  [[nodiscard]] std::uint64_t key() const noexcept {
    // Exact keys need no avalanche, but device and inode must not cancel each other out. 60 bits:
    // the rest of the word says what kind of file it is (op/known.hpp).
    return (device() * 0x9E3779B97F4A7C15ULL ^ inode) & ~std::uint64_t{0} >> 4;
  }
};

/// Does this file system (statfs(2), f_type) keep its inodes in memory or on a local disk? A
/// remote or user-space one may answer whenever it likes, so what is not known is not local.
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

/// Local devices one loop has met. Owner thread only. A device number may be given to another
/// file system after umount(2): only then is the answer stale, and the cost is one slow call.
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

 private:
  std::array<std::uint64_t, 16> local_{};
  std::size_t known_ = 0;
  std::size_t next_ = 0;
};

}  // namespace iowq::detail
