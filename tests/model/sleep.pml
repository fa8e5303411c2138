/* SPDX-License-Identifier: BSL-1.0 */
/*
 * tests/model/sleep.pml -- how workers sleep, wake and leave, and why no item waits forever.
 *
 * The protocol of pool/detail/state.hpp, account.hpp, worker_thread.hpp and manager.hpp for one
 * class of work on one node. Two producers enqueue. At most MAX workers run, idle, spin and time
 * out. One manager creates, samples and joins workers, and parks. Each step names the function
 * that it models.
 *
 * Steps. M is a mutex, so a critical section is an `atomic` here and ends with check(). That hides
 * no schedule that matters: a section touches only one kind of data that is also touched without
 * M, the words of idle workers, and each of those accesses is one read-modify-write. The actions of
 * the code after it has released M (wakes, completions, forks, looks at other threads) are separate
 * steps.
 *
 * Chance. Some decisions of the code depend on a measurement: whether items are quick, whether one
 * requires a worker of its own, whether a worker dozes, whether a spin pays, which idle worker is
 * the newest. The model may take either branch, so its claims hold for every measurement. While
 * `disturbed`, a futex may return for no reason and idle time-outs may pass. The model may clear
 * `disturbed` at any time, also at once; then no accident helps a lost wake-up. The manager's ticks
 * continue, because the code guarantees them.
 *
 * Claims. check() tests A1 and A2 (account.hpp), D2 and D3 (state.hpp) after every section. Every
 * item ends exactly once. At rest no item is left (judge). Under weak fairness every item ends
 * (`ended`), although the first one blocks until the last one has ended: a pool of two workers
 * never leaves the second one asleep beside it.
 *
 * A macro in #if breaks one rule. check.py demands that each such error is found.
 */

#ifndef MAX
#define MAX 2 /* max_workers of the account */
#endif
#define RECORDS 3 /* workers that exist: live ones, one being created, one not yet joined */
#ifndef ITEMS
#define ITEMS 3
#endif
#ifndef FAILURES
#define FAILURES 1 /* threads that cannot be had */
#endif
#ifndef EXIT_ON_IDLE
#define EXIT_ON_IDLE false
#endif

#define NOBODY 255
#define bit(w) (1 << (w))
#define gone(w) (state_of[w] == retired && !exists[w])
#define usable(w) (state_of[w] == free || gone(w))

mtype:state = { free, creating, idle, running, sleeping, retired } /* worker_state */
mtype:word = { unborn, awake, idles, spins }                       /* worker::word */
mtype:manager = { busy, parked, ticking }                          /* pool_state::manager_word */

/* Under M: account_counts, and the items in the ready list, oldest first. */
byte runnable, live, nr_idle, nr_running, waking, nr_sleeping, promised;
chan ready = [ITEMS] of { byte };
mtype:state state_of[RECORDS] = free;
byte cur[RECORDS] = NOBODY;
bool spinning; /* pool_state::spinning; at most one idle worker spins */

/* Written under M, read without. */
mtype:word word[RECORDS] = unborn;
mtype:manager manager_word = busy;

/* In the kernel: threads that wait on a futex, that exist, and that block in their item. */
bool on_futex[RECORDS], manager_on_futex;
bool exists[RECORDS], blocked[RECORDS];
byte failures = FAILURES;

/* Whether the manager sees a worker::progress_counter that differs from progress_seen. */
bool moved[RECORDS];

bool disturbed = true;

/* For the claims. */
bool enqueued[ITEMS], finished[ITEMS];
byte nr_finished;

#define unserved (runnable > waking)                                    /* account_counts */
#if defined(WATCH_ONLY_WITHOUT_IDLE)
#define needs_watch (unserved && nr_idle == 0 && live + promised < MAX)
#else
#define needs_watch (unserved && (nr_idle > 0 || live + promised < MAX)) /* dispatch.hpp */
#endif
#define really_needs_watch (unserved && (nr_idle > 0 || live + promised < MAX))

byte chosen; /* within one section; 0 after it */
hidden byte each, idles_seen, running_seen, sleeping_seen;

/* The end of a critical section: account_counts::check(), and more. */
inline check() {
  d_step {
    each = 0; idles_seen = 0; running_seen = 0; sleeping_seen = 0;
    do
    :: each < RECORDS ->
      if
      :: state_of[each] == idle -> idles_seen++
      :: state_of[each] == running -> running_seen++
      :: state_of[each] == sleeping -> sleeping_seen++
      :: else
      fi;
      /* D3: a worker that is off the stack has been told so, and sleeps on nothing else. */
#if !defined(LOOK_THEN_STORE)
      assert(state_of[each] == idle || word[each] == awake || word[each] == unborn);
#endif
      assert(state_of[each] != idle || word[each] == idles || word[each] == spins);
      each++
    :: else -> break
    od;
    chosen = 0;
    assert(nr_idle == idles_seen && nr_running == running_seen && nr_sleeping == sleeping_seen);
    assert(nr_idle + nr_running + nr_sleeping == live); /* A1 */
    assert(live + promised <= MAX);                     /* A2 */
    assert(waking <= nr_running);
    assert(runnable == len(ready));
    /* D2: no worker is on its way to it, but one could be; so the manager watches. */
    assert(!really_needs_watch || promised > 0 || manager_word != parked);
  }
}

/* pool_state::call_manager() */
inline call_manager(at_once) {
  if
  :: manager_word == parked || (at_once && manager_word == ticking) ->
    manager_word = busy;
    unpark = true
  :: else
  fi
}

/* pool_state::activate(): off the stack, by an exchange of the word. A worker that went to sleep
 * needs a futex_wake; a spinning one does not. */
inline activate(w) {
  state_of[w] = running; nr_idle--; nr_running++; waking++;
#if defined(WAKE_NOBODY)
  skip;
#else
  if
  :: word[w] != spins -> wakes = wakes | bit(w)
  :: else
  fi;
#endif
#if defined(LOOK_THEN_STORE)
  if /* not an exchange: a adaptive_spinner may fall asleep between the two, and needs no M for it */
  :: word[w] == spins -> stores = stores | bit(w)
  :: else -> word[w] = awake
  fi
#else
  word[w] = awake
#endif
}

/* pool_state::ensure_worker(), with dispatch.hpp's next_step(). */
inline ensure_worker() {
  do
  :: !unserved -> break
  :: unserved && nr_idle > 0 ->
    if
    :: skip -> /* step::wake */
      if
      :: state_of[0] == idle -> chosen = 0
      :: state_of[1] == idle -> chosen = 1
      :: state_of[2] == idle -> chosen = 2
      fi;
      activate(chosen)
    :: nr_running > 0 -> /* step::watch: items are quick, and a processor's worth of workers run */
#if !defined(WATCH_UNCALLED)
      call_manager(false);
#endif
      break
    fi
  :: unserved && nr_idle == 0 && live + promised >= MAX -> break /* step::none */
  :: unserved && nr_idle == 0 && live + promised < MAX ->
    if
    :: nr_running + promised == 0 || promised + waking < runnable -> /* step::create */
      promised++; /* account::reserve() */
      call_manager(true)
    :: nr_running + promised > 0 -> /* step::watch */
      call_manager(false);
      break
    fi
  od
}

/* pool_state::run_deferred(), after M. A record may have another thread by now, woken for nothing. */
inline run_deferred() {
#if defined(LOOK_THEN_STORE)
  atomic {
    if :: stores & bit(0) -> word[0] = awake :: else fi;
    if :: stores & bit(1) -> word[1] = awake :: else fi;
    if :: stores & bit(2) -> word[2] = awake :: else fi;
    stores = 0
  };
#endif
  if
  :: wakes & bit(0) -> on_futex[0] = false
  :: else
  fi;
  if
  :: wakes & bit(1) -> on_futex[1] = false
  :: else
  fi;
  if
  :: wakes & bit(2) -> on_futex[2] = false
  :: else
  fi;
  wakes = 0;
  if
#if defined(UNPARK_NOBODY)
  :: unpark
#else
  :: unpark -> manager_on_futex = false
#endif
  :: else
  fi;
  unpark = false
}

/* work::finished() */
inline finish(i) {
  assert(enqueued[i] && !finished[i]);
  finished[i] = true;
  nr_finished++
}

/* basic_pool::enqueue() */
inline enqueue(i) {
#if defined(DECIDE_BEFORE_INSERT)
  /* An old error of the kernel (bugs 12 and 13): decides before the item is there. */
  atomic { runnable++; ensure_worker(); runnable-- };
  atomic { enqueued[i] = true; ready ! i; runnable++ };
#else
  atomic { /* pool_state::insert(), ensure_worker(): D1 */
    enqueued[i] = true;
    ready ! i;
    runnable++;
    ensure_worker();
    check()
  };
#endif
  run_deferred()
}

active proctype first_producer() {
  byte wakes, stores; bool unpark;
  enqueue(0);
#if ITEMS > 2
  enqueue(1)
#endif
}
active proctype second_producer() {
  byte wakes, stores; bool unpark;
  enqueue(ITEMS - 1)
}

/* pool_state::go_idle() */
inline go_idle() {
  state_of[w] = idle; nr_running--; nr_idle++;
  if
  :: !spinning -> spinning = true; spins_itself = true; word[w] = spins
  :: word[w] = idles /* may_spin() said no */
  fi
}

/* pool_state::take(), or else the stack. */
inline take_or_go_idle() {
  if
  :: runnable > 0 ->
    ready ? cur[w];
    runnable--
  :: else ->
#if defined(IDLE_IN_A_SECOND_SECTION)
    goto idles_late;
#endif
    go_idle()
  fi;
  check()
}

/* pool_state::leave() */
inline leave() {
  word[w] = awake; state_of[w] = retired; live--; nr_running--;
  ensure_worker();
  call_manager(true);
  check()
}

/* pool_state::mark_sleeping(), mark_running() */
inline mark_sleeping(w) { state_of[w] = sleeping; nr_running--; nr_sleeping++ }
inline mark_running(w) { state_of[w] = running; nr_sleeping--; nr_running++ }

/* worker_thread, on the thread of record w; and once more each time that the record is used again. */
proctype worker(byte w) {
  byte wakes, stores, ended = NOBODY;
  bool unpark, timed_out, patient, spins_itself;
born:
  exists[w]; /* policy::thread_start() */

  /* worker_thread::run(): the start latch. It is counted before it moves. */
  do
  :: word[w] == unborn ->
    atomic { on_futex[w] = (word[w] == unborn) };
    if
    :: !on_futex[w]
    :: disturbed -> on_futex[w] = false
    fi
  :: else -> break
  od;
#if defined(COUNT_YOURSELF)
  atomic { state_of[w] = running; live++; nr_running++; waking++; check() };
#endif
  atomic {
    waking--; /* pool_state::worker_started_looking() */
    take_or_go_idle()
  };

unlocked:
  /* After M, and after go_idle(): an enqueue from finished() finds this worker free. */
  atomic {
    if
    :: ended != NOBODY -> finish(ended); ended = NOBODY
    :: else
    fi;
    if
    :: cur[w] == NOBODY -> goto waits
    :: else -> moved[w] = true /* worker_thread::execute(), worker::enter() */
    fi
  };
  if
  :: cur[w] == 0 -> /* an item may wait for another one */
    blocked[w] = true;
    atomic { finished[ITEMS - 1]; blocked[w] = false }
  :: else
  fi;
  atomic {
    moved[w] = true;
    if
    :: state_of[w] == sleeping -> mark_running(w)
    :: else
    fi;
    ended = cur[w]; /* pool_state::end() */
    cur[w] = NOBODY;
    take_or_go_idle()
  };
  goto unlocked;

#if defined(IDLE_IN_A_SECOND_SECTION)
idles_late: /* M was free, and the worker does not look again */
  atomic { go_idle(); check() };
  goto unlocked;
#endif

waits: /* worker_thread::wait_for_work(), and first worker_thread::spin() */
  if
#if defined(ASK_THE_WORD)
  :: word[w] == spins -> /* if it was activated already, the adaptive_spinner's place stays taken */
#else
  :: spins_itself ->
#endif
    atomic { /* to sleep, at some moment: a compare and swap */
#if defined(SLEEP_BY_A_STORE)
      word[w] = idles;
#else
      if
      :: word[w] == spins -> word[w] = idles
      :: else
      fi;
#endif
      spinning = false;
      spins_itself = false
    }
  :: else
  fi;
  patient = true;
sleeps:
  do
  :: word[w] == idles ->
    atomic { on_futex[w] = (word[w] == idles) };
    if
    :: !on_futex[w]
    :: disturbed -> on_futex[w] = false
    :: disturbed && patient -> on_futex[w] = false; timed_out = true; break
    fi
  :: else -> break
  od;
  atomic {
    if
#if defined(TIMEOUT_WINS)
    :: state_of[w] != idle && timed_out -> waking--; timed_out = false; leave(); goto leaves
    :: state_of[w] != idle && !timed_out ->
#else
    :: state_of[w] != idle -> /* D3 */
#endif
      waking--; /* pool_state::worker_started_looking() */
      timed_out = false; patient = false;
      take_or_go_idle();
      goto unlocked
    :: state_of[w] == idle && timed_out && (live > 1 || EXIT_ON_IDLE) -> /* may_time_out() */
      timed_out = false; patient = false;
      nr_idle--; nr_running++; /* activate() and worker_started_looking(), of itself */
      leave();
      goto leaves
    :: state_of[w] == idle && timed_out && !(live > 1 || EXIT_ON_IDLE) ->
      timed_out = false; patient = false /* the last of its class: deadline = never */
    fi
  };
  goto sleeps;

leaves:
  run_deferred();
  exists[w] = false; /* the thread ends; manager::reap() joins it then */
  goto born
}

/* worker_sampler::sample(): finds the running workers without progress since the last look, */
inline look_at_stamp(w) {
  if
  :: state_of[w] == running && cur[w] != NOBODY ->
    if
    :: !moved[w] -> still = still | bit(w)
    :: else
    fi;
    moved[w] = false
  :: else
  fi
}
/* ... of those: which are asleep? /proc knows. Without M; all at one moment, since only one
 * item here ever blocks. */
inline look_at_thread(w, is_asleep) {
  if
  :: (still & bit(w)) && blocked[w] != is_asleep -> still = still & ~bit(w)
  :: else
  fi
}
/* ... and marks those that still have none, under M again. */
inline apply_sample(w) {
  if
#if !defined(LOOK_AND_FORGET)
  :: (still & bit(w)) && state_of[w] == running && !moved[w] -> mark_sleeping(w); acted = true
#endif
  :: else
  fi
}
/* watch::some_sleeper_runs(): the second look, before a thread is made. */
inline ask_sleeper(w) {
  if
  :: state_of[w] == sleeping -> still = still | bit(w)
  :: else
  fi
}
inline apply_second_look(w) {
  if
  :: (still & bit(w)) && state_of[w] == sleeping -> mark_running(w); acted = true
  :: else
  fi
}

#define creation_is_stale (nr_idle > 0 || (!unserved && live > 0)) /* dispatch.hpp */

/* manager::run(). `top` is where it has M, whatever it did before. */
active proctype manager() {
  byte wakes, stores, still, it = NOBODY, failed;
  bool unpark, watched, acted;
  promised = 1; /* basic_pool's constructor */
  atomic { run worker(0); run worker(1); run worker(2) }; /* threads; they exist later */

top:
  atomic {
    manager_word = busy;
    if
    :: gone(0) -> it = 0
    :: !gone(0) && gone(1) -> it = 1
    :: !gone(0) && !gone(1) && gone(2) -> it = 2
    :: else /* none, or its thread has not ended: the manager looks again later */
    fi;
    if
    :: it != NOBODY -> goto reaps
    :: else
    fi;
    if
    :: promised > 0 -> goto creates
    :: promised == 0 && needs_watch -> watched = true; goto samples
    :: promised == 0 && !needs_watch && watched -> /* one more tick: it costs less than a wake */
      watched = false;
      manager_word = ticking
    :: promised == 0 && !needs_watch && !watched ->
#if defined(PARK_IN_A_SECOND_SECTION)
      goto parks;
#endif
      manager_word = parked
    fi;
    check()
  };
  goto waits;

#if defined(PARK_IN_A_SECOND_SECTION)
parks: skip; /* M was free */
  atomic { manager_word = parked; check() };
  goto waits;
#endif

reaps: /* manager::reap(), without M: pthread_tryjoin_np() */
  atomic { state_of[it] = free; word[it] = unborn; it = NOBODY };
  goto top;

creates: /* manager::create(), still under M */
  atomic {
    if
    :: creation_is_stale -> promised--; check(); goto top
    :: else
    fi;
    ask_sleeper(0); ask_sleeper(1); ask_sleeper(2);
    if
    :: still == 0 -> goto starts
    :: still != 0 -> still = 0; goto starts /* an item that wants a worker of its own waits */
    :: still != 0
    fi
  };
  atomic { look_at_thread(0, false); look_at_thread(1, false); look_at_thread(2, false) };
  atomic {
    apply_second_look(0); apply_second_look(1); apply_second_look(2);
    still = 0;
    if
    :: acted -> acted = false; promised--; check(); goto top
    :: else
    fi
  };
starts:
  atomic { /* prepare() */
    if
    :: usable(0) -> it = 0
    :: !usable(0) && usable(1) -> it = 1
    :: !usable(0) && !usable(1) && usable(2) -> it = 2
    fi; /* waits for a record; the code makes another one */
    state_of[it] = creating; word[it] = unborn;
    check()
  };
  if
  :: exists[it] = true /* policy::thread_start() */
  :: failures > 0 -> failures--; goto fails
  fi;
  atomic {
#if !defined(COUNT_YOURSELF)
    state_of[it] = running; live++; nr_running++; waking++; /* account::add() */
#endif
    promised--;
    word[it] = awake;
    on_futex[it] = false; /* the latch is opened under M */
    it = NOBODY;
    check()
  };
  goto top;

fails:
  atomic {
    if
    :: manager_word = ticking; goto backs_off /* EAGAIN: tries again later */
    :: skip
    fi;
    state_of[it] = free; it = NOBODY;
    promised--; /* manager::give_up() */
    if
    :: live + promised == 0 -> /* fail_queued() */
#if defined(FAIL_IN_PLACE)
      /* The kernel's bug 19: the failed item is still in the queue. */
      if :: runnable > 0 -> ready ? <it>; failed = bit(it); it = NOBODY :: else fi
#else
      do
      :: runnable > 0 -> ready ? it; failed = failed | bit(it); it = NOBODY; runnable--
      :: else -> break
      od
#endif
    :: else
    fi;
    check()
  };
  do /* after M */
  :: failed != 0 ->
    atomic {
      it = (failed & bit(0) -> 0 : (failed & bit(1) -> 1 : 2));
      failed = failed & ~bit(it);
      finish(it);
      it = NOBODY
    }
  :: else -> break
  od;
  goto top;

backs_off:
  skip; /* its tick passes, or it is called */
  atomic {
    manager_word = busy;
    if
    :: creation_is_stale -> promised--; state_of[it] = free; it = NOBODY; check(); goto top
    :: else
    fi;
    state_of[it] = free; it = NOBODY;
    goto starts
  };

samples: /* watch::sample(), still under M */
  atomic { look_at_stamp(0); look_at_stamp(1); look_at_stamp(2) };
  atomic { look_at_thread(0, true); look_at_thread(1, true); look_at_thread(2, true) };
  atomic {
    apply_sample(0); apply_sample(1); apply_sample(2);
    still = waking + promised;
    ensure_worker();
    /* run_deferred(), under M; it is not parked. */
    if :: wakes & bit(0) -> on_futex[0] = false :: else fi;
    if :: wakes & bit(1) -> on_futex[1] = false :: else fi;
    if :: wakes & bit(2) -> on_futex[2] = false :: else fi;
    wakes = 0; unpark = false;
    if
    :: acted || still != waking + promised -> acted = false; still = 0; check(); goto top
    :: else
    fi;
    still = 0;
    manager_word = ticking;
    check()
  };

waits: /* manager::wait() */
  do
  :: manager_word != busy ->
    atomic { manager_on_futex = (manager_word != busy) };
    if
    :: !manager_on_futex
    :: disturbed -> manager_on_futex = false
    :: manager_word == ticking -> manager_on_futex = false; break /* the tick passed */
    :: state_of[0] == retired || state_of[1] == retired || state_of[2] == retired ->
      manager_on_futex = false; break /* time to try again to join it */
    fi
  :: else -> break
  od;
  goto top
}

active proctype world() { disturbed = false }

/* When no process can take a step: */
active proctype judge() {
  timeout;
  assert(nr_finished == ITEMS);
  assert(waking == 0 && nr_running == 0 && nr_sleeping == 0 && promised == 0 && !spinning);
  assert(nr_idle == live && live <= MAX && manager_word == parked);
  assert(live >= 1 || EXIT_ON_IDLE || failures < FAILURES)
}

ltl ended { <> (nr_finished == ITEMS) }
