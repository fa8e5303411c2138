#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Every ```cpp block of the documentation compiles.

    snippets.py ROOT -- COMPILER ARG...

A block with an `int main` is a program and must stand by itself. Any other is given <iowq/iowq.hpp>
and some of the standard library, and is namespace scope unless a comment just above its fence says
otherwise:  <!-- snippet: in-coroutine -->  puts it into the body of a task<>.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

PRELUDE = '''\
#include <iowq/iowq.hpp>
#include <fcntl.h>
#include <unistd.h>
#include <array>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
using namespace std::chrono_literals;
'''

BLOCK = re.compile(
    r'^(?:<!-- snippet: (?P<kind>[\w-]+) -->\n+)?```cpp\n(?P<code>.*?)^```$', re.M | re.S)


def documents(root):
    candidates = [root / 'README.md', root / 'CONTRIBUTING.md', *sorted(root.glob('docs/**/*.md'))]
    return [path for path in candidates if path.exists()]


def blocks(text):
    """(line of the fence, kind, code) of each C++ block."""
    for match in BLOCK.finditer(text):
        line = text.count('\n', 0, match.start('code'))
        yield line, match['kind'], match['code']


def unit(name, line, kind, code):
    """The translation unit for a block; diagnostics point into the document."""
    here = f'#line {line + 1} "{name}"\n'
    if re.search(r'\bint main\s*\(', code):
        return here + code
    if kind is None:
        return PRELUDE + here + code
    if kind == 'in-coroutine':
        return f'{PRELUDE}iowq::task<> snippet() {{\n{here}{code}\nco_return;\n}}\n'
    raise ValueError(f'{name}:{line}: no such kind of snippet: {kind}')


def compile_unit(command, where, number, source):
    path = pathlib.Path(where, f'{number}.cpp')
    path.write_text(source)
    return subprocess.run([*command, '-fsyntax-only', '-Wno-unused-variable', str(path)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


def check(root, command):
    """The messages of the blocks that fail, and the number of blocks."""
    units, faults = [], []
    for path in documents(root):
        name = path.relative_to(root).as_posix()
        for line, kind, code in blocks(path.read_text()):
            try:
                units.append((f'{name}:{line}', unit(name, line, kind, code)))
            except ValueError as error:
                faults.append(str(error))
    if not any(place.startswith('README.md:') for place, _ in units):
        faults.append('README.md shows no C++')
    with tempfile.TemporaryDirectory() as where, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = [(place, pool.submit(compile_unit, command, where, number, source))
                for number, (place, source) in enumerate(units)]
        for place, run in runs:
            if run.result().returncode != 0:
                faults.append(f'{place}: does not compile\n{run.result().stderr}')
    return faults, len(units)


def main():
    faults, count = check(pathlib.Path(sys.argv[1]), sys.argv[3:])
    for fault in faults:
        print(fault)
    print(f'{count} snippets, {len(faults)} faults')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
