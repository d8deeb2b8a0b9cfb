//! The daemon: one process that has a store open and serves it.

mod check;
mod collect;
mod config;
mod connect;
mod control;
mod convert;
mod diff;
mod exports;
mod files;
mod fills;
mod group;
mod images;
mod metrics;
mod modes;
mod news;
mod power;
mod readers;
mod schedules;
mod scrub;
mod serve;
mod upkeep;
mod vhost;

pub(crate) use check::check_closed;
pub(crate) use serve::{ServeOptions, init, serve};
