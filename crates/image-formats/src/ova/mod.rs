//! OVA: a machine in a tar file, read from its beginning to its end (DMTF DSP0243, "Open Virtualization Format").
//!
//! ```text
//!  descriptor (OVF) ─ manifest? ─ certificate? ─ disks and other files…      the manifest may come at the end, too
//! ```
//!
//! Members are read as they come, and nothing is unpacked: what a member is called is compared with what the descriptor
//! and the manifest say, and is never a path.

mod manifest;
mod ovf;
mod tar;

use crate::error::{Error, shorten};
use flate2::read::MultiGzDecoder;
use manifest::{Digests, Manifest};
use ovf::Ovf;
use std::{
    collections::HashMap,
    io::{self, Read},
};
use tar::{Kind, Tar};

pub use ovf::{OvfDisk, OvfFile};

const DESCRIPTOR_MAX: u64 = 4 << 20;
const MANIFEST_MAX: u64 = 1 << 20;
const MEMBERS_MAX: usize = 4096;

/// Reads one.
pub struct Ova<R> {
    tar: Tar<R>,
    ovf: Ovf,
    /// The descriptor's own name.
    descriptor: String,
    manifest: Option<Manifest>,
    /// What was read of each member, as far as it is not compared with the manifest yet; none if it is.
    members: HashMap<String, Option<Digests>>,
    /// The member that is being read.
    current: Option<String>,
    certificate: bool,
}

impl<R: Read> Ova<R> {
    /// Reads the descriptor.
    ///
    /// # Errors
    /// If it is not first, or makes no sense.
    pub fn open(reader: R, shown: &str) -> Result<Self, Error> {
        let mut tar = Tar::new(reader, shown);
        let first = loop {
            match tar.next()? {
                Some(member) if member.kind == Kind::Directory => {}
                first => break first,
            }
        };
        let first = first.ok_or_else(|| tar.damaged("there is nothing in it"))?;
        if !has_ending(&first.name, ".ovf") || first.kind != Kind::File {
            return Err(tar.damaged(&format!(
                "it begins with {}, not with the descriptor (.ovf): pack it again with that first",
                shorten(&first.name)
            )));
        }
        tar.digest(Digests::all());
        let text = tar.read_all(DESCRIPTOR_MAX)?;
        let ovf = Ovf::parse(&text).map_err(|what| tar.damaged(&what))?;
        let digests = tar.finish_member()?;
        Ok(Ova {
            tar,
            ovf,
            members: HashMap::from([(first.name.clone(), digests)]),
            descriptor: first.name,
            manifest: None,
            current: None,
            certificate: false,
        })
    }

    /// The disks, as the descriptor lists them.
    #[must_use]
    pub fn disks(&self) -> &[OvfDisk] {
        &self.ovf.disks
    }

    /// Reads on to the next member that is the file of a disk, and answers which; none at the end.
    ///
    /// # Errors
    /// If it is damaged, or a member is not what the manifest says.
    pub fn next_disk(&mut self) -> Result<Option<usize>, Error> {
        loop {
            self.finish_member()?;
            let Some(member) = self.tar.next()? else {
                return Ok(None);
            };
            if member.kind == Kind::Directory {
                continue;
            }
            let name = member.name;
            if self.members.contains_key(&name) {
                return Err(self.tar.damaged("there are two members of that name"));
            }
            if self.members.len() >= MEMBERS_MAX {
                let what = format!("more than {MEMBERS_MAX} members");
                return Err(self.tar.damaged(&what));
            }
            if member.kind == Kind::Other {
                return Err(self.tar.damaged("it is no file, but a link or a device"));
            }
            self.members.insert(name.clone(), None);
            if has_ending(&name, ".ovf") {
                return Err(self.tar.damaged("there are two descriptors"));
            }
            if has_ending(&name, ".mf") {
                self.read_manifest()?;
                continue;
            }
            if has_ending(&name, ".cert") {
                self.certificate = true;
                continue;
            }
            self.tar.digest(match &self.manifest {
                None => Digests::all(),
                Some(manifest) => manifest.digests(&name),
            });
            let file = |disk: &OvfDisk| disk.file.as_ref().is_some_and(|file| file.href == name);
            let disk = self.ovf.disks.iter().position(file);
            self.current = Some(name);
            if disk.is_some() {
                return Ok(disk);
            }
        }
    }

    /// The bytes of the disk that [`next_disk`](Self::next_disk) answered, which are unpacked if they are compressed.
    ///
    /// # Errors
    /// If the disk is in a way that cannot be read.
    pub fn disk_reader(&mut self, disk: usize) -> Result<Box<dyn Read + Send + '_>, Error>
    where
        R: Send,
    {
        let file = self.ovf.disks.get(disk).and_then(|disk| disk.file.as_ref());
        let gzip = match file.map(|file| file.compression.as_str()) {
            Some("" | "identity") | None => false,
            Some("gzip") => true,
            Some(other) => {
                let what = format!("it is compressed with {}", shorten(other));
                return Err(self.tar.damaged(&what));
            }
        };
        Ok(if gzip {
            Box::new(MultiGzDecoder::new(&mut self.tar))
        } else {
            Box::new(&mut self.tar)
        })
    }

    /// The member that is read, and where it is, for errors.
    #[must_use]
    pub fn shown(&self) -> String {
        self.tar.shown_member()
    }

    /// Reads what is left, and answers what whoever asked should know: a sentence each.
    ///
    /// # Errors
    /// If something is missing, or is not what the manifest says.
    pub fn finish(mut self, disks: &[usize]) -> Result<Vec<String>, Error> {
        while self.next_disk()?.is_some() {}
        self.tar.end()?;
        let mut notes = Vec::new();
        let wanted = disks.iter().filter_map(|disk| self.ovf.disks.get(*disk));
        let files = wanted.filter_map(|disk| disk.file.as_ref());
        let mut wanted: Vec<&str> = files.map(|file| file.href.as_str()).collect();
        let missing = |name: &str, who: &str| {
            self.tar
                .of_all(&format!("{} is missing, which {who} has", shorten(name)))
        };
        if let Some(name) = wanted
            .iter()
            .find(|name| !self.members.contains_key(**name))
        {
            return Err(missing(name, "the descriptor"));
        }
        match &self.manifest {
            None => {
                notes.push("there is no manifest in it: what it holds could not be verified".into())
            }
            Some(manifest) => {
                if let Some(name) = manifest
                    .names()
                    .find(|name| !self.members.contains_key(*name))
                {
                    return Err(missing(name, "the manifest"));
                }
                wanted.push(&self.descriptor);
                if let Some(name) = wanted.iter().find(|name| !manifest.has(name)) {
                    let what = format!("the manifest lacks {}", shorten(name));
                    return Err(self.tar.of_all(&what));
                }
            }
        }
        if self.certificate {
            notes.push("its certificate was not checked: who made it is not known".into());
        }
        Ok(notes)
    }

    /// Reads the rest of a member, and compares it with the manifest or keeps the digests until there is one.
    fn finish_member(&mut self) -> Result<(), Error> {
        let digests = self.tar.finish_member()?;
        let (Some(name), Some(digests)) = (self.current.take(), digests) else {
            return Ok(());
        };
        if let Some(manifest) = &self.manifest {
            return manifest
                .check(&name, digests)
                .map_err(|what| self.tar.damaged(&what));
        }
        self.members.insert(name, Some(digests));
        Ok(())
    }

    /// Compares what was read already with it, too.
    fn read_manifest(&mut self) -> Result<(), Error> {
        if self.manifest.is_some() {
            return Err(self.tar.damaged("there are two manifests"));
        }
        let text = self.tar.read_all(MANIFEST_MAX)?;
        let manifest = Manifest::parse(&text).map_err(|what| self.tar.damaged(&what))?;
        for (name, digests) in &mut self.members {
            if let Some(digests) = digests.take() {
                let checked = manifest.check(name, digests);
                checked.map_err(|what| self.tar.of_all(&format!("{}: {what}", shorten(name))))?;
            }
        }
        self.manifest = Some(manifest);
        Ok(())
    }
}

fn has_ending(name: &str, ending: &str) -> bool {
    let at = name.len().checked_sub(ending.len());
    let end = at.and_then(|at| name.get(at..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// What is read of a member; the rest of it is behind that.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_member(buf)
    }
}
