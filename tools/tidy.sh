#!/usr/bin/env bash
# Proves that each module stands without the workspace and that its go.mod and go.sum
# list what it needs and nothing else: bash tools/tidy.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for dir in $(go list -m -f '{{.Dir}}'); do
	name=$(realpath --relative-to . "$dir")
	echo "tidy: $name"
	(
		cd "$dir" && export GOWORK=off && go mod tidy -diff && go vet ./... # set -e does not hold here
	) || {
		echo "tidy: the module $name is not right by itself (try: cd $name && GOWORK=off go mod tidy)" >&2
		exit 1
	}
done
