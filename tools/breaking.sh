#!/usr/bin/env bash
# Proves that the published protos still mean to others what they meant when they were
# last released: bash tools/breaking.sh
# At a release, bash tools/breaking.sh --release makes the protos as they are now what
# later changes are compared with.
#
# The released state is a file in the tree and not a tag or branch, so that a clone
# without history can be checked, and that a change of it is seen in review.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

released=testdata/buf/micro-v1.binpb

mkdir -p .bin
(cd tools && GOWORK=off go build -o ../.bin/buf github.com/bufbuild/buf/cmd/buf)

case ${1:-} in
'')
	.bin/buf breaking proto --against "$released" || {
		echo "breaking: proto/ is no longer compatible with $released, which is what peers were built from" >&2
		exit 1
	}
	echo "breaking: proto/ is compatible with $released"
	;;
--release)
	# What breaks is not released by accident.
	.bin/buf breaking proto --against "$released"
	.bin/buf build proto --exclude-source-info -o "$released"
	echo "breaking: $released is proto/ as it is now"
	;;
*)
	echo "breaking: unknown argument $1 (there is only --release)" >&2
	exit 2
	;;
esac
