#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""headers.py counts public headers, and lets the numbers only shrink to the limits."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import headers  # noqa: E402


class Headers(unittest.TestCase):
    def test_public(self):
        names = {'iowq.hpp': True, 'op/file.hpp': True, 'base/result.hpp': True,
                 'op/detail/bytes.hpp': False, 'queue/inbox.hpp': False, 'base/policy.hpp': False,
                 'op/detail_of.hpp': True}
        with tempfile.TemporaryDirectory() as where:
            root = pathlib.Path(where)
            for name in names:
                path = root / 'include' / 'iowq' / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text('')
            self.assertEqual(headers.headers(root), names)

    def test_limits(self):
        self.assertEqual(headers.compare({'public': 75, 'all': 125}, headers.LIMITS), [])
        self.assertEqual(headers.compare({'public': 7, 'all': 9}, headers.LIMITS), [])
        for counts, fault in [({'public': 76, 'all': 125}, 'public headers: 76, limit 75'),
                              ({'public': 75, 'all': 126}, 'all headers: 126, limit 125')]:
            (found,) = headers.compare(counts, headers.LIMITS)
            self.assertIn(fault, found)

    def test_numbers_only_shrink(self):
        allowed = {'public': 80, 'all': 125}
        self.assertEqual(headers.compare({'public': 80, 'all': 100}, allowed), [])
        self.assertIn('limit 80', headers.compare({'public': 81, 'all': 100}, allowed)[0])
        self.assertIn('lower it', headers.compare({'public': 79, 'all': 100}, allowed)[0])

    def test_the_list(self):
        with tempfile.TemporaryDirectory() as where:
            root = pathlib.Path(where)
            (root / 'tests' / 'shape').mkdir(parents=True)
            self.assertEqual(headers.read_allowed(root), headers.LIMITS)
            headers.write_allowed(root, {'public': 80, 'all': 125})
            self.assertEqual(headers.read_allowed(root), {'public': 80, 'all': 125})
            self.assertNotIn('125', (root / headers.ALLOWED).read_text())


if __name__ == '__main__':
    unittest.main()
