// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/operation_base.hpp -- one await in flight, whichever route it takes.
//
// The awaiter is the operation and lives in the coroutine's frame. From its submission to its final
// completion it belongs to exactly one owner: the queue of operations that wait for an SQE, the
// kernel, the pool, a timer, the wait queue of a sync primitive, or the ready queue. Only the final
// completion ends that. A cancel is a request, and its own result is never taken for the result of
// the operation. Everything here belongs to the owner thread.
//
//   created -> waiting -> ring ------------> completed
//           -> pool ------^---(bounced)---> completed   (ring may bounce to pool, never back)
//           -> timer, sync_wait -> ready -> completed   (so does an operation that never began)
//           -> poll <------------> ready -> completed   (no ring: retried when it may succeed)
//           -> closing -> any of these                  (a descriptor in use is not closed)
#pragma once

#include <coroutine>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/frame_cache.hpp>
#include <iowq/exec/detail/operation_counters.hpp>
#include <iowq/exec/operation_row.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/queue/timer_heap.hpp>
#include <iowq/ring/detail/cqe.hpp>

namespace iowq::inline v0::detail {

/// An action that the owner thread runs once. It is in at most one queue at a time. It is part of
/// the object that waits for the action: an operation, a yield, a task about to start.
class loop_item {
 public:
  using function = void(loop_item* self) noexcept;

  explicit loop_item(function* act) noexcept : act_{act} {}

  loop_item() noexcept {}  // no store: most operations are never queued
  /// Sets the action of run(). Call it before the item is queued.
  void set_action(function* act) noexcept { act_ = act; }

  /// Owner thread. May destroy *this.
  void run() noexcept { act_(this); }

  loop_item* next;  // belongs to the queue that holds the item

 private:
  function* act_;
};

/// Like std::optional, but without the flag: the owner keeps that flag beside its other flags,
/// which one store clears together. The owner also calls destroy().
template <class T>
class lazy {
 public:
  lazy() noexcept {}
  lazy(const lazy&) = delete;
  lazy& operator=(const lazy&) = delete;
  ~lazy() {}

  template <class... Arguments>
  T* emplace(Arguments&&... arguments) noexcept {
    return std::construct_at(&object_, std::forward<Arguments>(arguments)...);
  }
  void destroy() noexcept { std::destroy_at(&object_); }
  [[nodiscard]] T& object() noexcept { return object_; }

 private:
  union {
    T object_;
  };
};

/// Like lazy, but only one pointer in size: the object is constructed in recycled memory
/// (coro/detail/frame_cache.hpp). For rarely needed objects, which should not enlarge every
/// coroutine frame: a thousand waiting connections have a thousand frames, and each page of frames
/// costs a TLB entry a turn.
template <class T>
class recycled {
 public:
  recycled() noexcept {}  // no store

  /// Returns null if there is no memory.
  template <class... Arguments>
  T* emplace(Arguments&&... arguments) noexcept {
    void* memory = nullptr;
    try {
      memory = allocate_frame(sizeof(T));
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    object_ = ::new (memory) T(std::forward<Arguments>(arguments)...);
    return object_;
  }
  void destroy() noexcept {
    std::destroy_at(object_);
    free_frame(object_, sizeof(T));
  }
  [[nodiscard]] T& object() const noexcept { return *object_; }

 private:
  T* object_;
};

}  // namespace iowq::inline v0::detail

struct io_uring_sqe;

namespace iowq::inline v0::detail {

class loop;
class operation_base;

/// The state of an operation.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"  // see exec/operation_row.hpp
enum class stage : std::uint8_t {
  created,
  completed,
  waiting,  // for a free SQE
  ring,     // the kernel has it
  pool,     // a worker runs it, or it is queued for one
  poll,     // no ring: waits until its descriptor is ready
  timer,
  sync_wait,      // waits for another coroutine (sync/)
  closing,        // waits for the operations that use its descriptor
  ready,          // has its result, the loop will complete it
  draining_stop,  // completed, but its stop request is still in the inbox
};
#pragma GCC diagnostic pop

/// The event that poll(2) has to report before an operation that would block is tried again: a
/// descriptor, and POLLIN and the like. If `events` is 0, poll(2) cannot help.
struct readiness {
  int file = -1;
  short events = 0;
};

/// The parts of an operation that depend on its kind, for the paths that are not hot.
struct operation_kind {
  const operation_row* row;
  void (*on_cqe)(operation_base&, cqe_result) noexcept;      // null: no SQE form
  void (*prepare)(operation_base&, io_uring_sqe&) noexcept;  // null: no SQE form
  work& (*as_work)(operation_base&) noexcept;                // null: no system-call form
  bool (*disarm)(operation_base&) noexcept;                  // timer, sync_wait; false: too late
  int (*descriptor)(const operation_base&) noexcept;         // null: uses no descriptor
  readiness (*waits_for)(const operation_base&) noexcept = nullptr;  // stage poll
  int (*other)(const operation_base&) noexcept = nullptr;            // null: no second descriptor
};

/// The user's overrides: on_pool(), on_ring(), hashed().
struct route_override {
  bool has_key = false;

  void set_way(route way) noexcept { forced_ = static_cast<std::uint8_t>(1 + int(way)); }
  [[nodiscard]] bool has_way() const noexcept { return forced_ != 0; }
  [[nodiscard]] route way() const noexcept { return static_cast<route>(forced_ - 1); }
  [[nodiscard]] bool is_any() const noexcept { return has_way() || has_key; }

 private:
  std::uint8_t forced_ = 0;
};

/// Waits for a stop request on behalf of an operation whose token is not its executor's own. A stop
/// request on another thread cannot touch the operation. It posts this item instead, and the
/// operation does not complete before the owner has taken the item out of the inbox.
class stop_hook : public loop_item {
 public:
  stop_hook(loop& owner, operation_base& op) noexcept
      : loop_item{&arrived}, owner_{owner}, op_{op} {}
  stop_hook(const stop_hook&) = delete;
  stop_hook& operator=(const stop_hook&) = delete;

  /// Allocates the hook of `op`, before `op` begins; loop::watch() registers it. False: no memory.
  [[nodiscard]] static bool prepare(loop& owner, operation_base& op, stop_token token) noexcept;
  /// Frees the hook if `op` completed before it was watched.
  static void drop(operation_base& op) noexcept;

  /// Registers with the token. If a stop was already requested, cancels the operation immediately.
  void begin(stop_token token) noexcept { callback_.emplace(token, request{this}); }

  /// Deregisters. False: the item is in the inbox, and arrived() will run on the owner thread.
  [[nodiscard]] bool end() noexcept {
    callback_.reset();
    return !posted_;
  }

 private:
  struct request {
    stop_hook* hook;
    void operator()() const noexcept { hook->requested(); }
  };
  void requested() noexcept;
  static void arrived(loop_item* self) noexcept;

  loop& owner_;
  operation_base& op_;
  // Written by the requesting thread before callback_.reset() can return, and read after that. The
  // owner clears it after it has taken the item out of the inbox.
  bool posted_ = false;
  std::optional<stop_callback<request>> callback_;
};

/// A node of a circular list in the loop's in_flight_registry, which owns the anchor of the list.
struct registry_node {
  registry_node* before;
  registry_node* after;
};

/// The members that every await writes, side by side. The rest of an operation is for those that
/// take longer.
struct operation_front {
  const operation_kind* kind_;
  // One store sets these four bytes.
  stage stage_ = stage::created;
  std::uint8_t bits_ = 0;
  route_override override_;
  // Left uninitialised to save stores: each of the following is written before it is read.
  union {
    std::coroutine_handle<> waiter_;
    completion_callback* callback_;  // if has_callback
  };
  cqe_result result_;
  std::source_location source_;

  operation_front(const operation_kind& kind, route_override forced,
                  std::source_location source) noexcept
      : kind_{&kind}, override_{forced}, source_{source} {}
};

/// The part of an operation that is the same for all kinds.
class operation_base : protected operation_front, public loop_item, public registry_node {
 public:
  operation_base(const operation_base&) = delete;
  operation_base& operator=(const operation_base&) = delete;

  [[nodiscard]] const operation_row& row() const noexcept { return *kind_->row; }
  [[nodiscard]] stage where() const noexcept { return stage_; }
  [[nodiscard]] const std::source_location& source() const noexcept { return source_; }
  [[nodiscard]] time_point since() const noexcept { return since_; }
  /// Returns -1 if the operation uses no descriptor.
  [[nodiscard]] int used_descriptor() const noexcept {
    return kind_->descriptor != nullptr ? kind_->descriptor(*this) : -1;
  }
  [[nodiscard]] int used_second_descriptor() const noexcept {
    return kind_->other != nullptr ? kind_->other(*this) : -1;
  }
  [[nodiscard]] bool uses(int descriptor) const noexcept {
    return used_descriptor() == descriptor || used_second_descriptor() == descriptor;
  }
  [[nodiscard]] std::optional<std::uint64_t> key() const noexcept {
    return is(keyed) ? std::optional{key_} : std::nullopt;
  }
  [[nodiscard]] work* as_work() noexcept {
    return kind_->as_work != nullptr && stage_ == stage::pool ? &kind_->as_work(*this) : nullptr;
  }

 protected:
  operation_base(const operation_kind& kind, std::source_location source) noexcept
      : operation_front{kind, route_override{}, source} {}

  /// Moves an operation that has not been awaited yet.
  operation_base(operation_base&& other) noexcept
      : operation_front{*other.kind_, other.override_, other.source_}, key_{other.key_} {
    IOWQ_ASSERT(other.is_fresh(), "an operation was moved after it was awaited");
  }

  ~operation_base() {
    IOWQ_ASSERT(stage_ <= stage::completed || at_fault(source_),
                "a coroutine was destroyed while an operation of it is in flight: the kernel may "
                "still write into its frame");
  }

  friend class in_flight_registry;
  friend class loop;
  friend class ring_backend;
  friend class poll_backend;
  friend class fast_path;
  friend class stop_hook;
  friend struct chain_link;  // op/linked.hpp

  // Bits for the unusual cases of a completion.
  static constexpr std::uint8_t cancel_wanted = 1;
  static constexpr std::uint8_t cancel_sent = 2;
  static constexpr std::uint8_t hooked = 4;    // its hook cancels it; else the executor's stop
  static constexpr std::uint8_t has_work = 8;  // its work was constructed
  static constexpr std::uint8_t keyed = 16;    // it went to the pool with key_
  static constexpr std::uint8_t listed = 32;   // it is, or was, in the registry
  static constexpr std::uint8_t was_tracked_late = 64;  // and was not at first
  static constexpr std::uint8_t has_callback = 128;  // a completion_callback waits, not a coroutine

  /// True if the operation has not been awaited. Otherwise prints the source line and returns
  /// false.
  [[nodiscard]] bool is_fresh() const noexcept {
    return stage_ == stage::created || at_fault(source_);
  }
  [[nodiscard]] bool is(std::uint8_t bits) const noexcept { return (bits_ & bits) != 0; }
  void set(std::uint8_t bit) noexcept { bits_ = static_cast<std::uint8_t>(bits_ | bit); }

  /// Call before the operation begins: `waiter` is invoked on completion, instead of a coroutine.
  void set_callback(completion_callback& waiter) noexcept {
    IOWQ_ASSERT(is_fresh(), "an operation was awaited twice");
    stage_ = stage::ring;  // the usual route, as when a coroutine awaits
    set(has_callback);
    callback_ = &waiter;
  }

  std::uint64_t key_;  // forced by the user, or chosen by the operation
  union {
    time_point since_;
  };
  recycled<stop_hook> hook_;  // while hooked
};

/// The library's own access to an operation, of which users see only that it can be awaited.
struct operation_access {
  template <class Operation>
  static operation_base& base(Operation& op) noexcept {
    return op;
  }
  template <class Operation>
  static const Operation& from_base(const operation_base& op) noexcept {
    return static_cast<const Operation&>(op);
  }
  template <class Operation>
  static auto& call(Operation& op) noexcept {
    return op.call_;
  }
  template <class Operation>
  static void force_route(Operation& op, route way) noexcept {
    op.override_.set_way(way);
  }
  template <class Operation>
  static void force_key(Operation& op, std::uint64_t key) noexcept {
    op.override_.has_key = true;
    op.key_ = key;
  }
};

/// Counts of requests that may outlive the await that started them
/// (op/detail/multishot_request.hpp, op/detail/read_ahead.hpp).
struct request_counts {
  unsigned armed = 0;      // the kernel has them, or they wait for an SQE
  unsigned abandoned = 0;  // the results are no longer awaited; run() still waits for the requests
};

/// The deadline of an operation.
struct alarm : timer {
  explicit alarm(operation_base& o) noexcept : op{o} {}
  operation_base& op;
};

}  // namespace iowq::inline v0::detail
