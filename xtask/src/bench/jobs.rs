//! All jobs, in the order in which they stand in the table.

use super::{
    bed::Bed,
    contender::{Contender, QEMU_RAW, RAW},
    figures::{Bound, Goal, Outcome},
    fio::Load,
    nbd::{self, Before, Figure, NbdJob},
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
}

impl Job {
    /// Runs it: an outcome for each goal.
    pub(crate) fn run(&self, bed: &mut Bed) -> Result<Vec<Outcome>> {
        let outcomes = match &self.kind {
            Kind::Nbd(job) => vec![nbd::run(bed, job)?],
        };
        ensure!(
            outcomes.len() == self.goals.len(),
            "a job must have an outcome for each of its targets"
        );
        Ok(outcomes)
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
        peers,
        figure,
        before,
        in_order,
    })
}

const NULL: &[Contender] = &[Contender::NbdkitNull];
const BEST_RAW: &str = "× the best of qemu-nbd raw and nbdkit file";
const QEMU: &str = "× qemu-nbd raw at its best";
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
