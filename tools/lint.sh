#!/usr/bin/env bash
# Runs golangci-lint, as .golangci.yml says, over each module of the workspace:
# bash tools/lint.sh
#
# The linter is built from the tools module; the first time takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p .bin
(cd tools && GOWORK=off go build -o ../.bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
lint=$PWD/.bin/golangci-lint
"$lint" config verify

failed=()
for dir in $(go list -m -f '{{.Dir}}'); do
	name=$(realpath --relative-to . "$dir")
	echo "lint: $name"
	(cd "$dir" && "$lint" run ./...) || failed+=("$name")
done
if ((${#failed[@]})); then
	echo "lint: there are findings in: ${failed[*]}" >&2
	exit 1
fi
