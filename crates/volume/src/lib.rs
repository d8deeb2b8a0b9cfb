//! Volumes: generations, write and read paths, destaging, snapshots.
