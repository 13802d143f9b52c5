# shellcheck shell=bash
# For those who run the test programs of plab-tests themselves, one by one: scripts/test-host, tests/vm/run.

# Builds them as cargo does for these arguments, and says where they are: lines of NAME KIND PROGRAM. KIND is `test`;
# `unit` for the unit tests of the library and of the programs that tests use; `bin` for those programs.
test_programs() { # CARGO-ARGUMENT...
    local messages
    messages=$(${CARGO:-cargo} test --quiet -p plab-tests "$@" --no-run --message-format=json) || return 1
    jq -r 'select(.reason == "compiler-artifact" and .executable)
        | "\(.target.name) \(if .target.kind[0] == "test" then "test" elif .profile.test then "unit" else "bin" end) \(.executable)"' <<<"$messages"
}

# "passed N" if a program's output is one result that is ok, with at least one test and none passed over.
verdict() { # LOG STATUS
    awk -v status="$2" '
        /^test result: / { results++; ok = $3 == "ok."; passed = $4; ignored = $8 }
        END {
            if (status != 0) print "ended with status " status
            else if (results != 1 || !ok) print "did not say that it passed"
            else if (passed == 0) print "ran no test"
            else if (ignored != 0) print "passed over " ignored " tests"
            else print "passed " passed
        }' "$1"
}
