//! A queue whose owners take turns: deficit round robin.

use std::collections::{HashMap, VecDeque};

/// What one turn gives. An owner whose first task takes more saves its turns up.
const QUANTUM: u64 = 128 << 10;

/// What a task costs at most: who asks for the turn looks at each turn that is saved up.
const COST_MAX: u64 = 64 * QUANTUM;

/// What waits, by owner.
pub(crate) struct Turns<T> {
    lanes: HashMap<u64, Lane<T>>,
    /// Owners with something that waits and may be taken; the first has the turn.
    order: VecDeque<u64>,
    /// Of one owner, that are taken and not done.
    taken_max: usize,
    ready: usize,
}

struct Lane<T> {
    waiting: VecDeque<(u64, T)>,
    taken: usize,
    credit: u64,
}

impl<T> Turns<T> {
    /// An empty one, from which nobody takes more than `taken_max` tasks of one owner at a time.
    pub(crate) fn new(taken_max: usize) -> Self {
        Turns {
            lanes: HashMap::new(),
            order: VecDeque::new(),
            taken_max: taken_max.max(1),
            ready: 0,
        }
    }

    /// How many may be taken.
    pub(crate) const fn ready(&self) -> usize {
        self.ready
    }

    /// At the end of the owner's.
    pub(crate) fn push(&mut self, owner: u64, cost: u64, task: T) {
        let lane = self.lanes.entry(owner).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            taken: 0,
            credit: 0,
        });
        lane.waiting.push_back((cost.min(COST_MAX), task));
        if lane.waiting.len() <= self.taken_max - lane.taken {
            self.ready += 1;
        }
        if lane.waiting.len() == 1 && lane.taken < self.taken_max {
            self.order.push_back(owner);
        }
    }

    /// The next one, and whose it is. It counts as taken until [`done`](Self::done).
    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        loop {
            let owner = self.order.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&owner) else {
                continue;
            };
            let Some(&(cost, _)) = lane.waiting.front() else {
                continue;
            };
            if lane.credit < cost {
                lane.credit += QUANTUM;
                self.order.push_back(owner);
                continue;
            }
            lane.credit -= cost;
            lane.taken += 1;
            self.ready -= 1;
            let task = lane.waiting.pop_front().map(|(_, task)| task);
            if lane.waiting.is_empty() {
                // Turns are not saved up for later.
                lane.credit = 0;
            } else if lane.taken < self.taken_max {
                // It still has the turn, as far as that goes.
                self.order.push_front(owner);
            }
            return task.map(|task| (owner, task));
        }
    }

    /// A task of that owner is not taken any more.
    pub(crate) fn done(&mut self, owner: u64) {
        let Some(lane) = self.lanes.get_mut(&owner) else {
            return;
        };
        if lane.waiting.len() > self.taken_max - lane.taken {
            self.ready += 1;
        }
        if lane.taken == self.taken_max && !lane.waiting.is_empty() {
            self.order.push_back(owner);
        }
        lane.taken -= 1;
        if lane.taken == 0 && lane.waiting.is_empty() {
            self.lanes.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, one task at a time; whose they are.
    fn owners(turns: &mut Turns<()>) -> Vec<u64> {
        let mut owners = Vec::new();
        while let Some((owner, ())) = turns.pop() {
            turns.done(owner);
            owners.push(owner);
        }
        owners
    }

    #[test]
    fn a_greedy_owner_waits_and_modest_ones_do_not() {
        let mut turns = Turns::new(16);
        (0..1000).for_each(|_| turns.push(0, QUANTUM, ()));
        (1..4).for_each(|owner| turns.push(owner, QUANTUM, ()));
        let order = owners(&mut turns);
        assert_eq!(order.len(), 1003);
        for owner in 1..4 {
            let place = order.iter().position(|&o| o == owner).unwrap();
            assert!(place < 4, "{owner} is number {place}");
        }
        assert!(turns.lanes.is_empty() && turns.ready() == 0);
    }

    #[test]
    fn turns_are_of_equal_cost_whatever_a_task_takes() {
        let mut turns = Turns::new(16);
        let costs = [QUANTUM / 32, QUANTUM / 3, QUANTUM * 5];
        for (owner, cost) in costs.into_iter().enumerate() {
            (0..100_000 * 64 / (cost / 64)).for_each(|_| turns.push(owner as u64, cost, ()));
        }
        let mut spent = [0; 3];
        for _ in 0..2000 {
            let (owner, ()) = turns.pop().unwrap();
            turns.done(owner);
            spent[owner as usize] += costs[owner as usize];
        }
        let (least, most) = (spent.iter().min().unwrap(), spent.iter().max().unwrap());
        assert!(most - least <= 7 * QUANTUM, "{spent:?}");
    }

    #[test]
    fn nobody_has_more_than_so_many_taken() {
        let mut turns = Turns::new(2);
        (0..5).for_each(|n| turns.push(7, 1, n));
        assert_eq!(turns.ready(), 2);
        assert_eq!((turns.pop(), turns.pop()), (Some((7, 0)), Some((7, 1))));
        assert_eq!((turns.pop(), turns.ready()), (None, 0));
        // Others are not kept from theirs.
        turns.push(8, 1, 9);
        assert_eq!((turns.ready(), turns.pop()), (1, Some((8, 9))));
        turns.done(7);
        assert_eq!((turns.ready(), turns.pop()), (1, Some((7, 2))));
        turns.done(7);
        turns.done(7);
        assert_eq!((turns.pop(), turns.pop()), (Some((7, 3)), Some((7, 4))));
        assert_eq!(turns.pop(), None);
        (0..2).for_each(|_| turns.done(7));
        turns.done(8);
        assert!(turns.lanes.is_empty());
    }
}
