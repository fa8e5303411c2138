#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks the rules of the layers: permitted includes, reading order, the two seams, banners.

    layers.py ROOT            the tree to look at; prints `path:line: fault`, exits 1 if there is one
"""

import pathlib
import re
import sys

# The layers below each layer. A layer may include all that its arrows reach, also indirectly.
ARROWS = {
    'base': (),
    'coro': ('base',),
    'queue': ('base',),
    'ring': ('base',),
    'pool': ('queue',),
    'exec': ('coro', 'pool', 'ring'),
    'op': ('exec',),
    'flow': ('op',),
    'sync': ('op',),
}

# Headers that the umbrella leaves out because they cost the user something.
OPT_IN = {'flow/ranges.hpp'}

# System headers that only some headers may include: (system header, the headers that may).
RESTRICTED_INCLUDES = [
    (re.compile(r'liburing(/.*|\.h)$'), re.compile(r'ring/')),
    (re.compile(r'range/v3/'), re.compile(r'flow/ranges\.hpp$')),
    (re.compile(r'coroutine$'), re.compile(r'(coro|exec|op|flow|sync)/')),
]

# Seam 1: threads, atomics and clocks go through base/policy.hpp.
POLICY = 'base/policy.hpp'
THREADING = re.compile(
    r'\bstd::(atomic\w*|mutex|recursive_mutex|timed_mutex|shared_mutex|thread|jthread|this_thread'
    r'|condition_variable\w*|counting_semaphore|binary_semaphore|barrier|latch|future|async)\b'
    r'|\b(steady|system|high_resolution)_clock::now\b')
THREADING_ALLOWED = {POLICY}
# ... and so do the system calls of the layers that the schedule explorer runs.
SYSTEM_CALL = re.compile(r'(?<![\w>:])::([a-z]\w*)\s*\(|\bsyscall\s*\(')
SYSTEM_CALL_LAYERS = {'queue', 'pool'}

# Seam 2: only this header enters the kernel through liburing.
KERNEL = 'ring/detail/kernel.hpp'
ENTERS_KERNEL = re.compile(
    r'\b(_*io_uring_(submit\w*|wait_\w*|enter\w*|setup\w*|queue_(init|exit|mmap)\w*|register\w*'
    r'|unregister\w*|get_events|peek_\w*cqe\w*|sqring_wait|get_probe\w*|ring_dontfork'
    r'|free_buf_ring|close_ring_fd|resize_rings|clone_buffers\w*)(?=\s*\()'
    r'|(SYS|__NR)_io_uring_\w+)')

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
DEFINE = re.compile(r'^\s*#\s*define\s+(\w+)')
SPDX = '// SPDX-License-Identifier: BSL-1.0'
UNFINISHED = re.compile(r'\b(TODO|FIXME|XXX)\b')

# Comments and literals, whichever opens first; raw strings before plain ones.
NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)


def code_of(text):
    """The text without comments and literals, every line where it was."""
    return NOISE.sub(lambda found: '""' + '\n' * found.group().count('\n'), text)


def reach(layer):
    """The layers that `layer` may include, itself left out."""
    found = set()
    for below in ARROWS[layer]:
        found |= {below} | reach(below)
    return found


def includes(text):
    """(line number, bracket, name) of each #include outside comments."""
    for number, line in enumerate(text.split('\n'), 1):
        if match := INCLUDE.match(line):
            yield number, match.group(1), match.group(2)


def ours(name):
    """The name inside include/iowq, or None for a header of another project."""
    return name[len('iowq/'):] if name.startswith('iowq/') else None


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.include = self.root / 'include' / 'iowq'
        self.headers = {
            path.relative_to(self.include).as_posix(): path.read_text()
            for path in sorted(self.include.rglob('*.hpp'))
        }
        self.faults = []
        self.order = self.reading_order()

    def fault(self, header, line, message):
        self.faults.append(f'include/iowq/{header}:{line}: {message}')

    def reading_order(self):
        umbrella = self.headers.get('iowq.hpp', '')
        return {ours(name): place for place, (_, _, name) in enumerate(includes(umbrella))
                if ours(name)}

    def check(self):
        if 'iowq.hpp' not in self.headers:
            self.fault('iowq.hpp', 1, 'the umbrella is missing')
        for header, text in self.headers.items():
            self.check_text(header, text)
            self.check_macros(header, text)
            if header == 'iowq.hpp':
                self.check_umbrella()
            else:
                self.check_includes(header, text)
            self.check_seams(header, code_of(text))
        self.check_sources()
        return self.faults

    def check_text(self, header, text):
        lines = text.split('\n')
        if lines[0] != SPDX:
            self.fault(header, 1, f'the first line is not "{SPDX}"')
        if len(lines) < 2 or not lines[1].startswith(f'// iowq/{header} -- '):
            self.fault(header, 2, f'no banner: "// iowq/{header} -- what it is for."')
        if '#pragma once' not in lines:
            self.fault(header, 1, 'no #pragma once')
        for number, line in enumerate(lines, 1):
            if UNFINISHED.search(line):
                self.fault(header, number, 'unfinished: write it, or open an issue')

    def check_macros(self, header, text):
        for number, line in enumerate(text.split('\n'), 1):
            match = DEFINE.match(line)
            if not match or match.group(1).startswith('IOWQ_') or header == 'ring/detail/compat.hpp':
                continue
            if not re.search(rf'^\s*#\s*undef\s+{match.group(1)}\b', text, re.M):
                self.fault(header, number, f'macro {match.group(1)} escapes: #undef it')

    def check_umbrella(self):
        for header in self.headers.keys() - self.order.keys() - OPT_IN - {'iowq.hpp'}:
            self.fault('iowq.hpp', 1, f'does not include <iowq/{header}>')
        for header in self.order.keys() - self.headers.keys():
            self.fault('iowq.hpp', 1, f'includes <iowq/{header}>, which does not exist')

    def check_includes(self, header, text):
        layer = header.split('/')[0] if '/' in header else None
        if layer is not None and layer not in ARROWS:
            self.fault(header, 1, f'{layer}/ is no layer')
            return
        for number, bracket, name in includes(text):
            if bracket == '"':
                self.fault(header, number, f'"{name}": write it as <iowq/...>')
            elif target := ours(name):
                self.check_arrow(header, layer, number, target)
            else:
                for what, where in RESTRICTED_INCLUDES:
                    if what.match(name) and not where.match(header):
                        self.fault(header, number, f'<{name}> may not be named here')

    def check_arrow(self, header, layer, number, target):
        target_layer = target.split('/')[0] if '/' in target else None
        if target not in self.headers:
            self.fault(header, number, f'<iowq/{target}> does not exist')
        elif layer is None or target_layer is None:
            self.fault(header, number, f'only the umbrella may include <iowq/{target}>'
                       if target_layer is None else 'a header of no layer includes nothing of ours')
        elif layer == target_layer:
            last = len(self.order)  # an opt-in header is read after all others
            if self.order.get(target, last) >= self.order.get(header, last + 1):
                self.fault(header, number, f'<iowq/{target}> comes later in iowq.hpp')
        elif target_layer not in reach(layer):
            self.fault(header, number, f'no arrow leads from {layer} to {target_layer}')

    def check_seams(self, header, code):
        layer = header.split('/')[0]
        for number, line in enumerate(code.split('\n'), 1):
            if line.lstrip().startswith('#'):
                continue
            if header not in THREADING_ALLOWED and (match := THREADING.search(line)):
                self.fault(header, number, f'{match.group()}: only {POLICY} may name it')
            if layer in SYSTEM_CALL_LAYERS and (match := SYSTEM_CALL.search(line)):
                self.fault(header, number, f'{match.group()}): system calls go through {POLICY}')
            if header != KERNEL and (match := ENTERS_KERNEL.search(line)):
                self.fault(header, number, f'{match.group()}: only {KERNEL} enters the kernel')

    def check_sources(self):
        """Tests, examples and benchmarks: the licence line, and nothing unfinished."""
        for folder in ('tests', 'examples', 'benchmarks'):
            for path in sorted((self.root / folder).rglob('*.[ch]pp')):
                name = path.relative_to(self.root).as_posix()
                lines = path.read_text().split('\n')
                if lines[0] != SPDX:
                    self.faults.append(f'{name}:1: the first line is not "{SPDX}"')
                self.faults += [f'{name}:{number}: unfinished: write it, or open an issue'
                                for number, line in enumerate(lines, 1) if UNFINISHED.search(line)]


def main():
    faults = Tree(sys.argv[1]).check()
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
