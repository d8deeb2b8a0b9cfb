//! Figures for Prometheus, gathered when somebody asks.

use super::control::Daemon;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
    },
    registry::Registry,
};
use std::sync::atomic::AtomicU64;
use types::DiskMode;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVolume {
    volume: String,
}

/// All figures in the OpenMetrics text format.
fn encode_all(daemon: &Daemon) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("holdfast");
    store(&mut registry, daemon);
    modes(&mut registry, daemon);
    scrub(&mut registry, daemon);
    nbd(&mut registry, daemon);
    vhost(&mut registry, daemon);
    limits(&mut registry, daemon);
    imports(&mut registry, daemon);
    schedules(&mut registry, daemon);
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// As [`encode_all`]; empty if it cannot be written, which a `String` never refuses.
pub(crate) fn encode(daemon: &Daemon) -> String {
    encode_all(daemon).unwrap_or_default()
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn gauges(registry: &mut Registry, name: &str, help: &str, values: &[(&'static str, u64)]) {
    let family: Family<Label, Gauge> = Family::default();
    for &(kind, value) in values {
        family
            .get_or_create(&Label { kind })
            .set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    registry.register(name, help, family);
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn store(registry: &mut Registry, daemon: &Daemon) {
    let (stats, usage, config) = (
        daemon.store.stats(),
        daemon.store.packs().usage(),
        daemon.store.config(),
    );
    let pressure = stats.pressure;
    gauge(
        registry,
        "dirty_bytes",
        "Written data that is not in packs yet",
        pressure.dirty,
    );
    gauge(
        registry,
        "dirty_budget_bytes",
        "Memory for such data",
        pressure.dirty_limit,
    );
    gauge(
        registry,
        "write_buffer_survives",
        "1 if written data is in shared memory and survives a crash of the daemon",
        u64::from(stats.survives),
    );
    gauge(
        registry,
        "write_buffer_bytes",
        "Shared memory that the write buffer takes",
        stats.shared_memory,
    );
    gauge(
        registry,
        "space_free_bytes",
        "Free space of the store's file system",
        pressure.free,
    );
    gauge(
        registry,
        "space_total_bytes",
        "Size of the store's file system",
        pressure.total,
    );
    gauge(
        registry,
        "space_level",
        "0 ample, 1 from 70 %, 2 from 85 %, 3 from 95 % or when writers are refused",
        pressure.level as u64,
    );
    health(registry, &stats.health);
    gauge(
        registry,
        "journal_used_bytes",
        "Journal in use",
        stats.journal.used,
    );
    gauge(
        registry,
        "journal_capacity_bytes",
        "Journal in all",
        stats.journal.capacity,
    );
    gauge(
        registry,
        "volumes_open",
        "Volumes in use",
        stats.open_volumes as u64,
    );
    gauge(
        registry,
        "recovery_ms",
        "Time that opening the store took",
        stats.recovery.as_millis() as u64,
    );
    gauges(
        registry,
        "cache_bytes",
        "Memory that caches take",
        &[
            ("blocks", usage.block_bytes),
            ("nodes", usage.node_bytes),
            ("headers", usage.header_bytes),
        ],
    );
    gauge(
        registry,
        "cache_budget_bytes",
        "Memory that caches may take",
        config.cache_bytes,
    );
    gauge(
        registry,
        "index_bytes",
        "Memory that the deduplication index takes",
        usage.index_bytes,
    );
    gauge(
        registry,
        "index_entries",
        "Hashes in the deduplication index",
        usage.index_entries,
    );
    gauge(
        registry,
        "index_k",
        "The index samples 1 hash in 2^k",
        u64::from(usage.index_k),
    );
}

/// What is kept apart. Volumes of the trash are left out.
fn modes(registry: &mut Registry, daemon: &Daemon) {
    let volumes = daemon.store.catalog().volumes().unwrap_or_default();
    let live: Vec<_> = volumes.iter().filter(|v| v.trashed.is_none()).collect();
    let count = |mode| live.iter().filter(|v| v.mode == mode).count() as u64;
    let values = DiskMode::ALL.map(|mode| (mode.name(), count(mode)));
    gauges(registry, "volumes", "Volumes by disk mode", &values);
    let waits = |volume: &&&catalog::VolumeRecord| {
        let base = daemon.store.base(volume).ok().flatten();
        volume.mode == DiskMode::Undoable && base.is_some_and(|base| base.changed)
    };
    gauge(
        registry,
        "volumes_undecided",
        "Undoable volumes with writes that are neither kept nor discarded",
        live.iter().filter(waits).count() as u64,
    );
}

fn health(registry: &mut Registry, health: &volume::Health) {
    gauge(
        registry,
        "store_healthy",
        "1, or 0 if something fails or stalls: see store info",
        u64::from(health.is_good()),
    );
    let stalled = health.disk.stalled.as_ref();
    gauge(
        registry,
        "disk_stalled_seconds",
        "For how long the slowest call has been waiting for the disk, if longer than 5 s",
        stalled.map_or(0, |(_, took)| took.as_secs()),
    );
    count(
        registry,
        "disk_stalls",
        "Calls that waited longer than 5 s for the disk",
        health.disk.stalls,
    );
    count(
        registry,
        "disk_errors",
        "Calls that failed because the disk is sick",
        health.disk.errors,
    );
}

fn scrub(registry: &mut Registry, daemon: &Daemon) {
    let status = daemon.scrub.status();
    for (name, help, value) in [
        (
            "scrub_running",
            "1 while a round of scrubbing is under way",
            u64::from(status.running),
        ),
        (
            "scrub_packs_done",
            "Packs looked at in this round",
            status.packs_done,
        ),
        ("scrub_packs", "Packs of this round", status.packs_total),
        (
            "scrub_damaged_packs",
            "Damaged packs found in this round, or the last",
            status.damaged,
        ),
        (
            "scrub_finished_timestamp_seconds",
            "When the last round ended",
            status.finished_ms.unwrap_or(0) / 1000,
        ),
        (
            "damaged_packs",
            "Packs with blocks that are known to be damaged",
            daemon.store.packs().usage().damaged_packs,
        ),
    ] {
        gauge(registry, name, help, value);
    }
    count(
        registry,
        "scrub_read_bytes",
        "Bytes read by scrubbing",
        status.bytes_total,
    );
    count(
        registry,
        "scrub_damage_found",
        "Damaged packs found by scrubbing",
        status.damaged_total,
    );
}

/// Of volumes whose limits held anything back.
fn limits(registry: &mut Registry, daemon: &Daemon) {
    let requests: Family<OfVolume, Counter> = Family::default();
    let seconds: Family<OfVolume, Counter<f64, AtomicU64>> = Family::default();
    for (name, throttled) in daemon.store.throttled() {
        let label = OfVolume {
            volume: name.to_string(),
        };
        requests.get_or_create(&label).inc_by(throttled.requests);
        seconds
            .get_or_create(&label)
            .inc_by(throttled.time.as_secs_f64());
    }
    registry.register(
        "volume_throttled_requests",
        "Requests that waited for a limit of their volume",
        requests,
    );
    registry.register(
        "volume_throttled_seconds",
        "Time in which requests of the volume waited for a limit: its rate is 1 where the volume always wants more",
        seconds,
    );
}

/// Of volumes that are imported while they are used.
fn imports(registry: &mut Registry, daemon: &Daemon) {
    let done: Family<OfVolume, Gauge> = Family::default();
    let total: Family<OfVolume, Gauge> = Family::default();
    let failing: Family<OfVolume, Gauge> = Family::default();
    let paused: Family<OfVolume, Gauge> = Family::default();
    for (name, import) in daemon.importing() {
        let label = OfVolume { volume: name };
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        done.get_or_create(&label).set(bytes(import.done));
        total.get_or_create(&label).set(bytes(import.total));
        let fails = i64::from(import.error.is_some());
        failing.get_or_create(&label).set(fails);
        let waits = i64::from(import.paused);
        paused.get_or_create(&label).set(waits);
    }
    for (name, help, family) in [
        (
            "import_done_bytes",
            "Bytes of the image that are in the store, of a volume that is used while it is imported",
            done,
        ),
        ("import_bytes", "Bytes of the image in all", total),
        (
            "import_failing",
            "1 if the import does not go on: see volume info",
            failing,
        ),
        ("import_paused", "1 if the import is paused", paused),
    ] {
        registry.register(name, help, family);
    }
}

/// Of snapshots that volumes' policies ask for.
fn schedules(registry: &mut Registry, daemon: &Daemon) {
    let figures = daemon.schedules.figures();
    for (name, help, value) in [
        (
            "scheduled_snapshots_taken",
            "Snapshots taken as scheduled",
            figures.taken,
        ),
        (
            "scheduled_snapshots_removed",
            "Scheduled snapshots removed as they had expired",
            figures.removed,
        ),
        (
            "scheduled_snapshots_failed",
            "Scheduled snapshots that were not taken, or not removed",
            figures.failed,
        ),
    ] {
        count(registry, name, help, value);
    }
    let last: Family<OfVolume, Gauge> = Family::default();
    let failing: Family<OfVolume, Gauge> = Family::default();
    let volumes = daemon.store.catalog().volumes().unwrap_or_default();
    for record in volumes.iter().filter(|v| v.trashed.is_none()) {
        let Some(policy) = record.policy.as_deref().filter(|p| !p.schedule.is_empty()) else {
            continue;
        };
        let label = OfVolume {
            volume: record.name.to_string(),
        };
        let seconds = policy.last_ms.unwrap_or(0) / 1000;
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        last.get_or_create(&label).set(seconds);
        let fails = i64::from(daemon.schedules.is_failing(record.id));
        failing.get_or_create(&label).set(fails);
    }
    registry.register(
        "scheduled_snapshot_timestamp_seconds",
        "When the last scheduled snapshot of the volume was taken; 0: none yet",
        last,
    );
    registry.register(
        "scheduled_snapshot_failing",
        "1 if the volume's last scheduled snapshot was not taken, or what has expired cannot be removed: see volume info",
        failing,
    );
}

fn nbd(registry: &mut Registry, daemon: &Daemon) {
    let stats = daemon.nbd.stats();
    gauge(
        registry,
        "nbd_connections",
        "NBD clients",
        daemon.nbd.connections().len() as u64,
    );
    count(
        registry,
        "nbd_accepted",
        "NBD connections accepted",
        stats.connections,
    );
    count(
        registry,
        "nbd_refused",
        "NBD connections refused",
        stats.connections_refused,
    );
    count(
        registry,
        "nbd_errors",
        "NBD requests answered with an error",
        stats.errors,
    );
    count(
        registry,
        "nbd_read_bytes",
        "Bytes read over NBD",
        stats.bytes_read,
    );
    count(
        registry,
        "nbd_written_bytes",
        "Bytes written over NBD",
        stats.bytes_written,
    );
    for (name, help, value) in [
        ("nbd_reads", "NBD READ requests", stats.reads),
        ("nbd_writes", "NBD WRITE requests", stats.writes),
        ("nbd_flushes", "NBD FLUSH requests", stats.flushes),
        ("nbd_trims", "NBD TRIM requests", stats.trims),
        (
            "nbd_write_zeroes",
            "NBD WRITE_ZEROES requests",
            stats.write_zeroes,
        ),
        (
            "nbd_block_statuses",
            "NBD BLOCK_STATUS requests",
            stats.block_statuses,
        ),
    ] {
        count(registry, name, help, value);
    }
}

fn vhost(registry: &mut Registry, daemon: &Daemon) {
    let figures = daemon.vhost.figures();
    for (name, help, value) in [
        ("vhost_devices", "vhost-user-blk devices", figures.devices),
        (
            "vhost_failed_devices",
            "vhost-user-blk devices that should be served and are not",
            figures.failed,
        ),
        ("vhost_guests", "vhost-user-blk guests", figures.guests),
    ] {
        gauge(registry, name, help, value);
    }
    let stats = figures.stats;
    for (name, help, value) in [
        ("vhost_accepted", "Guests accepted", stats.connections),
        (
            "vhost_refused",
            "Guests refused because the device had one",
            stats.connections_refused,
        ),
        (
            "vhost_errors",
            "vhost-user-blk requests answered with an error",
            stats.errors,
        ),
        (
            "vhost_read_bytes",
            "Bytes read over vhost-user-blk",
            stats.bytes_read,
        ),
        (
            "vhost_written_bytes",
            "Bytes written over vhost-user-blk",
            stats.bytes_written,
        ),
        ("vhost_reads", "vhost-user-blk reads", stats.reads),
        ("vhost_writes", "vhost-user-blk writes", stats.writes),
        ("vhost_flushes", "vhost-user-blk flushes", stats.flushes),
        ("vhost_discards", "vhost-user-blk discards", stats.discards),
        (
            "vhost_write_zeroes",
            "vhost-user-blk write-zeroes requests",
            stats.write_zeroes,
        ),
        (
            "vhost_resumed",
            "Requests that were in flight when a daemon ended, and were done again",
            stats.resumed,
        ),
        (
            "vhost_wakeups",
            "Times that a queue woke up for requests",
            stats.wakeups,
        ),
        (
            "vhost_calls",
            "Times that a guest was told of answers",
            stats.calls,
        ),
        (
            "vhost_broken_queues",
            "Queues that were stopped because a guest broke them",
            stats.broken_queues,
        ),
    ] {
        count(registry, name, help, value);
    }
}
