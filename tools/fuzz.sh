#!/usr/bin/env bash
# Runs every fuzz target of the workspace for a short time, one after the other:
# bash tools/fuzz.sh [executions of each target, such as 2000x]
#
# The bound is a number of executions and not a time: with a time, go test may fail
# with "context deadline exceeded" and nothing found (https://go.dev/issue/75804).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${1:-2000x}
if ! [[ $count =~ ^[1-9][0-9]*x$ ]]; then
	echo "fuzz: $count is not a number of executions (such as 2000x)" >&2
	exit 2
fi

# go test prints a package's targets and then its "ok" line. Packages without a fuzz
# target in their text need not be built to learn that.
mapfile -t dirs < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u)
if ((${#dirs[@]} == 0)); then
	echo "fuzz: there are no fuzz targets"
	exit
fi
listing=$(go test -list '^Fuzz' "${dirs[@]}")
targets=$(awk '/^Fuzz/ { names[n++] = $1 } $1 == "ok" { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }' <<<"$listing")

while read -r package name; do
	echo "fuzz: $name in $package"
	timeout 300 go test -run '^$' -fuzz "^$name\$" -fuzztime "$count" "$package" || {
		echo "fuzz: $name failed; what go test wrote to testdata/fuzz is the input that made it fail" >&2
		exit 1
	}
done <<<"$targets"
