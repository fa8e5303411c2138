#!/bin/sh
# SPDX-License-Identifier: BSL-1.0
# benchmarks/run.sh BUILDDIR: every benchmark, as a table; then user-space instructions per
# operation, which do not depend on what else the machine does.
set -eu
build=${1:?usage: benchmarks/run.sh BUILDDIR}

for each in await many backends fairness pool_empty pool_calls pool_keys pool_growth pool_memory; do
  echo
  "$build/benchmarks/bench_$each"
done

command -v valgrind > /dev/null 2>&1 || {
  echo "valgrind is not installed: no instruction counts"
  exit 0
}
instructions() { # WAY N
  valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    "$build/benchmarks/bench_await" --count "$1" "$2" 2>&1 | sed -n 's/.*Collected : //p'
}
echo
echo "instructions per operation in user space (callgrind; the difference of two runs)"
for way in 'nop 1/liburing' 'nop 1/iowq' 'nop 64/liburing' 'nop 64/iowq' \
  'pread 1/liburing' 'pread 1/iowq' 'pread 64/liburing' 'pread 64/iowq' \
  'yield 1/iowq' 'task call/iowq'; do
  few=$(instructions "$way" 64000)
  many=$(instructions "$way" 128000)
  printf '%-20s %6d\n' "$way" "$(((many - few) / 64000))"
done
