#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""layers.py must reject each of these small trees for its one fault, and accept the correct one."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import layers  # noqa: E402

SOUND = {
    'version.hpp': '',
    'base/assert.hpp': '#include <cstdio>\n',
    'base/policy.hpp': '#include <iowq/base/assert.hpp>\nstd::atomic<int> a;\n',
    'coro/task.hpp': '#include <coroutine>\n#include <iowq/base/assert.hpp>\n',
    'queue/intrusive_queue.hpp': '#include <iowq/base/policy.hpp>\n// std::mutex is not for us\n',
    'ring/detail/compat.hpp': '#include <liburing.h>\n#define IORING_NEW 1\n',
    'ring/detail/kernel.hpp': '#include <iowq/ring/detail/compat.hpp>\nint f() { return io_uring_submit(r); }\n',
    'pool/pool.hpp': '#include <iowq/queue/intrusive_queue.hpp>\n#include <iowq/base/policy.hpp>\n',
    'exec/detail/loop.hpp': '#include <iowq/queue/intrusive_queue.hpp>\n#include <iowq/ring/detail/kernel.hpp>\n',
    'op/file.hpp': '#include <iowq/exec/detail/loop.hpp>\nauto s = "std::thread TO" "DO";\n',
    'flow/when_all.hpp': '#include <iowq/op/file.hpp>\n',
    'flow/ranges.hpp': '#include <range/v3/view.hpp>\n#include <iowq/flow/when_all.hpp>\n',
    'sync/event.hpp': '#include <iowq/coro/task.hpp>\n',
}


def faults_of(changes=(), umbrella=None):
    bodies = {**SOUND, **dict(changes)}
    names = [name for name in bodies if name not in layers.OPT_IN]
    bodies['iowq.hpp'] = ''.join(f'#include <iowq/{name}>\n' for name in umbrella or names)
    with tempfile.TemporaryDirectory() as root:
        for name, body in bodies.items():
            path = pathlib.Path(root, 'include/iowq', name)
            path.parent.mkdir(parents=True, exist_ok=True)
            banner = f'{layers.SPDX}\n// iowq/{name} -- a sample.\n#pragma once\n\n'
            path.write_text(body[1:] if body.startswith('\0') else banner + body)
        return layers.Tree(root).check()


class Layers(unittest.TestCase):
    def rejects(self, message, changes, **more):
        faults = faults_of(changes, **more)
        self.assertTrue(any(message in fault for fault in faults), faults)
        self.assertEqual(len(faults), 1, faults)

    def test_a_sound_house_has_no_fault(self):
        self.assertEqual(faults_of(), [])

    def test_arrows(self):
        self.assertEqual(sum(map(len, layers.ARROWS.values())), 10)
        for header, target in [('base/assert.hpp', 'coro/task.hpp'),
                               ('coro/task.hpp', 'queue/intrusive_queue.hpp'),
                               ('queue/intrusive_queue.hpp', 'pool/pool.hpp'),
                               ('ring/detail/kernel.hpp', 'queue/intrusive_queue.hpp'),
                               ('ring/detail/kernel.hpp', 'coro/task.hpp'),
                               ('pool/pool.hpp', 'ring/detail/kernel.hpp'),
                               ('pool/pool.hpp', 'coro/task.hpp'),
                               ('exec/detail/loop.hpp', 'op/file.hpp'),
                               ('op/file.hpp', 'flow/when_all.hpp'),
                               ('flow/when_all.hpp', 'sync/event.hpp'),
                               ('sync/event.hpp', 'flow/when_all.hpp')]:
            self.rejects('no arrow', {header: SOUND[header] + f'#include <iowq/{target}>\n'})

    def test_order_within_a_layer(self):
        self.rejects('comes later', {'base/assert.hpp': '#include <iowq/base/policy.hpp>\n'})
        self.rejects('comes later', {'flow/when_all.hpp': '#include <iowq/flow/ranges.hpp>\n'})
        self.rejects('comes later', {'coro/task.hpp': '#include <iowq/coro/task.hpp>\n'})

    def test_the_umbrella_is_complete(self):
        names = [name for name in SOUND if name not in layers.OPT_IN]
        self.rejects('does not include', {}, umbrella=names[:-1])
        self.rejects('does not exist', {}, umbrella=names + ['sync/gone.hpp'])
        self.rejects('only the umbrella', {'op/file.hpp': '#include <iowq/version.hpp>\n'})

    def test_foreign_and_quoted_includes(self):
        self.rejects('may not be named', {'op/file.hpp': '#include <liburing.h>\n'})
        self.rejects('may not be named', {'pool/pool.hpp': '#include <coroutine>\n'})
        self.rejects('may not be named', {'flow/when_all.hpp': '#include <range/v3/all.hpp>\n'})
        self.rejects('write it as', {'pool/pool.hpp': '#include "work.hpp"\n'})
        self.rejects('does not exist', {'pool/pool.hpp': '#include <iowq/queue/gone.hpp>\n'})

    def test_a_new_folder_needs_a_layer(self):
        self.rejects('is no layer', {'extra/thing.hpp': ''})

    def test_threads_and_clocks_belong_to_the_policy(self):
        for line in ['std::atomic<int> a;', 'std::atomic_flag f;', 'std::mutex m;',
                     'std::jthread t;', 'std::thread t;', 'std::condition_variable_any c;',
                     'auto t = std::chrono::steady_clock::now();', 'std::this_thread::yield();']:
            for header in ('queue/intrusive_queue.hpp', 'pool/pool.hpp', 'exec/detail/loop.hpp', 'base/assert.hpp'):
                self.rejects('only base/policy.hpp', {header: line + '\n'})

    def test_system_calls_of_pool_and_queue_belong_to_the_policy(self):
        self.rejects('system calls', {'pool/pool.hpp': 'int r = ::getpid();\n'})
        self.rejects('system calls', {'queue/intrusive_queue.hpp': 'long r = syscall(1);\n'})
        self.assertEqual(faults_of({'exec/detail/loop.hpp': 'int r = ::getpid();\n'}), [])
        self.assertEqual(faults_of({'pool/pool.hpp': 'x.post(); pool::post(); f(::iowq::x);\n'}), [])

    def test_only_one_header_enters_the_kernel(self):
        for call in ['io_uring_submit', 'io_uring_submit_and_wait_timeout', 'io_uring_wait_cqe',
                     'io_uring_enter', 'io_uring_setup', 'io_uring_queue_init_params',
                     'io_uring_queue_exit', 'io_uring_register_buffers', 'io_uring_peek_cqe',
                     'io_uring_unregister_ring_fd', 'io_uring_get_events',
                     'io_uring_setup_buf_ring']:
            self.rejects('enters the kernel', {'op/file.hpp': f'int r = {call}(x);\n'})
            self.rejects('enters the kernel', {'ring/detail/compat.hpp': f'int r = ::{call} (x);\n'})
        self.rejects('enters the kernel', {'exec/detail/loop.hpp': 'long n = SYS_io_uring_enter;\n'})
        for fine in ['io_uring_get_sqe(r)', 'io_uring_prep_read(s)', 'io_uring_cqe_seen(r, c)']:
            self.assertEqual(faults_of({'ring/detail/compat.hpp': f'int r = {fine};\n'}), [])

    def test_comments_and_literals_are_no_code(self):
        for line in ['// std::mutex', '/* std::mutex\nstd::mutex */', 'auto s = "std::mutex";',
                     'auto s = R"(std::mutex\n")";', "char c = '\"'; // std::mutex"]:
            self.assertEqual(faults_of({'pool/pool.hpp': line + '\n'}), [])
        self.rejects('only base/policy.hpp', {'pool/pool.hpp': "int n = 1'000; std::mutex m;\n"})
        self.rejects('only base/policy.hpp', {'pool/pool.hpp': '/* a */ std::mutex m; // b\n'})

    def test_banner_and_manners(self):
        spdx, banner, once = layers.SPDX, '// iowq/op/file.hpp -- files.', '#pragma once'
        for message, lines in [('first line', ['', banner, once]),
                               ('no banner', [spdx, '// files', once]),
                               ('no banner', [spdx, '// iowq/op/names.hpp -- files.', once]),
                               ('pragma', [spdx, banner, ''])]:
            self.rejects(message, {'op/file.hpp': '\0' + '\n'.join(lines) + '\n'})
        self.rejects('unfinished', {'op/file.hpp': '// TODO: more\n'})
        self.rejects('unfinished', {'op/file.hpp': 'int a;  // FIXME\n'})

    def test_macros_do_not_escape(self):
        self.rejects('escapes', {'op/file.hpp': '#define ROW(x) x\n'})
        self.assertEqual(faults_of({'op/file.hpp': '#define ROW(x) x\n#undef ROW\n'}), [])
        self.assertEqual(faults_of({'op/file.hpp': '#define IOWQ_ROW(x) x\n'}), [])


if __name__ == '__main__':
    unittest.main(verbosity=2)
