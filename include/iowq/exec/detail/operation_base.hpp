// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/operation_base.hpp -- one await in flight, whichever route it takes.
//
// The awaiter *is* the operation and lives in the coroutine's frame. From its submission to its
// final cqe_handler it belongs to exactly one of: the SQ waiting line, the kernel, the pool, a
// timer, a line for what another coroutine will give, the ready queue. Only the final cqe_handler
// ends that; a cancel is a request, and its own answer is never taken for the outcome. Everything
// here is the owner thread's.
//
//   created -> waiting -> ring ---------> over
//           -> pool ------^---(bounced)-> over      (ring may bounce to pool, never back)
//           -> timer, sync_wait -> ready -> over      (so does what never began)
//           -> poll <----------> ready -> over      (no ring: tried again when it may succeed)
//           -> closing -> any of these             (what others still use is not closed)
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

/// Something for the owner to do, once. In at most one queue at a time; lives with whoever waits
/// for it (an operation, a yield, a task about to start).
class loop_item {
 public:
  using function = void(loop_item* self) noexcept;

  explicit loop_item(function* act) noexcept : act_{act} {}

  loop_item() noexcept {}  // no store: most operations are never queued
  /// What run() does; before it is queued.
  void set_action(function* act) noexcept { act_ = act; }

  /// Owner thread. May end the life of *this.
  void run() noexcept { act_(this); }

  loop_item* next;  // the queue's, while it is in one

 private:
  function* act_;
};

/// std::optional without the flag: its owner keeps that beside its other flags, where all are
/// cleared by one store. The owner also calls destroy().
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

/// The same, but a pointer wide: the object is made in recycled memory
/// (coro/detail/frame_cache.hpp). For what is so rare that every frame of every coroutine should
/// not be larger for it: a thousand waiting connections are a thousand frames, and each page of
/// them is a TLB entry a turn.
template <class T>
class recycled {
 public:
  recycled() noexcept {}  // no store

  /// Null: there is no memory.
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

/// Where an operation is.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"  // see exec/operation_row.hpp
enum class stage : std::uint8_t {
  created,
  completed,
  waiting,  // in line for an SQE
  ring,     // the kernel's
  pool,     // a worker's, or queued for one
  poll,     // until its descriptor is ready, where there is no ring
  timer,
  sync_wait,      // for what another coroutine will give (sync/)
  closing,        // waits for those that use its descriptor
  ready,          // its result is in it, the loop will end it
  draining_stop,  // ended, but its stop request is still on its way here
};
#pragma GCC diagnostic pop

/// What poll(2) can tell an operation that would block now: a descriptor and POLLIN and the like.
/// No events: nothing can.
struct readiness {
  int file = -1;
  short events = 0;
};

/// What of an operation depends on its kind, for the paths that are not hot.
struct operation_kind {
  const operation_row* row;
  void (*on_cqe)(operation_base&, cqe_result) noexcept;      // null: no SQE form
  void (*prepare)(operation_base&, io_uring_sqe&) noexcept;  // null: no SQE form
  work& (*as_work)(operation_base&) noexcept;                // null: no system-call form
  bool (*disarm)(operation_base&) noexcept;                  // timer, sync_wait: false, too late
  int (*descriptor)(const operation_base&) noexcept;         // null: it uses none
  readiness (*waits_for)(const operation_base&) noexcept = nullptr;  // of stage poll
  int (*other)(const operation_base&) noexcept = nullptr;            // null: it uses no second one
};

/// What the user asked for: on_pool(), on_ring(), hashed().
struct route_override {
  bool has_key = false;

  void set_way(route way) noexcept { forced_ = static_cast<std::uint8_t>(1 + int(way)); }
  [[nodiscard]] bool has_way() const noexcept { return forced_ != 0; }
  [[nodiscard]] route way() const noexcept { return static_cast<route>(forced_ - 1); }
  [[nodiscard]] bool is_any() const noexcept { return has_way() || has_key; }

 private:
  std::uint8_t forced_ = 0;
};

/// Waits for a stop request on behalf of an operation whose token is not its executor's own.
/// A request on another thread cannot touch the operation: it posts the item, and the operation
/// does not end before the owner has taken it out of the inbox again.
class stop_hook : public loop_item {
 public:
  stop_hook(loop& owner, operation_base& op) noexcept
      : loop_item{&arrived}, owner_{owner}, op_{op} {}
  stop_hook(const stop_hook&) = delete;
  stop_hook& operator=(const stop_hook&) = delete;

  /// Makes room for the one of `op`, before that begins; watch() registers it. False: no memory.
  [[nodiscard]] static bool prepare(loop& owner, operation_base& op, stop_token token) noexcept;
  /// `op` was over before it was watched.
  static void drop(operation_base& op) noexcept;

  /// Registers. Where a stop was requested already, that cancels the operation here and now.
  void begin(stop_token token) noexcept { callback_.emplace(token, request{this}); }

  /// Ends the registration. False: the item is in the inbox and will call the owner.
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
  // Written by the requesting thread before callback_.reset() can return, read after; the owner
  // clears it when the item has come out of the inbox.
  bool posted_ = false;
  std::optional<stop_callback<request>> callback_;
};

/// A link of a loop's census: a ring, whose anchor is the loop's own.
struct registry_node {
  registry_node* before;
  registry_node* after;
};

/// What every await writes, side by side. The rest of an operation is for those that last.
struct operation_front {
  const operation_kind* kind_;
  // One store sets these four bytes.
  stage stage_ = stage::created;
  std::uint8_t bits_ = 0;
  route_override override_;
  // No more stores than needed: what follows is written before it is read.
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

/// The part of an operation that is the same for all.
class operation_base : protected operation_front, public loop_item, public registry_node {
 public:
  operation_base(const operation_base&) = delete;
  operation_base& operator=(const operation_base&) = delete;

  [[nodiscard]] const operation_row& row() const noexcept { return *kind_->row; }
  [[nodiscard]] stage where() const noexcept { return stage_; }
  [[nodiscard]] const std::source_location& source() const noexcept { return source_; }
  [[nodiscard]] time_point since() const noexcept { return since_; }
  /// -1: none.
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

  /// Moves an operation that was not awaited yet.
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

  // What is unusual about an operation's end.
  static constexpr std::uint8_t cancel_wanted = 1;
  static constexpr std::uint8_t cancel_sent = 2;
  static constexpr std::uint8_t hooked = 4;  // stops by its hook; else with the executor, or never
  static constexpr std::uint8_t has_work = 8;           // it has work
  static constexpr std::uint8_t keyed = 16;             // it went to the pool with key_
  static constexpr std::uint8_t listed = 32;            // it is, or was, in the census
  static constexpr std::uint8_t was_tracked_late = 64;  // and was not from the beginning
  static constexpr std::uint8_t has_callback =
      128;  // who waits is a completion_callback, no coroutine

  /// Was it not awaited yet? If it was, the answer comes with the source line.
  [[nodiscard]] bool is_fresh() const noexcept {
    return stage_ == stage::created || at_fault(source_);
  }
  [[nodiscard]] bool is(std::uint8_t bits) const noexcept { return (bits_ & bits) != 0; }
  void set(std::uint8_t bit) noexcept { bits_ = static_cast<std::uint8_t>(bits_ | bit); }

  /// Before it begins: in the place of a coroutine `waiter` is told.
  void set_callback(completion_callback& waiter) noexcept {
    IOWQ_ASSERT(is_fresh(), "an operation was awaited twice");
    stage_ = stage::ring;  // the rule, as when a coroutine awaits
    set(has_callback);
    callback_ = &waiter;
  }

  std::uint64_t key_;  // forced for, or chosen
  union {
    time_point since_;
  };
  recycled<stop_hook> hook_;  // while hooked
};

/// Requests of which no await is the life (op/detail/multishot_request.hpp,
/// op/detail/read_ahead.hpp).
struct request_counts {
  unsigned armed = 0;      // the kernel's, or in line for it
  unsigned abandoned = 0;  // nobody wants the answers any more, or may: only the run waits for them
};

/// A deadline of an operation.
struct alarm : timer {
  explicit alarm(operation_base& o) noexcept : op{o} {}
  operation_base& op;
};

}  // namespace iowq::inline v0::detail
