//! All jobs, in the order in which they stand in the table.

use super::{
    ageing,
    bed::Bed,
    clones,
    contender::{Contender, QEMU_RAW, RAW, VHOST_RAW},
    cow, diff, fair,
    figures::{Bound, Goal, Outcome},
    fio::Load,
    import, import_formats, memory,
    nbd::{self, Before, Figure, NbdJob, Way},
    pause, snapshots, tail,
};
use anyhow::{Result, ensure};
use std::fmt::Write as _;

/// One that can be run.
pub(crate) struct Job {
    /// How it is called on the command line.
    pub(crate) name: &'static str,
    /// Its targets, in the order of its outcomes.
    pub(crate) goals: &'static [Goal],
    /// How it goes.
    kind: Kind,
}

enum Kind {
    Nbd(NbdJob),
    /// With servers of its own.
    Own(fn(&mut Bed) -> Result<Vec<Outcome>>),
}

impl Job {
    /// Runs it: an outcome for each goal.
    pub(crate) fn run(&self, bed: &mut Bed) -> Result<Vec<Outcome>> {
        let outcomes = match &self.kind {
            Kind::Nbd(job) => vec![nbd::run(bed, job)?],
            Kind::Own(run) => run(bed)?,
        };
        ensure!(
            outcomes.len() == self.goals.len(),
            "a job must have an outcome for each of its targets"
        );
        Ok(outcomes)
    }

    /// Its rounds, of `wanted`.
    pub(crate) fn rounds(&self, wanted: u32) -> u32 {
        match &self.kind {
            Kind::Nbd(job) => job.load.rounds(wanted),
            Kind::Own(_) => wanted,
        }
    }

    /// Name and targets, a line each.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (index, goal) in self.goals.iter().enumerate() {
            let name = if index == 0 { self.name } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:20} {}: {} {}", goal.what, goal.bound, goal.of);
        }
        text
    }
}

const fn goal(what: &'static str, bound: Bound, of: &'static str) -> Goal {
    Goal { what, bound, of }
}

const fn nbd_job(load: Load, peers: &'static [Contender], figure: Figure, before: Before) -> Kind {
    // What is read or written by 1 MiB is about order on the disk.
    let in_order = matches!(figure, Figure::Megabytes);
    Kind::Nbd(NbdJob {
        load,
        way: Way::Nbd,
        peers,
        figure,
        before,
        in_order,
    })
}

/// The same load over vhost-user-blk.
const fn vhost_job(load: Load, figure: Figure, before: Before) -> Kind {
    Kind::Nbd(NbdJob {
        load,
        way: Way::Vhost,
        peers: VHOST_RAW,
        figure,
        before,
        in_order: false,
    })
}

const NULL: &[Contender] = &[Contender::NbdkitNull];
const BEST_RAW: &str = "× the best of qemu-nbd raw and nbdkit file";
const QEMU: &str = "× qemu-nbd raw at its best";
const STORAGE_DAEMON: &str = "× qemu-storage-daemon raw at its best";
const CONVERT: &str = "× qemu-img convert to raw";
const AS_FAST: Bound = Bound::AtLeast(1.0);
const READ: Load = Load::new("randread", "4k", 16);
const WRITE: Load = Load::new("randwrite", "4k", 16);
const SYNC: Load = Load {
    extra: &["--fsync=1"],
    ..Load::new("randwrite", "4k", 1)
};
/// Half of the data compresses away; the flush is in the time.
const SEQUENTIAL_WRITE: Load = Load {
    extra: &[
        "--refill_buffers",
        "--buffer_compress_percentage=50",
        "--end_fsync=1",
    ],
    ..Load::new("write", "1M", 4)
};

/// All of them.
pub(crate) const CATALOG: &[Job] = &[
    Job {
        name: "read-qd1",
        goals: &[goal(
            "NBD 4 KiB random read, cached, QD 1",
            Bound::AtLeast(1.0),
            "× nbdkit null",
        )],
        kind: nbd_job(
            Load::new("randread", "4k", 1),
            NULL,
            Figure::Iops,
            Before::Warm,
        ),
    },
    Job {
        name: "read-qd16",
        goals: &[goal(
            "NBD 4 KiB random read, cached, QD 16",
            Bound::AtLeast(1.2),
            "× nbdkit null",
        )],
        kind: nbd_job(READ, NULL, Figure::Iops, Before::Warm),
    },
    Job {
        name: "read-qd16x2",
        goals: &[goal(
            "NBD 4 KiB random read, cached, QD 16, 2 connections",
            Bound::AtLeast(1.2),
            "× nbdkit null",
        )],
        kind: nbd_job(
            Load {
                connections: 2,
                ..READ
            },
            NULL,
            Figure::Iops,
            Before::Warm,
        ),
    },
    Job {
        name: "read-cpu",
        goals: &[goal(
            "server CPU of a million 4 KiB cached reads over NBD, QD 16",
            Bound::AtMost(0.7),
            "× nbdkit file",
        )],
        kind: nbd_job(
            READ,
            &[Contender::NbdkitFile],
            Figure::ServerCpu,
            Before::Warm,
        ),
    },
    Job {
        name: "read-cold",
        goals: &[goal(
            "NBD 4 KiB random read, nothing cached, QD 16",
            Bound::AtLeast(1.2),
            BEST_RAW,
        )],
        kind: nbd_job(READ, RAW, Figure::Iops, Before::Cold),
    },
    Job {
        name: "write-10s",
        goals: &[goal(
            "NBD 4 KiB random write, QD 16, 10 s and the final flush",
            Bound::AtLeast(1.5),
            BEST_RAW,
        )],
        kind: nbd_job(
            Load {
                seconds: Some(10),
                extra: &["--end_fsync=1"],
                ..WRITE
            },
            RAW,
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "write-120s",
        goals: &[goal(
            "NBD 4 KiB random write, QD 16, 120 s",
            Bound::AtLeast(1.0),
            BEST_RAW,
        )],
        kind: nbd_job(
            Load {
                seconds: Some(120),
                ..WRITE
            },
            RAW,
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "write-burst",
        goals: &[goal(
            "NBD 4 KiB random write, QD 16, 2 s into an empty buffer, without a flush",
            Bound::AtLeast(1.1),
            BEST_RAW,
        )],
        kind: nbd_job(
            Load {
                seconds: Some(2),
                ..WRITE
            },
            RAW,
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "sync",
        goals: &[goal(
            "NBD 4 KiB write and flush, 1 connection",
            Bound::AtLeast(1.3),
            QEMU,
        )],
        kind: nbd_job(SYNC, QEMU_RAW, Figure::Iops, Before::Settled),
    },
    Job {
        name: "sync-x4",
        goals: &[goal(
            "NBD 4 KiB write and flush, 4 connections",
            Bound::AtLeast(1.5),
            QEMU,
        )],
        kind: nbd_job(
            Load {
                connections: 4,
                ..SYNC
            },
            QEMU_RAW,
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "mix",
        goals: &[goal(
            "NBD 4 KiB, 70 % random reads and 30 % writes, QD 16",
            Bound::AtLeast(1.3),
            QEMU,
        )],
        kind: nbd_job(
            Load {
                extra: &["--rwmixread=70"],
                ..Load::new("randrw", "4k", 16)
            },
            QEMU_RAW,
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "seq-read-cold",
        goals: &[goal(
            "NBD 1 MiB sequential read, nothing cached, QD 4",
            Bound::AtLeast(1.2),
            QEMU,
        )],
        kind: nbd_job(
            Load::new("read", "1M", 4),
            QEMU_RAW,
            Figure::Megabytes,
            Before::Cold,
        ),
    },
    Job {
        name: "seq-read",
        goals: &[goal(
            "NBD 1 MiB sequential read, cached, QD 4",
            Bound::AtLeast(1.2),
            QEMU,
        )],
        kind: nbd_job(
            Load::new("read", "1M", 4),
            QEMU_RAW,
            Figure::Megabytes,
            Before::Warm,
        ),
    },
    Job {
        name: "seq-write",
        goals: &[goal(
            "NBD 1 MiB sequential write and the final flush, QD 4",
            Bound::AtLeast(1.0),
            QEMU,
        )],
        kind: nbd_job(
            SEQUENTIAL_WRITE,
            QEMU_RAW,
            Figure::Megabytes,
            Before::Settled,
        ),
    },
    Job {
        name: "vhost-read-qd1",
        goals: &[goal(
            "vhost-user-blk 4 KiB random read, cached, QD 1",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(Load::new("randread", "4k", 1), Figure::Iops, Before::Warm),
    },
    Job {
        name: "vhost-read-qd16",
        goals: &[goal(
            "vhost-user-blk 4 KiB random read, cached, QD 16",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(READ, Figure::Iops, Before::Warm),
    },
    Job {
        name: "vhost-read-qd32",
        goals: &[goal(
            "vhost-user-blk 4 KiB random read, cached, QD 32",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(Load::new("randread", "4k", 32), Figure::Iops, Before::Warm),
    },
    Job {
        name: "vhost-read-cpu",
        goals: &[goal(
            "server CPU of a million 4 KiB cached reads over vhost-user-blk, QD 16",
            Bound::AtMost(0.7),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(READ, Figure::ServerCpu, Before::Warm),
    },
    Job {
        name: "vhost-write-qd1",
        goals: &[goal(
            "vhost-user-blk 4 KiB random write, QD 1",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(
            Load::new("randwrite", "4k", 1),
            Figure::Iops,
            Before::Settled,
        ),
    },
    Job {
        name: "vhost-write-qd16",
        goals: &[goal(
            "vhost-user-blk 4 KiB random write, QD 16",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(WRITE, Figure::Iops, Before::Settled),
    },
    Job {
        name: "vhost-sync",
        goals: &[goal(
            "vhost-user-blk 4 KiB write and flush, QD 1",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(SYNC, Figure::Iops, Before::Settled),
    },
    Job {
        name: "vhost-mix",
        goals: &[goal(
            "vhost-user-blk 4 KiB, 70 % random reads and 30 % writes, QD 16",
            Bound::AtLeast(1.5),
            STORAGE_DAEMON,
        )],
        kind: vhost_job(Load::new("randrw", "4k", 16), Figure::Iops, Before::Settled),
    },
    Job {
        name: "clone-write",
        goals: &[
            goal(
                "first 4 KiB writes to a fresh clone, QD 16, and the final flush",
                Bound::AtLeast(5.0),
                "× a default qcow2 overlay",
            ),
            goal(
                "the same",
                Bound::AtLeast(2.0),
                "× a qcow2 overlay with extended_l2",
            ),
            goal(
                "first 4 KiB writes to a fresh clone, each flushed",
                Bound::AtLeast(3.0),
                "× a default qcow2 overlay",
            ),
            goal(
                "first writes to a clone, QD 16",
                Bound::AtLeast(0.9),
                "× second writes",
            ),
            goal(
                "first writes to a clone, each flushed",
                Bound::AtLeast(0.9),
                "× second writes",
            ),
        ],
        kind: Kind::Own(cow::run),
    },
    Job {
        name: "tail",
        goals: &[
            goal(
                "NBD 4 KiB random write, QD 16, 5 minutes: p99.9",
                Bound::AtMost(10.0),
                "× p50",
            ),
            goal("the same, the longest write", Bound::AtMost(100.0), "ms"),
        ],
        kind: Kind::Own(tail::run),
    },
    Job {
        name: "fairness",
        goals: &[
            goal(
                "4 KiB random reads of three guests beside a greedy one",
                Bound::AtLeast(0.8),
                "× a quarter of the machine",
            ),
            goal(
                "4 KiB random writes of three guests beside a greedy one",
                Bound::AtLeast(0.8),
                "× a quarter of the machine",
            ),
            goal(
                "1 MiB sequential writes of three guests beside a greedy one",
                Bound::AtLeast(0.8),
                "× a quarter of the machine",
            ),
        ],
        kind: Kind::Own(fair::run),
    },
    Job {
        name: "ageing",
        goals: &[
            goal(
                "1 MiB sequential read, nothing cached, after a day of overwrites, snapshots and collection",
                Bound::AtLeast(0.7),
                "× a fresh volume",
            ),
            goal(
                "the same of a snapshot from before",
                Bound::AtLeast(0.9),
                "× a fresh volume",
            ),
        ],
        kind: Kind::Own(ageing::run),
    },
    Job {
        name: "snapshots",
        goals: &[
            goal(
                "4 KiB random write while 100 snapshots are taken in 20 s",
                Bound::AtLeast(0.98),
                "× without",
            ),
            goal(
                "stall of a guest's write at a snapshot, p99",
                Bound::AtMost(1.0),
                "ms",
            ),
            goal("snapshot call, idle, p99", Bound::AtMost(5.0), "ms"),
            goal(
                "snapshot call under full load, p99",
                Bound::AtMost(100.0),
                "ms",
            ),
            goal("snapshot deletion, p99", Bound::AtMost(5.0), "ms"),
        ],
        kind: Kind::Own(snapshots::run),
    },
    Job {
        name: "diff",
        goals: &[
            goal(
                "1,000 changed blocks of 1 TiB found, first call of a daemon",
                Bound::AtMost(50.0),
                "ms",
            ),
            goal("the same again", Bound::AtMost(50.0), "ms"),
        ],
        kind: Kind::Own(diff::run),
    },
    Job {
        name: "clones",
        goals: &[
            goal(
                "1,000 clones of one image: created, listed, opened",
                Bound::AtMost(5.0),
                "s",
            ),
            goal("stored for each clone", Bound::AtMost(20.0), "KiB"),
            goal(
                "memory for each clone, open and idle",
                Bound::AtMost(64.0),
                "KiB",
            ),
        ],
        kind: Kind::Own(clones::run),
    },
    Job {
        name: "import",
        goals: &[
            goal(
                "import of four Debian images",
                Bound::AtLeast(3.0),
                "× qemu-img convert -c (zstd)",
            ),
            goal("stored for all four", Bound::AtMost(230.0), "MB"),
            goal("import of the changed copy alone", Bound::AtMost(1.0), "s"),
        ],
        kind: Kind::Own(import::run),
    },
    Job {
        name: "import-formats",
        goals: &[
            goal("import of a raw image", AS_FAST, CONVERT),
            goal("import of a qcow2 image", AS_FAST, CONVERT),
            goal("import of a compressed qcow2 image", AS_FAST, CONVERT),
            goal("import of a VMDK", AS_FAST, CONVERT),
            goal("import of a stream-optimized VMDK", AS_FAST, CONVERT),
            goal("import of a VHDX", AS_FAST, CONVERT),
            goal("import of a VHD", AS_FAST, CONVERT),
            goal("import of a VDI", AS_FAST, CONVERT),
            goal(
                "import of an OVA",
                AS_FAST,
                "× qemu-img convert to raw of the disk in it",
            ),
        ],
        kind: Kind::Own(import_formats::run),
    },
    Job {
        name: "memory",
        goals: &[
            goal(
                "deduplication index for 1 TiB of blocks, default of a machine with 4 GiB",
                Bound::AtMost(128.0),
                "MiB",
            ),
            goal(
                "duplicates found among them: four Debian images of one family",
                Bound::AtLeast(0.9),
                "of all",
            ),
        ],
        kind: Kind::Own(memory::run),
    },
    Job {
        name: "pause",
        goals: &[
            goal(
                "pause of a guest that writes, SIGKILL and restart",
                Bound::AtMost(1.0),
                "s",
            ),
            goal(
                "pause of a guest that writes, orderly restart",
                Bound::AtMost(1.0),
                "s",
            ),
        ],
        kind: Kind::Own(pause::run),
    },
];

#[cfg(test)]
mod tests {
    use super::CATALOG;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_job_has_a_target() {
        let names: BTreeSet<&str> = CATALOG.iter().map(|job| job.name).collect();
        assert_eq!(names.len(), CATALOG.len());
        assert!(CATALOG.iter().all(|job| !job.goals.is_empty()));
    }
}
