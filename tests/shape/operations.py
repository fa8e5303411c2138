#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""docs/operations.md is what the rows say, and names every row there is.

    operations.py ROOT PROGRAM
"""

import difflib
import pathlib
import re
import subprocess
import sys

ROW = re.compile(r'operation_row\s+row\w*\s*\{\s*\.name\s*=\s*"(\w+)"')


def main():
    root, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    document = root / 'docs' / 'operations.md'
    written = document.read_text() if document.exists() else ''
    faults = list(difflib.unified_diff(written.splitlines(), said.splitlines(),
                                       'docs/operations.md', 'the rows', lineterm=''))
    if faults:
        faults.append(f'bring it up to date: {program} > {document}')
    for header in sorted((root / 'include' / 'iowq').rglob('*.hpp')):
        for name in ROW.findall(header.read_text()):
            if f'| `{name}` |' not in said:
                faults.append(f'{header.relative_to(root)}: {name} is not in '
                              'tests/shape/operations.cpp')
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
