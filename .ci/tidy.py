#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Runs clang-tidy 19 on all headers and on the examples, with the checks of .clang-tidy.

    tidy.py [--headers] [--jobs N] [FILE...]

All headers are checked as one translation unit, iowq.hpp. A header that it leaves out is a unit of its
own. --headers: not the examples. FILE: only these. Prints warnings; exits 1 if there is one.
"""

import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLANG_TIDY = 'clang-tidy-19'


def headers():
    """The umbrella and the headers that it does not include."""
    include = ROOT / 'include'
    umbrella = include / 'iowq' / 'iowq.hpp'
    text = ''.join(path.read_text() for path in include.rglob('*.hpp') if path != umbrella)
    included = set(re.findall(r'#include <(iowq/[^>]*)>', umbrella.read_text() + text))
    return [umbrella, *(path for path in sorted(include.rglob('*.hpp'))
                        if path != umbrella and path.relative_to(include).as_posix() not in included)]


def check(path):
    """(output, seconds) of clang-tidy on a file; no output: no warning."""
    began = time.monotonic()
    command = [CLANG_TIDY, '--quiet', '--warnings-as-errors=*', str(path), '--', '-x', 'c++',
               '-std=c++20', '-I', str(ROOT / 'include'), '-isystem', '/usr/include/range-v3',
               '-Wno-pragma-once-outside-header']
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT)
    output = run.stdout.strip()
    if run.returncode != 0 and not output:
        output = run.stderr.strip() or f'{CLANG_TIDY} exited with {run.returncode}'
    return output.replace(f'{ROOT}/', ''), time.monotonic() - began


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('files', nargs='*', type=lambda name: pathlib.Path(name).resolve())
    options.add_argument('--headers', action='store_true', help='not the examples')
    options.add_argument('--jobs', type=int, default=1)
    chosen = options.parse_args()
    files = chosen.files or headers()
    if not chosen.files and not chosen.headers:
        files += sorted((ROOT / 'examples').glob('*.cpp'))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        for path, (output, seconds) in zip(files, pool.map(check, files)):
            print(f'{path.relative_to(ROOT)}: {seconds:.0f} s', flush=True)
            if output:
                failed += 1
                print(output, flush=True)
    print(f'{len(files)} files checked, {failed} with warnings')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
