//! An inflight region as anybody could have left it, and the first bytes of requests: what is to be done again is there,
//! once, and the same when it is looked at again.

use crate::input::Input;
use front_vhost::testing::recover_inflight;

/// A region of these bytes, for a queue of some size.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let size = 1 << input.below(6);
    let used = input.u16();
    let mut region = input.rest().to_vec();
    region.resize((16 + 16 * usize::from(size)).next_multiple_of(64), 0);
    let fresh = region[8..10] == [0, 0];
    let [first, second] = recover_inflight(&region, size, used).expect("memory");
    let Ok(again) = &first else {
        return;
    };
    assert!(again.iter().all(|&head| head < size));
    let number = |head: u16| {
        let at = 24 + 16 * usize::from(head);
        u64::from_le_bytes(region[at..at + 8].try_into().expect("8 bytes"))
    };
    assert!(
        again.is_sorted_by_key(|&head| number(head)),
        "not in their order"
    );
    let mut heads = again.clone();
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), again.len(), "a request would be done twice");
    assert!(fresh || first == second, "it changes as it is looked at");
}

/// A fresh region, and ones that were used: nothing to be done, something, and a batch that was cut short.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let region = |used: u16, last: u8, marks: &[(u8, u8)]| {
        let mut bytes = vec![2];
        bytes.extend(used.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend([1, 0, 4, 0, last, 0, 2, 0]);
        for head in 0..4 {
            let counter = marks.iter().find(|(marked, _)| *marked == head);
            bytes.extend([u8::from(counter.is_some()), 0, 0, 0, 0, 0, 3 - head, 0]);
            bytes.extend([
                counter.map_or(0, |&(_, counter)| counter),
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
        bytes
    };
    vec![
        vec![],
        vec![3, 0, 0],
        region(2, 0, &[]),
        region(2, 0, &[(1, 7), (3, 2)]),
        region(4, 2, &[(2, 0), (1, 1), (0, 2)]),
        region(1, 9, &[(2, 0)]),
    ]
}
