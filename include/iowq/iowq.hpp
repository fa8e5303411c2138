// SPDX-License-Identifier: BSL-1.0
// iowq/iowq.hpp -- all of it, in reading order.
#pragma once

// clang-format off
// base: std and POSIX only
#include <iowq/version.hpp>
#include <iowq/base/config.hpp>
#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/stop_node.hpp>
#include <iowq/base/stop_list.hpp>
#include <iowq/base/stop.hpp>
#include <iowq/base/fd.hpp>

// coro: lazy tasks, flat stacks
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/frames.hpp>
#include <iowq/coro/trampoline.hpp>
#include <iowq/coro/continuation.hpp>
#include <iowq/coro/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>

// queue: intrusive, nothing allocated
#include <iowq/queue/fifo.hpp>
#include <iowq/queue/list.hpp>
#include <iowq/queue/inbox.hpp>
#include <iowq/queue/timers.hpp>
#include <iowq/queue/spin.hpp>

// ring: SQEs in, CQEs out; knows no coroutine
#include <iowq/ring/kernel.hpp>
#include <iowq/ring/compat.hpp>
#include <iowq/ring/features.hpp>
#include <iowq/ring/completion.hpp>
#include <iowq/ring/guest.hpp>
#include <iowq/ring/ring.hpp>
#include <iowq/ring/buffers.hpp>
#include <iowq/ring/files.hpp>

// pool: io-wq; knows neither ring nor coroutine
#include <iowq/pool/topology.hpp>
#include <iowq/pool/limits.hpp>
#include <iowq/pool/drift.hpp>
#include <iowq/pool/options.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/pool/chain.hpp>
#include <iowq/pool/generation.hpp>
#include <iowq/pool/account.hpp>
#include <iowq/pool/worker.hpp>
#include <iowq/pool/dispatch.hpp>
#include <iowq/pool/guarded.hpp>
#include <iowq/pool/roster.hpp>
#include <iowq/pool/state.hpp>
#include <iowq/pool/this_worker.hpp>
#include <iowq/pool/runner.hpp>
#include <iowq/pool/watch.hpp>
#include <iowq/pool/manager.hpp>
#include <iowq/pool/cancel.hpp>
#include <iowq/pool/stats.hpp>
#include <iowq/pool/quiesce.hpp>
#include <iowq/pool/pool.hpp>

// exec: the joint
#include <iowq/exec/item.hpp>
#include <iowq/exec/lazy.hpp>
#include <iowq/exec/row.hpp>
#include <iowq/exec/ledger.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/census.hpp>
#include <iowq/exec/young.hpp>
#include <iowq/exec/misses.hpp>
#include <iowq/exec/backend_ring.hpp>
#include <iowq/exec/backend_poll.hpp>
#include <iowq/exec/choose.hpp>
#include <iowq/exec/devices.hpp>
#include <iowq/exec/lazy_pool.hpp>
#include <iowq/exec/mailbox.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/punted.hpp>
#include <iowq/exec/stop_hook.hpp>
#include <iowq/exec/route.hpp>
#include <iowq/exec/evict.hpp>
#include <iowq/exec/without_ring.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/exec/force.hpp>
#include <iowq/exec/report.hpp>
#include <iowq/exec/detached.hpp>
#include <iowq/exec/thread_change.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/run.hpp>
#include <iowq/exec/runtime.hpp>
#include <iowq/exec/punt.hpp>

// op: every operation once
#include <iowq/op/bytes.hpp>
#include <iowq/op/blocking.hpp>
#include <iowq/op/known.hpp>
#include <iowq/op/probe.hpp>
#include <iowq/op/text.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/descriptor.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/vector.hpp>
#include <iowq/op/space.hpp>
#include <iowq/op/cache.hpp>
#include <iowq/op/transfer.hpp>
#include <iowq/op/path.hpp>
#include <iowq/op/link.hpp>
#include <iowq/op/attribute.hpp>
#include <iowq/op/change.hpp>
#include <iowq/op/xattr.hpp>
#include <iowq/op/lock.hpp>
#include <iowq/op/directory.hpp>
#include <iowq/op/ahead.hpp>
#include <iowq/op/walk.hpp>
#include <iowq/op/endpoint.hpp>
#include <iowq/op/connecting.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/socket_option.hpp>
#include <iowq/op/wait.hpp>
#include <iowq/op/shot.hpp>
#include <iowq/op/many.hpp>
#include <iowq/op/buffers.hpp>
#include <iowq/op/recv_many.hpp>
#include <iowq/op/epoll.hpp>
#include <iowq/op/linked.hpp>
#include <iowq/op/zero_copy.hpp>
#include <iowq/op/fixed.hpp>
#include <iowq/op/fixed_file.hpp>
#include <iowq/op/accept_into.hpp>
#include <iowq/op/in_slot.hpp>
#include <iowq/op/signal.hpp>
#include <iowq/op/resolve.hpp>
#include <iowq/op/connect.hpp>
#include <iowq/op/futex.hpp>
#include <iowq/op/waitid.hpp>
#include <iowq/op/process.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/raw.hpp>

// flow: several at once
#include <iowq/flow/walkable.hpp>
#include <iowq/flow/together.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/flow/when_any.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/flow/task_group.hpp>
#include <iowq/flow/for_each.hpp>
#include <iowq/flow/transform.hpp>

// sync: waiting for one another
#include <iowq/sync/waiter.hpp>
#include <iowq/sync/event.hpp>
#include <iowq/sync/mutex.hpp>
#include <iowq/sync/semaphore.hpp>
#include <iowq/sync/latch.hpp>
#include <iowq/sync/channel_wait.hpp>
#include <iowq/sync/channel.hpp>
