# Run in a kernel's host guest, see guests.py: all that nvme-cli and a block device do with our
# controller.  $NQN, $PORT, $DISCOVERY_PORT, $NSIDS; $MODES, digests by nvme-cli's letters: n g G gG;
# $MIB of data.
at="-t tcp -a $TARGET -s $PORT"
disk_fio() {
    for bs in 4k 128k; do
        try fio --output-format=terse --name=verify --filename="$1" --rw=randrw --bs=$bs \
            --size="${MIB}M" --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c \
            --verify_fatal=1
    done
}

try nvme discover -t tcp -a $TARGET -s $DISCOVERY_PORT
try nvme discover $at -o json
for mode in $MODES; do
    case $mode in n) digests= ;; g) digests=-g ;; G) digests=-G ;; gG) digests="-g -G" ;; esac
    note "digests: ${digests:-none}"
    try nvme connect $at -n $NQN --nr-io-queues=2 --ctrl-loss-tmo=5 $digests
    c=$(ctrl $NQN)
    for nsid in $NSIDS; do
        d=$(disk $NQN $nsid)
        [ -b "$d" ] || { try test -b "namespace $nsid"; continue; }
        try nvme id-ns $d
        try nvme ns-descs $d
        disk_fio $d
        # Whole blocks, ending at the last one.
        end=$(($(cat /sys/class/block/${d##*/}/size) / 2048 - 1))
        try dd if=/dev/urandom of=/tmp/pattern bs=1M count=1 status=none
        try dd if=/tmp/pattern of=$d bs=1M seek=$end oflag=direct conv=fsync status=none
        try dd if=$d of=/tmp/back bs=1M skip=$end iflag=direct status=none
        try cmp /tmp/pattern /tmp/back
        try blkdiscard -o 0 -l 1048576 $d
        try blkdiscard -z -o 1048576 -l 1048576 $d
        try dd if=$d of=/tmp/back bs=1M skip=1 count=1 iflag=direct status=none
        try dd if=/dev/zero of=/tmp/zero bs=1M count=1 status=none
        try cmp /tmp/zero /tmp/back
    done
    try nvme list
    try nvme list -o json
    try nvme list-subsys
    try nvme list-ns $c
    try nvme id-ctrl $c
    try nvme smart-log $c
    try nvme error-log $c
    try nvme fw-log $c
    try nvme effects-log $c
    try nvme get-feature $c -f 7
    try nvme get-feature $c -f 15
    # Fails on a fabrics controller, whatever it serves: half of the registers are for PCIe.
    may nvme show-regs $c -H

    # A reset in mid-life: the data must be there after it.
    d=$(disk $NQN ${NSIDS%% *})
    try dd if=/tmp/pattern of=$d bs=1M seek=4 oflag=direct status=none
    try nvme reset $c
    try nvme flush $d
    try dd if=$d of=/tmp/back bs=1M skip=4 count=1 iflag=direct status=none
    try cmp /tmp/pattern /tmp/back

    for nsid in $NSIDS; do
        d=$(disk $NQN $nsid)
        try mke2fs -q -F -t ext4 $d
        try mount -t ext4 -o discard $d /mnt
        cp -r /bin/busybox /peer /mnt/
        (cd /mnt && find busybox peer -type f | sort | xargs sha256sum) >/tmp/sums
        try umount /mnt
        echo 3 >/proc/sys/vm/drop_caches
        try mount -t ext4 -o ro $d /mnt
        cd /mnt
        try sha256sum -c -s /tmp/sums
        cd /
        try umount /mnt
        try e2fsck -fn $d
    done
    try nvme disconnect -n $NQN
done

note "by the discovery log"
try nvme connect-all -t tcp -a $TARGET -s $DISCOVERY_PORT --nr-io-queues=1 --ctrl-loss-tmo=5
try test -b "$(disk $NQN ${NSIDS%% *})"
try nvme disconnect-all
