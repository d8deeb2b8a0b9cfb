//! Whether the files of volumes are what the catalog says.

use super::{Files, Result};
use crate::daemon::control::Daemon;
use api_types::{Finding, Severity, VerifyReport};
use catalog::{ImageFile, VolumeRecord};
use file_disk::{ErrorKind, Found, Place};
use std::{collections::BTreeMap, path::PathBuf};
use types::FileFormat;

/// Files that nobody knows are looked for in so many directories of instances, of each directory that is allowed.
const INSTANCES_MAX: usize = 100_000;

fn finding(severity: Severity, code: &str, object: &str, message: String) -> Finding {
    Finding {
        severity,
        code: code.to_owned(),
        object: object.to_owned(),
        message,
    }
}

impl Daemon {
    pub(in crate::daemon) fn verify_files(&self) -> Result<VerifyReport> {
        let records = self.records()?;
        let mut report = VerifyReport::default();
        let mut owners: BTreeMap<PathBuf, String> = BTreeMap::new();
        for record in &records {
            let Some(file) = record.backend.file() else {
                continue;
            };
            report.volumes += 1;
            let place = self.files.place(file);
            self.files.verify_one(record, file, &mut report.findings);
            if let Some(other) = owners.insert(place.full(), record.name.to_string()) {
                let message = format!("{place} is the file of '{other}', too");
                let name = record.name.as_str();
                report
                    .findings
                    .push(finding(Severity::Error, "EFILESHARED", name, message));
            }
        }
        for stray in self.files.strays(&owners) {
            let message = "no volume has this file: take it with 'volume create NAME --backend file --reuse', or remove it";
            let object = stray.to_string();
            report.findings.push(finding(
                Severity::Warning,
                "EFILEORPHAN",
                &object,
                message.to_owned(),
            ));
        }
        Ok(report)
    }
}

impl Files {
    fn verify_one(&self, record: &VolumeRecord, file: &ImageFile, findings: &mut Vec<Finding>) {
        let (name, place) = (record.name.as_str(), self.place(file));
        let mut add =
            |severity, code, message| findings.push(finding(severity, code, name, message));
        if !self.roots.allows(&place.root) {
            let message =
                format!("{place} is in a directory that the configuration does not allow");
            add(Severity::Error, "EFILEDIR", message);
        }
        if !place.path.ends_with(file_disk::disk_path(&record.name)) {
            let should = file_disk::disk_path(&record.name);
            let message = format!("{place} should be named {}", should.display());
            add(Severity::Warning, "EFILENAME", message);
        }
        let found = match file_disk::look(&self.env, &place) {
            Ok(found) => found,
            Err(e) => {
                let code = match e.kind() {
                    ErrorKind::NotFound => "EFILEMISSING",
                    ErrorKind::Refused | ErrorKind::Invalid => "EFILETYPE",
                    _ => "EFILEREAD",
                };
                add(Severity::Error, code, e.to_string());
                return;
            }
        };
        match (file.format, found.format) {
            (FileFormat::Raw, FileFormat::Qcow2) => {
                let message =
                    format!("{place} is raw by the catalog and begins as a qcow2 image does");
                add(Severity::Warning, "EFILEFORMAT", message);
            }
            (expected, is) if expected != is => {
                let message = format!("{place} is {is}, the catalog says {expected}");
                add(Severity::Error, "EFILEFORMAT", message);
                return;
            }
            _ => {}
        }
        if let Some((severity, message)) = size(record, file, &place, &found) {
            add(severity, "EFILESIZE", message);
        }
        if let Some(trouble) = found.trouble.filter(|_| file.format == FileFormat::Qcow2) {
            add(
                Severity::Error,
                "EFILEDAMAGED",
                format!("{place}: {trouble}"),
            );
        }
    }

    /// Files named as those of volumes that no volume has.
    fn strays(&self, owners: &BTreeMap<PathBuf, String>) -> Vec<Place> {
        let list = |dir: PathBuf| {
            let mut names = self.env.files.list(&dir).unwrap_or_default();
            names.sort();
            names.into_iter().take(INSTANCES_MAX)
        };
        let is_disk = |name: &PathBuf| {
            let name = name.to_string_lossy();
            name.strip_prefix("disk").is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let mut strays = Vec::new();
        for root in self.roots.all() {
            for instance in list(root.to_owned()) {
                for disk in list(root.join(&instance)).filter(is_disk) {
                    let place = Place {
                        root: root.to_owned(),
                        path: instance.join(disk),
                    };
                    if !owners.contains_key(&place.full()) {
                        strays.push(place);
                    }
                }
            }
        }
        strays
    }
}

fn size(
    record: &VolumeRecord,
    file: &ImageFile,
    place: &Place,
    found: &Found,
) -> Option<(Severity, String)> {
    let len = match file.format {
        FileFormat::Raw => found.len,
        FileFormat::Qcow2 => found.size,
    };
    let message = || {
        format!(
            "{place} is a disk of {len} bytes, the catalog says {}",
            record.size
        )
    };
    match len.cmp(&record.size) {
        std::cmp::Ordering::Less => Some((Severity::Error, message())),
        std::cmp::Ordering::Greater => Some((Severity::Warning, message())),
        std::cmp::Ordering::Equal => None,
    }
}
