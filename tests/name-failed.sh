#!/bin/sh
# The end of a red run: the names of the tests that failed, whichever of its runs of pytest they failed in.
echo
if [ -s "$TEST_FAILURES" ]; then
    echo "FAILED: $(wc -l < "$TEST_FAILURES")"
    sort "$TEST_FAILURES"
else
    echo "FAILED, though no test has: the reason stands above."
fi
exit 1
