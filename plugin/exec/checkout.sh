# Brings the working directory to a commit, with as few writes as can be: a file
# that is right already keeps its time, and what git does not track stays.
# $header is a secret (source.go). It is for this URL alone, so that a redirect to
# another server does not carry it there; and it goes there straight, whatever proxy
# or address an earlier job wrote into the tree's .git/config.
say() { printf '\033[0;36m%s\033[0;m\n' "$1"; }
fetch() (
	if [ -n "$header" ]; then
		n=$GIT_CONFIG_COUNT
		export "GIT_CONFIG_KEY_$n=http.$ROOST_URL.extraHeader" "GIT_CONFIG_VALUE_$n=$header"
		export "GIT_CONFIG_KEY_$((n + 1))=http.$ROOST_URL.proxy" "GIT_CONFIG_VALUE_$((n + 1))="
		export "GIT_CONFIG_KEY_$((n + 2))=http.$ROOST_URL.curloptResolve" "GIT_CONFIG_VALUE_$((n + 2))="
		export "GIT_CONFIG_COUNT=$((n + 3))"
	fi
	exec git fetch -q --force --no-tags --no-recurse-submodules --no-write-fetch-head "$@"
)

if [ -L .git ] || [ -f .git ]; then rm -f .git; fi
if [ ! -d .git ]; then
	say "Created a fresh repository"
	git init -q --template= .
fi
find .git -maxdepth 1 -name '*.lock' -delete
[ ! -d .git/refs ] || find .git/refs -name '*.lock' -delete

have() { git cat-file -e "$1^{commit}" 2>/dev/null; }
depth=()
[ "$ROOST_DEPTH" = 0 ] || depth=(--depth "$ROOST_DEPTH")
hidden=refs/roost/fetched

get() { # get WHAT: into $hidden, three tries
	local try
	for try in 1 2 3; do
		if fetch "${depth[@]}" -- "$ROOST_URL" "+$1:$hidden"; then return 0; fi
		[ "$try" = 3 ] || sleep "$try"
	done
	return 1
}

commit=$ROOST_COMMIT
if [ -z "$commit" ]; then
	get "$ROOST_REF" || exit 71
	commit=$(git rev-parse --verify -q "$hidden^{commit}") || exit 72
elif ! have "$commit"; then
	if ! fetch "${depth[@]}" -- "$ROOST_URL" "+$commit:$hidden"; then
		get "${ROOST_REF:-$commit}" || exit 71
		if ! have "$commit" && [ -f .git/shallow ]; then
			fetch --unshallow -- "$ROOST_URL" "+${ROOST_REF:-$commit}:$hidden" || exit 71
		fi
	fi
	have "$commit" || exit 72
fi

git update-index -q --refresh >/dev/null 2>&1 || true
if [ "$(git rev-parse -q --verify HEAD 2>/dev/null)" = "$commit" ] && git diff-files --quiet && git diff-index --cached --quiet HEAD; then
	say "Already at $commit"
else
	say "Checking out $commit as detached HEAD${ROOST_REF:+ (ref is $ROOST_REF)}"
	git checkout -q --force --detach "$commit"
fi
[ -n "$ROOST_COMMIT" ] || printf '%s\n' "$commit" >"$TMPDIR/$ROOST_COMMIT_FILE"
