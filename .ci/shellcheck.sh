#!/bin/sh
# SPDX-License-Identifier: BSL-1.0
# Runs shellcheck on every shell script: *.sh and files whose first line names sh or bash.
set -eu
cd "$(dirname "$0")/.."

scripts() {
  find . \( -name .git -o -name subprojects -o -path ./build \) -prune -o -type f -size -200k -print |
    sort | while IFS= read -r file; do
    IFS= read -r first <"$file" || first=
    case $first in
      '#!'*/sh | '#!'*/bash | '#!'*' sh' | '#!'*' bash') printf '%s\n' "${file#./}" ;;
      *) case $file in *.sh) printf '%s\n' "${file#./}" ;; esac ;;
    esac
  done
}

found=$(scripts)
# shellcheck disable=SC2086  # a list of names without blanks
shellcheck $found
printf '%s scripts checked\n' "$(printf '%s\n' "$found" | wc -l)"
