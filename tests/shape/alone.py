#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""The headers were compiled alone before this ran; see that none was left out.

    alone.py ROOT HEADER...        the headers known when Meson was run
"""

import pathlib
import sys

include = pathlib.Path(sys.argv[1], 'include')
known = set(sys.argv[2:])
there = {path.relative_to(include).as_posix() for path in include.rglob('*.hpp')}
for header in sorted(there - known):
    print(f'{header} is new: run `meson setup --reconfigure` on this build directory')
print(f'{len(known)} headers compiled alone')
sys.exit(1 if there - known else 0)
