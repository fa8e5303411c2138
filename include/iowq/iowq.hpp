// SPDX-License-Identifier: BSL-1.0
// iowq/iowq.hpp -- every header, in reading order.
#pragma once

// clang-format off
// base: the C++ library and POSIX only
#include <iowq/version.hpp>
#include <iowq/base/config.hpp>
#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/detail/stop_state.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/base/fd.hpp>

// coro: lazy tasks, flat stacks
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/frame_cache.hpp>
#include <iowq/coro/detail/trampoline.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>

// queue: intrusive containers, no allocation
#include <iowq/queue/intrusive_queue.hpp>
#include <iowq/queue/intrusive_list.hpp>
#include <iowq/queue/inbox.hpp>
#include <iowq/queue/timer_heap.hpp>
#include <iowq/queue/adaptive_spin.hpp>

// ring: SQEs in, CQEs out; knows no coroutine
#include <iowq/ring/detail/kernel.hpp>
#include <iowq/ring/detail/compat.hpp>
#include <iowq/ring/features.hpp>
#include <iowq/ring/detail/cqe.hpp>
#include <iowq/ring/detail/registered_resource.hpp>
#include <iowq/ring/detail/ring.hpp>
#include <iowq/ring/detail/buffer_group.hpp>
#include <iowq/ring/detail/file_table.hpp>

// pool: io-wq; knows neither ring nor coroutine
#include <iowq/pool/topology.hpp>
#include <iowq/pool/detail/context_check.hpp>
#include <iowq/pool/options.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/pool/detail/key_table.hpp>
#include <iowq/pool/detail/generation.hpp>
#include <iowq/pool/detail/account.hpp>
#include <iowq/pool/detail/worker.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/pool/blocking_region.hpp>
#include <iowq/pool/detail/worker_thread.hpp>
#include <iowq/pool/detail/manager.hpp>
#include <iowq/pool/detail/cancellation.hpp>
#include <iowq/pool/stats.hpp>
#include <iowq/pool/pool.hpp>

// exec: where coroutines, ring and pool meet
#include <iowq/exec/operation_row.hpp>
#include <iowq/exec/detail/operation_counters.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/detail/in_flight.hpp>
#include <iowq/exec/detail/fast_path.hpp>
#include <iowq/exec/detail/backend_ring.hpp>
#include <iowq/exec/detail/backend_poll.hpp>
#include <iowq/exec/detail/select_backend.hpp>
#include <iowq/exec/detail/fd_cache.hpp>
#include <iowq/exec/detail/pool_slot.hpp>
#include <iowq/exec/detail/remote_inbox.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/detail/pending_close.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/stats.hpp>
#include <iowq/exec/detail/migration.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/runtime.hpp>
#include <iowq/exec/punt.hpp>

// op: every operation, once
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/detail/file_kind.hpp>
#include <iowq/op/detail/nonblocking_io.hpp>
#include <iowq/op/detail/path_text.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/vector.hpp>
#include <iowq/op/allocate.hpp>
#include <iowq/op/transfer.hpp>
#include <iowq/op/names.hpp>
#include <iowq/op/metadata.hpp>
#include <iowq/op/xattr.hpp>
#include <iowq/op/lock.hpp>
#include <iowq/op/directory.hpp>
#include <iowq/op/detail/read_ahead.hpp>
#include <iowq/op/walk.hpp>
#include <iowq/op/endpoint.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/socket_option.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/detail/multishot_request.hpp>
#include <iowq/op/multishot/many.hpp>
#include <iowq/op/multishot/buffer_ring.hpp>
#include <iowq/op/multishot/recv_many.hpp>
#include <iowq/op/epoll.hpp>
#include <iowq/op/linked.hpp>
#include <iowq/op/zero_copy.hpp>
#include <iowq/op/registered/fixed_buffers.hpp>
#include <iowq/op/registered/fixed_file.hpp>
#include <iowq/op/registered/accept_into.hpp>
#include <iowq/op/registered/in_slot.hpp>
#include <iowq/op/signal.hpp>
#include <iowq/op/resolve.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/futex.hpp>
#include <iowq/op/waitid.hpp>
#include <iowq/op/process.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/raw.hpp>

// flow: several at once
#include <iowq/flow/detail/range_traits.hpp>
#include <iowq/flow/detail/concurrent.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/flow/when_any.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/flow/task_group.hpp>
#include <iowq/flow/for_each.hpp>
#include <iowq/flow/transform.hpp>

// sync: coroutines wait for each other
#include <iowq/sync/detail/waiter.hpp>
#include <iowq/sync/event.hpp>
#include <iowq/sync/mutex.hpp>
#include <iowq/sync/semaphore.hpp>
#include <iowq/sync/latch.hpp>
#include <iowq/sync/detail/channel_wait.hpp>
#include <iowq/sync/channel.hpp>
