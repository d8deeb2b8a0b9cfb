//! Where files may be, and that nobody is led elsewhere.

use env::Env;
use file_disk::{ErrorKind, Open, Place, create, look, open};
use std::{fs, os::unix::fs::symlink, path::Path};
use types::{FileDriver, FileFormat};

const RAW: Open = Open {
    format: FileFormat::Raw,
    driver: FileDriver::Threads,
    read_only: false,
};

fn place(root: &Path, path: &str) -> Place {
    Place {
        root: root.to_owned(),
        path: path.into(),
    }
}

#[test]
fn symbolic_links_are_followed_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir_all(root.join("vm")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("disk0"), vec![7; 1 << 20]).unwrap();
    symlink(outside.join("disk0"), root.join("vm/disk0")).unwrap();
    symlink(&outside, root.join("linked")).unwrap();
    symlink("vm", root.join("within")).unwrap();
    for path in ["vm/disk0", "linked/disk0", "within/disk0"] {
        let place = place(&root, path);
        assert_eq!(
            open(&env, &place, RAW, 1 << 20).err().unwrap().kind(),
            ErrorKind::Refused,
            "{path}"
        );
        assert_eq!(
            look(&env, &place).unwrap_err().kind(),
            ErrorKind::Refused,
            "{path}"
        );
    }
    for path in ["linked/disk1", "linked/new/disk0"] {
        let refused = create(&env, &place(&root, path), 1 << 20, RAW).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{path}");
    }
    // A link where the file is to be is something that is there.
    let there = create(&env, &place(&root, "vm/disk0"), 1 << 20, RAW).unwrap_err();
    assert_eq!(there.kind(), ErrorKind::Exists);
    assert_eq!(
        place(&root, "linked/disk0")
            .remove(&env)
            .unwrap_err()
            .kind(),
        ErrorKind::Refused
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        1,
        "nothing was made or removed outside"
    );
    assert_eq!(fs::read(outside.join("disk0")).unwrap(), vec![7; 1 << 20]);
}

#[test]
fn ways_out_and_what_is_no_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    fs::create_dir_all(dir.path().join("root/dir")).unwrap();
    fs::write(dir.path().join("secret"), b"x").unwrap();
    let root = dir.path().join("root");
    assert_eq!(
        look(&env, &place(&root, "../secret")).unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(
        look(&env, &place(&root, "dir")).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        look(&env, &place(&root, "none")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let fifo = root.join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        look(&env, &place(&root, "fifo")).unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn a_file_is_made_once_sparse_and_goes_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let place = place(dir.path(), "a/b/disk0");
    create(&env, &place, 64 << 20, RAW).unwrap();
    let found = look(&env, &place).unwrap();
    assert_eq!((found.size, found.format), (64 << 20, FileFormat::Raw));
    assert!(found.allocated < 1 << 20, "{found:?}");
    fs::write(place.full(), vec![1; 1 << 20]).unwrap();
    assert_eq!(
        create(&env, &place, 1 << 20, RAW).unwrap_err().kind(),
        ErrorKind::Exists
    );
    assert_eq!(fs::read(place.full()).unwrap(), vec![1; 1 << 20]);
    place.remove(&env).unwrap();
    assert!(!dir.path().join("a/b").exists());
    assert_eq!(place.remove(&env).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_file_moves_by_a_second_name_and_over_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let (from, to) = (place(dir.path(), "a/disk0"), place(dir.path(), "b/disk0"));
    create(&env, &from, 1 << 20, RAW).unwrap();
    from.link(&env, &to).unwrap();
    assert!(from.full().exists() && to.full().exists());
    assert_eq!(from.link(&env, &to).unwrap_err().kind(), ErrorKind::Exists);
    from.remove(&env).unwrap();
    assert!(!from.full().exists() && to.full().exists());
}

#[test]
fn a_guest_cannot_make_its_raw_disk_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let place = place(dir.path(), "vm/disk0");
    create(&env, &place, 1 << 20, RAW).unwrap();
    let disk = open(&env, &place, RAW, 1 << 20).unwrap();
    let head = b"QFI\xfb\0\0\0\x03 and what a guest likes";
    disk.write(0, head, block::Durability::Durable).unwrap();
    drop(disk);
    let disk = open(&env, &place, RAW, 1 << 20).unwrap();
    let mut back = vec![0; head.len()];
    disk.read(0, &mut back).unwrap();
    assert_eq!((back.as_slice(), disk.info().size), (&head[..], 1 << 20));
}
