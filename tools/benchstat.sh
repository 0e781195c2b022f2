#!/usr/bin/env bash
# Compares the benchmarks of this tree with those of another revision of it, such as the
# last release: bash tools/benchstat.sh [-b REGEXP] [-n ROUNDS] [-t BENCHTIME] REVISION [DIRECTORY...]
#
#   -b REGEXP     which benchmarks, as for go test -bench (default: all)
#   -n ROUNDS     how often each is run (default: 10; below 6, no difference is certain)
#   -t BENCHTIME  how long each takes, as for go test -benchtime (default: 200ms)
#   DIRECTORY     of a package to look at (default: those below runtime/ that have benchmarks)
#
# Both are built first; then they take turns, so that what else the machine does meets
# both. This tree is what is in it, committed or not. benchstat says what the differences
# are and whether they are more than noise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
	sed -n '2,8s/^# \{0,1\}//p' tools/benchstat.sh
	exit 2
} >&2

regexp=. rounds=10 benchtime=200ms
while getopts b:n:t: flag; do
	case $flag in
	b) regexp=$OPTARG ;;
	n) rounds=$OPTARG ;;
	t) benchtime=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
(($# > 0)) || usage
if ! [[ $rounds =~ ^[1-9][0-9]*$ ]]; then
	echo "benchstat: $rounds is not a number of rounds" >&2
	exit 2
fi
revision=$1
shift
if ! commit=$(git rev-parse --verify --quiet "$revision^{commit}"); then
	echo "benchstat: git knows no revision $revision" >&2
	exit 2
fi

dirs=("$@")
if ((${#dirs[@]} == 0)); then
	mapfile -t dirs < <(grep -rl --include='*_test.go' '^func Benchmark' runtime | xargs -r -n1 dirname | sort -u)
fi

work=$(mktemp -d)
cleanup() {
	git worktree remove --force "$work/old" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
git worktree add --quiet --detach "$work/old" "$commit"

(cd tools && GOWORK=off go build -o "$work/benchstat" golang.org/x/perf/cmd/benchstat)

# build TREE NAME DIRECTORY: a package's tests, where the tree has some.
build() {
	(
		cd "$1"
		compgen -G "$3/*_test.go" >/dev/null || exit 0
		go test -c -o "$work/$2" "./$3"
	)
}
mkdir -p "$work/bin"
for i in "${!dirs[@]}"; do
	if ! compgen -G "${dirs[i]}/*_test.go" >/dev/null; then
		echo "benchstat: ${dirs[i]} has no tests" >&2
		exit 2
	fi
	echo "benchstat: building ${dirs[i]}" >&2
	build "$work/old" "bin/old.$i" "${dirs[i]}"
	build "$PWD" "bin/new.$i" "${dirs[i]}"
done

# run TREE NAME DIRECTORY NUMBER
run() {
	[[ -x $work/bin/$2.$4 ]] || return 0
	(
		cd "$1/$3"
		"$work/bin/$2.$4" -test.run '^$' -test.bench "$regexp" -test.benchtime "$benchtime" -test.benchmem >>"$work/$2.txt"
	) || {
		echo "benchstat: a benchmark of $3 failed ($2):" >&2
		tail -20 "$work/$2.txt" >&2
		exit 1
	}
}
touch "$work/old.txt" "$work/new.txt"
for ((round = 1; round <= rounds; round++)); do
	echo "benchstat: round $round of $rounds" >&2
	for i in "${!dirs[@]}"; do
		if ((round % 2)); then
			run "$work/old" old "${dirs[i]}" "$i"
			run "$PWD" new "${dirs[i]}" "$i"
		else
			run "$PWD" new "${dirs[i]}" "$i"
			run "$work/old" old "${dirs[i]}" "$i"
		fi
	done
done
if ! grep -q '^Benchmark' "$work/new.txt"; then
	echo "benchstat: no benchmark of this tree matches $regexp in ${dirs[*]}" >&2
	exit 1
fi
"$work/benchstat" "$revision=$work/old.txt" "this tree=$work/new.txt"
