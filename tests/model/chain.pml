/* SPDX-License-Identifier: BSL-1.0 */
/*
 * tests/model/chain.pml -- how a key is handed from item to item while others cancel them.
 *
 * The protocol of pool/detail/key_table.hpp (key_head, ring of waiters, next_head), of the item's
 * moves in pool/detail/state.hpp (insert, take, end, dequeue_item) and of
 * pool/detail/cancellation.hpp (dequeue, hold, release, and end_cancellation() in
 * worker_thread.hpp). There are two producers, two workers, two keys and an item without one, and
 * two threads that each cancel any item at any time. Each step names the function that it models.
 * The ring has the same links as that of the code.
 *
 * As in sleep.pml, a step is a critical section under M, or an action after it. sleep.pml models
 * how workers sleep; here an activated worker comes, and no other worker does. A worker may
 * continue with its key or put the next_head at the end of the queue: the code decides that by
 * max_batch and max_batch_time.
 *
 * Claims. C1 and C2 (key_table.hpp) and W2 (work.hpp) hold after every section. Items of one key
 * start in the order in which they were enqueued, one at a time. A request to cancel reports
 * `dequeued` for an item that never runs, `running` for one that runs, and `not_found` only for one
 * that is finished. A stop request reaches the item for which it was made, and no other. Every item
 * ends exactly once, and under weak fairness every item ends (`ended`).
 *
 * With CLASSES the workers and the items of one key are of both classes. With ALL the last
 * canceller cancels every item that match() selects (cancellation::add_all()).
 *
 * A macro in #if breaks one rule. check.py demands that each such error is found.
 */

#define ITEMS 5
#define WORKERS 2
#ifndef ENQUEUED
#define ENQUEUED 6 /* 6: item 0 comes twice */
#endif
#ifndef CANCELLERS
#define CANCELLERS 2
#endif

#define NONE 255
#define UNKEYED 2
#define key_of(i) (i < 3 -> 0 : (i == 3 -> 1 : UNKEYED))
#if defined(CLASSES)
#define kind_of(i) (i & 1)
#define kind_of_worker(w) (w)
#else
#define kind_of(i) 0
#define kind_of_worker(w) 0
#endif

mtype:state = { fresh, queued_ready, queued_chained, running, done } /* item_state */
mtype:outcome = { not_found, dequeued, was_running }                 /* cancel_outcome */

/* Under M: the members of an item, ... */
mtype:state state_of[ITEMS] = fresh;
byte next[ITEMS] = NONE, prev[ITEMS] = NONE; /* in a ring */
byte waiters[ITEMS] = NONE;                /* a key_head's: the newest that waits behind it */
byte worker_thread[ITEMS] = NONE;
/* ... the table of keys, whose buckets are of no interest here, ... */
byte key_head[2] = NONE;
/* ... the ready list, oldest first, and the counts, of each class, ... */
chan ready[2] = [ITEMS] of { byte };
byte nr_idle[2], waking[2];
/* ... and the members of a worker. */
byte cur[WORKERS] = NONE;
bool idle[WORKERS], cancel_requested[WORKERS], held[WORKERS];

bool activated[WORKERS];
bool waits_for_canceller[WORKERS], on_futex[WORKERS]; /* worker::word */
bool stopped[WORKERS];                             /* worker::stop */

/* For the claims. */
bool pending[ITEMS], executed[ITEMS], over[ITEMS]; /* enqueued; begun; ended or withdrawn */
chan line[2] = [ITEMS] of { byte }; /* the queued items of a key, in order of arrival */
byte nr_finished;

#define is_queued(i) (state_of[i] == queued_ready || state_of[i] == queued_chained)

byte i_, j_, n_, next_head; /* within one section; 0 after it */

/* The end of a critical section. */
inline check() {
  d_step {
    i_ = 0; n_ = 0;
    do
    :: i_ < ITEMS ->
      if
      :: state_of[i_] == queued_ready ->
        n_++;
        assert(ready[kind_of(i_)] ?? [eval(i_)]);                   /* W2 */
        assert(key_of(i_) == UNKEYED || key_head[key_of(i_)] == i_);  /* C1 */
      :: state_of[i_] == running ->
        assert(key_of(i_) == UNKEYED || key_head[key_of(i_)] == i_);  /* C1 */
        assert(cur[worker_thread[i_]] == i_)
      :: state_of[i_] == queued_chained ->
        j_ = key_head[key_of(i_)];
        assert(j_ != NONE && j_ != i_ && waiters[j_] != NONE);
        assert(prev[next[i_]] == i_ && next[prev[i_]] == i_);
        assert(key_of(i_) == key_of(j_))
      :: else
      fi;
      i_++
    :: else -> break
    od;
    assert(len(ready[0]) + len(ready[1]) == n_); /* W2 */
    /* D2, as far as this model shows it: a worker that could take it is awake. */
    assert(nr_idle[0] == 0 || len(ready[0]) <= waking[0]);
    assert(nr_idle[1] == 0 || len(ready[1]) <= waking[1]);
    i_ = 0; j_ = 0; n_ = 0; next_head = 0
  }
}

/* pool_state::ensure_worker(), as far as it wakes. */
inline ensure_worker(kind) {
  do
  :: len(ready[kind]) > waking[kind] && nr_idle[kind] > 0 ->
    if
    :: idle[0] && kind_of_worker(0) == kind -> i_ = 0
    :: idle[1] && kind_of_worker(1) == kind -> i_ = 1
    fi;
    idle[i_] = false; nr_idle[kind]--; waking[kind]++;
    activated[i_] = true
  :: else -> break
  od
}

/* account::make_ready() */
inline make_ready(i) {
  state_of[i] = queued_ready;
  ready[kind_of(i)] ! i
}

/* key_table::unlink() */
inline unlink(ahead, waiting) {
  if
  :: next[waiting] == waiting -> waiters[ahead] = NONE
  :: else ->
    prev[next[waiting]] = prev[waiting];
    next[prev[waiting]] = next[waiting];
    if
#if defined(FORGET_THE_TAIL)
    :: false /* the kernel's 204361a77f40: the list's end still names it */
#else
    :: waiters[ahead] == waiting -> waiters[ahead] = prev[waiting]
#endif
    :: else
    fi
  fi;
  next[waiting] = NONE; prev[waiting] = NONE
}

/* key_table::release(): `next_head` is the next key_head, in no list yet, or NONE. */
inline release(i) {
  assert(key_head[key_of(i)] == i); /* C1 */
  if
  :: waiters[i] == NONE -> next_head = NONE; key_head[key_of(i)] = NONE
  :: else ->
#if defined(NEWEST_FIRST)
    next_head = waiters[i];
#else
    next_head = next[waiters[i]]; /* C2 */
#endif
    unlink(i, next_head);
    waiters[next_head] = waiters[i];
#if defined(FREE_THE_KEY)
    key_head[key_of(i)] = NONE; /* while it still has work */
#else
    key_head[key_of(i)] = next_head;
#endif
    waiters[i] = NONE
#if defined(LOSE_THE_HEIR)
    ; next_head = NONE
#endif
  fi
}

/* pool_state::begin(), and its preconditions. */
inline begin(w, i) {
  d_step {
    if
    :: key_of(i) != UNKEYED ->
      line[key_of(i)] ? i_;
      assert(i_ == i); /* in the order in which they came */
      i_ = 0
    :: else
    fi;
    assert(cur[1 - w] == NONE || key_of(cur[1 - w]) != key_of(i) || key_of(i) == UNKEYED);
    assert(!executed[i] && pending[i]);
    assert(!stopped[w] && !cancel_requested[w] && !held[w]); /* left from the last item */
    state_of[i] = running;
    worker_thread[i] = w;
    cur[w] = i
  }
}

/* work::finished() */
inline finish(i) {
  assert(pending[i]);
  pending[i] = false; executed[i] = false; over[i] = false;
  nr_finished++
}

/* basic_pool::enqueue(), pool_state::insert(), key_table::enter() */
inline enqueue(i) {
  atomic {
    assert(!pending[i]);
    pending[i] = true;
    if
    :: key_of(i) != UNKEYED -> line[key_of(i)] ! i
    :: else
    fi;
    waiters[i] = NONE;
    if
    :: key_of(i) != UNKEYED && key_head[key_of(i)] != NONE ->
      j_ = key_head[key_of(i)];
      state_of[i] = queued_chained;
      if
      :: waiters[j_] == NONE -> next[i] = i; prev[i] = i
      :: else -> next[i] = next[waiters[j_]]; prev[i] = waiters[j_]
      fi;
      prev[next[i]] = i; next[prev[i]] = i;
      waiters[j_] = i
    :: else ->
      if
      :: key_of(i) != UNKEYED -> key_head[key_of(i)] = i
      :: else
      fi;
      make_ready(i);
      ensure_worker(kind_of(i))
    fi;
    check()
  }
}

proctype first_producer() {
  enqueue(0);
  enqueue(2);
#if ENQUEUED > ITEMS
  !pending[0];
  enqueue(0) /* an item may come again as soon as it is finished */
#endif
}
proctype second_producer() {
  enqueue(1);
  enqueue(3);
  enqueue(4)
}

/* pool_state::take(), or pool_state::go_idle(). */
inline take_or_go_idle() {
  if
  :: len(ready[kind_of_worker(w)]) > 0 ->
    ready[kind_of_worker(w)] ? it;
#if defined(TAKE_IN_TWO_SECTIONS)
    state_of[it] = done; /* the kernel's bug 23: for a moment it is nowhere */
    goto takes;
#endif
    begin(w, it)
  :: else ->
    idle[w] = true; nr_idle[kind_of_worker(w)]++
  fi;
  it = NONE
}

proctype worker(byte w) {
  byte ended = NONE, it = NONE;
waits:
  atomic {
    activated[w];
    activated[w] = false;
    waking[kind_of_worker(w)]--; /* pool_state::worker_started_looking() */
    take_or_go_idle();
    check()
  };

unlocked:
  if
  :: ended != NONE -> atomic { finish(ended); ended = NONE }
  :: else
  fi;
  if
  :: cur[w] == NONE -> goto waits
  :: else
  fi;

  executed[cur[w]] = true; /* work::execute() */

ends:
  atomic {
    /* worker_thread::end_cancellation() */
#if !defined(HOLD_NOBODY)
    if
    :: cancel_requested[w] && held[w] -> waits_for_canceller[w] = true; goto lets_go
    :: else
    fi;
#endif
    waits_for_canceller[w] = false;
#if defined(KEEP_THE_TOKEN)
    cancel_requested[w] = false;
#else
    if
    :: cancel_requested[w] -> stopped[w] = false; cancel_requested[w] = false
    :: else
    fi;
#endif

    /* pool_state::end() */
    ended = cur[w];
    cur[w] = NONE;
    state_of[ended] = done; over[ended] = true;
    worker_thread[ended] = NONE;
    next_head = NONE;
    if
    :: key_of(ended) != UNKEYED -> release(ended)
#if defined(UNKEYED_ENDS_A_KEY)
    :: key_of(ended) == UNKEYED -> key_head[0] = NONE /* the kernel's bug 28 */
#endif
    :: else
    fi;
    if
    :: next_head != NONE && kind_of(next_head) == kind_of_worker(w) -> /* release_key() */
      if
      :: begin(w, next_head); check(); goto unlocked
      :: make_ready(next_head) /* to the end of its queue; we look there next */
      fi
    :: next_head != NONE && kind_of(next_head) != kind_of_worker(w) ->
      make_ready(next_head);
#if defined(HEIR_UNSETTLED)
      skip
#else
      ensure_worker(kind_of(next_head))
#endif
    :: else
    fi;
    take_or_go_idle();
    check()
  };
  goto unlocked;

lets_go:
  atomic { on_futex[w] = waits_for_canceller[w] };
  !on_futex[w];
  goto ends

#if defined(TAKE_IN_TWO_SECTIONS)
takes:
  atomic { begin(w, it); it = NONE };
  goto unlocked
#endif
}

/* pool_state::dequeue_item() */
inline dequeue_item(i) {
  if
  :: key_of(i) != UNKEYED -> line[key_of(i)] ?? eval(i)
  :: else
  fi;
  if
  :: state_of[i] == queued_chained -> unlink(key_head[key_of(i)], i)
  :: state_of[i] == queued_ready ->
    next_head = NONE;
    if
#if !defined(LEADER_KEEPS_ITS_KEY)
    :: key_of(i) != UNKEYED -> release(i)
#endif
    :: else
    fi;
    if
    :: next_head != NONE && kind_of(next_head) == kind_of(i) -> /* account::make_ready_at() */
      d_step {
        n_ = len(ready[kind_of(i)]);
        do
        :: n_ > 0 ->
          ready[kind_of(i)] ? j_;
          if
          :: j_ == i -> ready[kind_of(i)] ! next_head
          :: else -> ready[kind_of(i)] ! j_
          fi;
          n_--
        :: else -> break
        od;
        state_of[next_head] = queued_ready
      }
    :: else -> /* unready() */
      ready[kind_of(i)] ?? eval(i);
      if
      :: next_head != NONE -> make_ready(next_head); ensure_worker(kind_of(next_head))
      :: else
      fi
    fi
  fi;
  state_of[i] = done; over[i] = true /* drop_queued() */
}

/* cancellation::release(): the wake is made under M. */
inline release_worker(w) {
  atomic {
    held[w] = false;
    if
    :: waits_for_canceller[w] -> waits_for_canceller[w] = false; on_futex[w] = false
    :: else
    fi
  }
}

/* cancellation::add() and deliver(), for one item of one's choice. */
proctype canceller() {
  byte it, mine = NONE;
  mtype:outcome answer;
  select(it : 0 .. ITEMS - 1);
  atomic {
    if
    :: is_queued(it) -> dequeue_item(it); answer = dequeued
    :: state_of[it] == running ->
      answer = was_running;
      if
      :: !cancel_requested[worker_thread[it]] -> /* hold() */
        mine = worker_thread[it];
        cancel_requested[mine] = true; held[mine] = true
      :: else
      fi
    :: else -> answer = not_found
    fi;
    check();
    assert(answer != not_found || !pending[it] || over[it])
  };
  if
  :: answer == dequeued -> atomic { assert(!executed[it]); finish(it); answer = 0; it = 0 }
  :: answer == was_running && mine != NONE ->
    atomic { assert(cur[mine] == it && state_of[it] == running); stopped[mine] = true };
    release_worker(mine);
    mine = NONE; it = 0; answer = 0
  :: else -> it = 0; answer = 0
  fi
}

#if defined(ALL)
/* cancellation::add_all() and deliver(), for whatever match() says: one section, one pass. First
 * those behind others of their key, then the ready ones, then those that run. */
inline add_one(it, interleave) {
  if
  :: state_of[it] == interleave -> dequeue_item(it); taken = taken | (1 << it)
  :: skip
  fi
}
inline hold_one(w) {
  if
  :: cur[w] != NONE && !cancel_requested[w] -> cancel_requested[w] = true; held[w] = true; holds = holds | (1 << w)
  :: skip
  fi
}
inline finish_one(it) {
  if
  :: taken & (1 << it) -> atomic { assert(!executed[it]); finish(it); taken = taken & ~(1 << it) }
  :: else
  fi
}
inline stop_one(w) {
  if
  :: holds & (1 << w) ->
    atomic { assert(cur[w] != NONE); stopped[w] = true };
    release_worker(w)
  :: else
  fi
}
proctype canceller_of_all() {
  byte taken, holds;
  atomic {
    add_one(0, queued_chained); add_one(1, queued_chained); add_one(2, queued_chained);
    add_one(0, queued_ready); add_one(1, queued_ready); add_one(2, queued_ready);
    add_one(3, queued_ready); add_one(4, queued_ready);
    hold_one(0); hold_one(1);
    check()
  };
  finish_one(0); finish_one(1); finish_one(2); finish_one(3); finish_one(4);
  stop_one(0); stop_one(1);
  holds = 0
}
#endif

init {
  atomic {
    idle[0] = true; idle[1] = true;
    nr_idle[kind_of_worker(0)]++; nr_idle[kind_of_worker(1)]++;
    run first_producer(); run second_producer();
    run worker(0); run worker(1);
#if CANCELLERS > 1
    run canceller();
#endif
#if defined(ALL)
    run canceller_of_all()
#else
    run canceller()
#endif
  }
}

/* When no process can take a step: */
active proctype judge() {
  timeout;
  assert(nr_finished == ENQUEUED);
  assert(key_head[0] == NONE && key_head[1] == NONE && len(ready[0]) + len(ready[1]) == 0);
  assert(idle[0] && idle[1] && waking[0] + waking[1] == 0);
  assert(!held[0] && !held[1] && !cancel_requested[0] && !cancel_requested[1])
}

ltl ended { <> (nr_finished == ENQUEUED) }
