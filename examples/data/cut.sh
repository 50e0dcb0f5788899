#!/bin/sh
# Cuts whole local days out of the NASA iPSC log; README.md shows the two calls that made the extracts.
#   cut.sh FROM_S TO_S TIMEZONE_S "WHICH PART" <log.swf >extract.swf
# FROM_S and TO_S are seconds of the log's own clock (field 2, submit); TIMEZONE_S is the local offset on those days.
set -eu
awk -v from="$1" -v to="$2" -v zone="$3" -v part="$4" '
    NR == 1        { print "; Note: EXTRACT of NASA-iPSC-1993-3.1-cln.swf, Parallel Workloads Archive: " part
                     print ";       Job lines are unchanged but for runs of blanks; the header below describes the whole log,"
                     print ";       except TimeZone, which is the local offset on the days of this extract" }
    /^; TimeZone:/ { print "; TimeZone: " zone; next }
    /^;/           { print; next }
    $2 >= from && $2 < to { $1 = $1; print }
'
