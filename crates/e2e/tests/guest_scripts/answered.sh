#!/bin/sh
# Writes DISK from end to end, 4 KiB at a time, around the cache and without a flush; then reads it and compares:
# what was answered must be there. Until STATUS.stop appears.
disk=$1 status=$2 blocks=512 round=0
fail() { echo "round $round: $1" >"$status.failed"; exit 1; }
while [ ! -e "$status.stop" ]; do
    round=$((round + 1))
    perl -e 'print pack("Q<Q<", $ARGV[0], $_) x 256 for 0 .. $ARGV[1] - 1' $round $blocks >"$status.data"
    dd if="$status.data" of="$disk" bs=4k oflag=direct conv=notrunc 2>"$status.log" || fail "$(cat "$status.log")"
    dd if="$disk" bs=4k count=$blocks iflag=direct 2>"$status.log" >"$status.read" || fail "$(cat "$status.log")"
    cmp "$status.data" "$status.read" >"$status.log" 2>&1 || fail "$(cat "$status.log")"
    echo $round >"$status.running"
done
echo $round >"$status.done"
