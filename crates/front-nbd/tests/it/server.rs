use crate::{client::Client, client::NONE, world};
use nbd_proto::{reply::Style, request::Command};
use std::{
    io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn sockets_are_taken_over_only_from_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    drop(UnixListener::bind(&path).unwrap());
    let first = world();
    first.server.listen_unix(&path, 0o660).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut client = Client::greet(UnixStream::connect(&path).unwrap());
    client.go("disk");
    let second = world();
    let error = second.server.listen_unix(&path, 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another server listens there"));
    assert_eq!(client.read(0, 1), Ok(vec![0]));
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(first.server.listen_unix(&file, 0o600).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert_eq!(first.server.shutdown(PATIENCE), 0);
    assert!(!path.exists());
    second.server.listen_unix(&path, 0o600).unwrap();
}

#[test]
fn tcp_is_for_this_host() {
    let world = world();
    let far = world.server.listen_tcp("0.0.0.0:0".parse().unwrap());
    assert_eq!(far.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let at = world
        .server
        .listen_tcp("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let stream = std::net::TcpStream::connect(at).unwrap();
    let peer = stream.local_addr().unwrap().to_string();
    let mut client = Client::greet(OwnedFd::from(stream).into());
    client.go("disk");
    client.write(NONE, 5, b"hello").unwrap();
    assert_eq!(client.read(5, 5).unwrap(), b"hello");
    let [info] = &world.server.connections()[..] else {
        panic!("one connection")
    };
    assert_eq!(info.peer, peer);
    assert_eq!(info.export.as_deref(), Some("disk"));
    assert_eq!(
        (info.requests, info.bytes_written, info.bytes_read),
        (2, 5, 5)
    );
    assert!(world.server.disconnect(info.id) && !world.server.disconnect(77));
    assert!(client.was_closed());
}

#[test]
fn a_socket_that_listens_already_is_adopted_and_left_open() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    world
        .server
        .adopt(listener.try_clone().unwrap().into())
        .unwrap();
    let stream = std::net::TcpStream::connect(at).unwrap();
    let mut client = Client::greet(OwnedFd::from(stream).into());
    client.go("disk");
    assert_eq!(client.read(0, 1), Ok(vec![0]));
    assert_eq!(world.server.shutdown(PATIENCE), 0);
    assert!(client.was_closed());
    // The next server gets the same socket.
    std::net::TcpStream::connect(at).unwrap();
}

#[test]
fn shutdown_lets_requests_finish() {
    let world = world();
    let mut busy = Client::open(&world.server, "gate", Style::Simple);
    let idle = Client::open(&world.server, "disk", Style::Simple);
    let new = Client::connect(&world.server);
    let cookie = busy.send(Command::Flush, NONE, 0, 0, &[]);
    world.gate.wait_for(1);
    let world = std::sync::Arc::new(world);
    let ending = world.clone();
    let shutdown = env::spawn("end", move || ending.server.shutdown(PATIENCE)).unwrap();
    assert!(idle.was_closed());
    assert!(new.was_closed());
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert!(world.server.serve_stream(theirs.into()).is_err());
    world.gate.open();
    assert_eq!(busy.answer().cookie, cookie);
    assert!(busy.was_closed());
    assert_eq!(shutdown.join().unwrap(), 0);
    assert!(world.server.connections().is_empty());
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let world = world();
    let mut stuck = Client::open(&world.server, "gate", Style::Simple);
    stuck.send(Command::Flush, NONE, 0, 0, &[]);
    world.gate.wait_for(1);
    assert_eq!(world.server.shutdown(Duration::ZERO), 1);
    assert!(stuck.was_closed());
    world.gate.open();
}

/// The priorities of this process's threads for connections, as the kernel tells them.
fn priorities() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")));
    let of = |stat: String| {
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        // Fields 3 and on; 19 is the priority.
        let nice = rest.split(' ').nth(16).unwrap().parse().unwrap();
        name.contains("(nbd-conn").then_some(nice)
    };
    let mut found: Vec<i32> = stats.flatten().filter_map(of).collect();
    found.sort_unstable();
    found
}

#[test]
fn connections_of_one_export_share_what_one_gets() {
    let world = world();
    let mut clients: Vec<_> = ["disk", "disk", "gate"]
        .map(|export| Client::open(&world.server, export, Style::Simple))
        .into();
    for client in &mut clients[..2] {
        client.read(0, 1).unwrap();
    }
    clients[2].send(Command::BlockStatus, NONE, 0, 1, &[]);
    clients[2].answer();
    let [lone, first, second] = priorities()[..] else {
        panic!("three connections")
    };
    assert_eq!([first, second], [lone + 3; 2]);
}
