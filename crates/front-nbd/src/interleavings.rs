//! Replies on their way, and workers, in orders that a seed chooses: see `sync::model`.

use crate::{
    budget::Budget,
    buffer::{Buffer, Recycler},
    outbox::{Commons, Outbox},
    socket::Socket,
};
use env::{Pool, Task};
use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};
use sync::{
    atomic::{AtomicU64, Ordering::SeqCst},
    model::{explore, random},
    thread::{JoinHandle, yield_now},
};

/// Bytes of a reply: a few of them fill the socket.
const REPLY: usize = 3000;
/// Replies that each of three threads has.
const REPLIES: u8 = 4;
/// Bytes that may be in flight.
const IN_FLIGHT: u64 = 2 * REPLY as u64;

fn reply(number: u8) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.grow(REPLY).fill(number);
    buffer
}

/// A connection, and the client's side of it.
fn connection() -> (Arc<Outbox>, UnixStream) {
    let (ours, client) = UnixStream::pair().expect("a pair of sockets");
    client.set_nonblocking(true).expect("a socket's mode");
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).expect("a socket's buffer");
    let commons = Arc::new(Commons {
        budget: Budget::new(IN_FLIGHT),
        recycler: Recycler::default(),
    });
    let socket = Socket::new(ours.into()).expect("a socket");
    let outbox = Outbox::new(socket, commons, Duration::from_secs(3600), IN_FLIGHT, 0);
    (Arc::new(outbox), client)
}

/// Takes `most` replies, slowly, and hangs up; answers which they were.
fn client(mut stream: UnixStream, most: usize) -> JoinHandle<Vec<u8>> {
    let body = move || {
        let mut bytes = Vec::new();
        let mut piece = [0; REPLY / 2];
        while bytes.len() < most * REPLY {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
        let whole = bytes.chunks_exact(REPLY);
        let number = |reply: &[u8]| {
            assert!(reply.iter().all(|byte| *byte == reply[0]), "replies mix");
            reply[0]
        };
        whole.map(number).collect()
    };
    env::spawn("client", body).expect("a thread")
}

/// Threads that answer jobs, and the reader, which answers some itself: until the connection is broken.
fn answer(outbox: &Arc<Outbox>) {
    let workers: Vec<_> = [0, 1]
        .into_iter()
        .map(|worker| {
            let outbox = Arc::clone(outbox);
            let body = move || {
                for number in 0..REPLIES {
                    let Ok(Some(cost)) = outbox.admit(REPLY as u64) else {
                        return;
                    };
                    outbox.send_reply(reply(worker * REPLIES + number), Some(cost));
                }
            };
            env::spawn("worker", body).expect("a thread")
        })
        .collect();
    for number in 0..REPLIES {
        if outbox
            .send_gathered(&mut reply(2 * REPLIES + number))
            .is_err()
        {
            break;
        }
    }
    for worker in workers {
        worker.join().expect("a worker");
    }
    outbox.finish(|| {});
    assert!(!outbox.has_jobs());
}

/// Every reply arrives once and whole, each thread's in its order, whoever sends them.
#[test]
fn every_reply_arrives_once_and_whole() {
    explore(320, || {
        let (outbox, stream) = connection();
        let client = client(stream, 3 * usize::from(REPLIES));
        answer(&outbox);
        let arrived = client.join().expect("the client");
        for sender in 0..3 {
            let of_sender = arrived.iter().filter(|n| **n / REPLIES == sender);
            let wanted: Vec<u8> = (0..REPLIES).map(|n| sender * REPLIES + n).collect();
            assert_eq!(of_sender.copied().collect::<Vec<_>>(), wanted);
        }
    });
}

/// A client that hangs up at any moment ends everybody, and what was in flight is given back.
#[test]
fn a_client_that_hangs_up_leaves_nobody_waiting() {
    explore(320, || {
        let (outbox, stream) = connection();
        let client = client(stream, random(8) as usize);
        answer(&outbox);
        client.join().expect("the client");
        let all = outbox.commons().budget.try_take(IN_FLIGHT);
        assert!(all, "something is in flight for ever");
    });
}

struct Count(Arc<AtomicU64>, u64);

impl Task for Count {
    fn owner(&self) -> u64 {
        self.1
    }
    fn cost(&self) -> u64 {
        1
    }
    fn run(self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Whatever was queued is done before the pool has stopped.
#[test]
fn a_pool_does_everything_once() {
    explore(1000, || {
        let pool = Arc::new(Pool::new("test", 1 + random(2) as usize));
        let done = Arc::new(AtomicU64::new(0));
        let submitters = [0, 1].map(|owner| {
            let (pool, done) = (Arc::clone(&pool), Arc::clone(&done));
            let body = move || (0..3).for_each(|_| pool.submit(Count(Arc::clone(&done), owner)));
            env::spawn("submitter", body).expect("a thread")
        });
        for submitter in submitters {
            submitter.join().expect("a submitter");
        }
        // Stopping wakes everybody: so wait for what must be done without it.
        while done.load(SeqCst) < 6 {
            yield_now();
        }
        pool.stop();
        assert_eq!(done.load(SeqCst), 6);
    });
}
