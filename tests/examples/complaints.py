# SPDX-License-Identifier: BSL-1.0
"""The complaints in the standard error of a program. The line which says that io_uring is not
available does not count, because these tests also run where io_uring is refused."""


def is_complaint(line):
    return not line.startswith("iowq: io_uring is not available, ")


def complaints(stderr):
    return "".join(filter(is_complaint, stderr.splitlines(True)))
