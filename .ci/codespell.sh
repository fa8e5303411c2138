#!/bin/sh
# SPDX-License-Identifier: BSL-1.0
# Looks for misspelled words in the whole tree, by the settings in .codespellrc.
set -eu
cd "$(dirname "$0")/.."
exec codespell --count
