#!/bin/sh
# What becomes of one message, with kcat: its receipts, of which `jq` or `grep` show a part.
#   sh receipts.sh client.conf MESSAGE_ID
# The id of the event is a header; kcat prints headers as name=value, separated by commas.
kcat -F "$1" -t routing.receipts -C -o beginning -e -q -f '%h\t%s\n' | grep "ce_id=$2\."
