#!/bin/sh
# Who may send, with kcat: the whole of the compacted topic, without a group; one line of JSON each.
#   sh standings.sh client.conf
exec kcat -F "$1" -t enforcement.standings -C -o beginning -e -q -f '%s\n'
