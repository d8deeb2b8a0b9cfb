use super::*;
use sim::SimEnv;

const DISK: VolumeId = VolumeId(7);
const GRACE: Duration = Duration::from_secs(60);

/// A machine on a clock that is moved by hand.
struct World {
    sim: SimEnv,
    power: Power,
}

impl World {
    fn new(grace: Option<Duration>) -> Self {
        let sim = SimEnv::new(1);
        let power = Power::new(sim.env().clock, grace);
        World { sim, power }
    }

    fn left(&self, by_itself: bool, wrote: bool) {
        self.power.left(DISK, Departure { by_itself, wrote });
    }

    /// Whether the machine counts as powered off after so many seconds.
    fn due_after(&self, seconds: u64) -> bool {
        self.sim.advance(Duration::from_secs(seconds));
        self.power.due() == [DISK]
    }
}

#[test]
fn who_wrote_and_left_is_off_after_the_grace_time() {
    let world = World::new(Some(GRACE));
    assert!(!world.due_after(3600), "nobody has left");
    world.left(true, true);
    assert!(!world.due_after(59));
    assert!(world.due_after(1));
    world.power.off(DISK);
    assert!(!world.due_after(3600), "once is enough");
    assert_eq!(world.power.of(DISK), (Some(Seen::Off), None));
}

#[test]
fn who_only_read_is_no_machine() {
    let world = World::new(Some(GRACE));
    world.left(true, false);
    assert!(!world.due_after(3600));
    // But the time is counted from the last one that leaves.
    world.left(true, true);
    assert!(!world.due_after(50));
    world.left(true, false);
    assert!(!world.due_after(59));
    assert!(world.due_after(1));
}

#[test]
fn who_is_cut_off_comes_again() {
    let world = World::new(Some(GRACE));
    world.left(true, true);
    world.left(false, true);
    assert!(!world.due_after(3600));
    assert_eq!(world.power.of(DISK), (None, None));
}

#[test]
fn without_a_grace_time_nobody_is_off() {
    let world = World::new(None);
    world.left(true, true);
    assert!(!world.due_after(1 << 30));
}

/// A look at the disk's guest: since when, the how manyth, and what was written in all.
fn guest(since: Option<u64>, came: u64, writes: u64) -> [(VolumeId, Guest); 1] {
    let guest = Guest {
        since: since.map(Duration::from_secs),
        came,
        writes,
        writes_before: 0,
    };
    [(DISK, guest)]
}

#[test]
fn guests_are_seen_to_leave_between_two_looks() {
    let world = World::new(Some(GRACE));
    world.power.look(&guest(Some(1), 1, 5));
    world.power.look(&guest(Some(1), 1, 5));
    assert!(!world.due_after(3600), "it is there");
    world.power.look(&guest(None, 1, 9));
    assert!(world.due_after(60));
    world.power.off(DISK);
    // The next one only reads.
    world.power.look(&guest(Some(2), 2, 9));
    world.power.look(&guest(None, 2, 9));
    assert!(!world.due_after(60));
    // One came and left between two looks, the next is there and leaves.
    world.power.look(&guest(Some(3), 3, 10));
    world.power.look(&guest(Some(4), 4, 11));
    assert!(world.due_after(60), "who is there is looked at elsewhere");
    world.power.look(&guest(None, 4, 11));
    world.power.off(DISK);
    // One that was never seen.
    world.power.look(&guest(None, 5, 12));
    assert!(world.due_after(60));
}

#[test]
fn guests_whose_server_went_away_are_cut_off() {
    let world = World::new(Some(GRACE));
    world.power.look(&guest(Some(1), 1, 5));
    world.power.look(&[]);
    assert!(!world.due_after(3600), "it is served no longer");
    world.power.look(&guest(Some(1), 1, 5));
    world.power.look(&guest(None, 0, 0));
    assert!(!world.due_after(3600), "it is served by another server");
    world.power.look(&guest(None, 1, 1));
    assert!(world.due_after(60), "of which the first guest has left");
}
