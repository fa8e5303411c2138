# SPDX-License-Identifier: BSL-1.0
"""What a program has to complain about. That there is no io_uring is told, and is no complaint:
these tests run where it is refused, too."""


def is_complaint(line):
    return not line.startswith("iowq: io_uring is not available, ")


def complaints(stderr):
    return "".join(filter(is_complaint, stderr.splitlines(True)))
