//! The descriptor of a machine, as far as its disks go.

use crate::error::shorten;
use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};
use std::collections::HashMap;

const DISKS_MAX: usize = 256;
const FILES_MAX: usize = 4096;
const DEPTH_MAX: usize = 128;

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ovf {
    pub(super) disks: Vec<OvfDisk>,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvfDisk {
    /// What the descriptor calls it.
    pub id: String,
    /// Bytes.
    pub capacity: u64,
    /// Where its data are; none if it is empty.
    pub file: Option<OvfFile>,
}

/// A file with the data of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvfFile {
    /// What the member is called.
    pub href: String,
    /// Nothing, `identity`, `gzip`, or something else.
    pub compression: String,
}

/// A file of a descriptor, by its id.
struct Listed {
    file: OvfFile,
    chunked: bool,
}

/// Of elements' attributes these are kept.
const ATTRIBUTES: [&str; 9] = [
    "id",
    "href",
    "compression",
    "chunkSize",
    "diskId",
    "capacity",
    "capacityAllocationUnits",
    "fileRef",
    "parentRef",
];

struct Attributes(HashMap<String, String>);

impl Attributes {
    /// Those of an element, by their names without namespaces.
    fn of(element: &BytesStart<'_>) -> Result<Self, String> {
        let mut found = HashMap::new();
        // Whether one is there twice is not looked at: that takes too long where there are many.
        for attribute in element.attributes().with_checks(false) {
            let attribute = attribute.map_err(|e| format!("an attribute: {e}"))?;
            let name = attribute.key.local_name();
            if !ATTRIBUTES.contains(&name.as_ref()) {
                continue;
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value
                .map_err(|e| format!("an attribute: {e}"))?
                .into_owned();
            found.insert(name.as_ref().to_owned(), value);
        }
        Ok(Attributes(found))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn need(&mut self, name: &str) -> Result<String, String> {
        let missing = || format!("an element has no {name}");
        self.take(name).ok_or_else(missing)
    }
}

impl Ovf {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let text =
            std::str::from_utf8(text).map_err(|e| format!("the descriptor is not UTF-8: {e}"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader::from_str(text);
        let mut path: Vec<String> = Vec::new();
        let (mut files, mut disks) = (HashMap::new(), Vec::new());
        loop {
            let event = reader.read_event().map_err(|e| e.to_string());
            let done = match event {
                Ok(Event::Start(element)) => {
                    let done = Self::element(&path, &element, &mut files, &mut disks);
                    path.push(element.local_name().as_ref().to_owned());
                    done.map(|()| false)
                }
                Ok(Event::Empty(element)) => {
                    Self::element(&path, &element, &mut files, &mut disks).map(|()| false)
                }
                Ok(Event::End(_)) => {
                    path.pop();
                    Ok(false)
                }
                Ok(Event::DocType(_)) => Err("a document type is not allowed".into()),
                Ok(Event::Eof) if path.is_empty() => Ok(true),
                Ok(Event::Eof) => Err("it was cut".into()),
                Ok(_) => Ok(false),
                Err(e) => Err(e),
            };
            let at = reader.buffer_position();
            match done {
                Ok(true) => break,
                Ok(false) if path.len() <= DEPTH_MAX => {}
                Ok(false) => return Err(format!("elements in more than {DEPTH_MAX} others")),
                Err(what) => {
                    return Err(format!("the descriptor, before byte {at}: {}", line(&what)));
                }
            }
        }
        resolve(files, disks)
    }

    fn element(
        path: &[String],
        element: &BytesStart<'_>,
        files: &mut HashMap<String, Listed>,
        disks: &mut Vec<(OvfDisk, Option<String>)>,
    ) -> Result<(), String> {
        let name = element.local_name();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match (path.as_slice(), name.as_ref()) {
            ([], "Envelope") => {}
            ([], _) => return Err("this is no OVF descriptor".into()),
            (["Envelope", "References"], "File") => {
                let mut attributes = Attributes::of(element)?;
                let id = attributes.need("id")?;
                let href = attributes.need("href")?;
                let listed = Listed {
                    file: OvfFile {
                        href: href.trim_start_matches("./").to_owned(),
                        compression: attributes.take("compression").unwrap_or_default(),
                    },
                    chunked: attributes.take("chunkSize").is_some(),
                };
                if files.len() >= FILES_MAX {
                    return Err(format!("more than {FILES_MAX} files"));
                }
                if files.insert(id.clone(), listed).is_some() {
                    return Err(format!("two files are {}", shorten(&id)));
                }
            }
            (["Envelope", "DiskSection"], "Disk") => {
                if disks.len() >= DISKS_MAX {
                    return Err(format!("more than {DISKS_MAX} disks"));
                }
                disks.push(disk(Attributes::of(element)?)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A disk, and the id of its file.
fn disk(mut attributes: Attributes) -> Result<(OvfDisk, Option<String>), String> {
    let id = attributes.need("diskId")?;
    let capacity = attributes.need("capacity")?;
    let units = attributes.take("capacityAllocationUnits");
    let bad = || {
        format!(
            "the disk {} has the capacity {} in units of {}, which makes no sense",
            shorten(&id),
            shorten(&capacity),
            shorten(units.as_deref().unwrap_or("byte"))
        )
    };
    if attributes.take("parentRef").is_some() {
        let id = shorten(&id);
        return Err(format!(
            "the disk {id} is only the difference to another one"
        ));
    }
    let units_len = unit(units.as_deref().unwrap_or("byte")).ok_or_else(bad)?;
    let number: u64 = capacity.trim().parse().map_err(|_| bad())?;
    let capacity = number.checked_mul(units_len).ok_or_else(bad)?;
    let disk = OvfDisk {
        id,
        capacity,
        file: None,
    };
    Ok((disk, attributes.take("fileRef")))
}

/// Bytes of `byte`, `byte * 2^30`, `byte * 1024`, or of what old descriptors have: `GigaBytes`.
fn unit(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "byte" | "bytes" | "" => return Some(1),
        "kilobytes" => return Some(1 << 10),
        "megabytes" => return Some(1 << 20),
        "gigabytes" => return Some(1 << 30),
        "terabytes" => return Some(1 << 40),
        _ => {}
    }
    let factor = text.strip_prefix("byte*")?;
    match factor.split_once('^') {
        None => factor.parse().ok(),
        Some((base, exponent)) => {
            let base: u64 = base.parse().ok()?;
            base.checked_pow(exponent.parse().ok()?)
        }
    }
}

/// Disks with their files; the order stays.
fn resolve(
    mut files: HashMap<String, Listed>,
    disks: Vec<(OvfDisk, Option<String>)>,
) -> Result<Ovf, String> {
    let mut resolved: Vec<OvfDisk> = Vec::new();
    for (disk, file) in disks {
        let shown = shorten(&disk.id);
        let file = match file {
            None => None,
            Some(id) => {
                // A file is taken away: what two disks have in common is nobody's.
                let listed = files.remove(&id).ok_or_else(|| {
                    format!(
                        "the disk {shown} has the file {}, which is not listed, or is another disk's",
                        shorten(&id)
                    )
                })?;
                if listed.chunked {
                    return Err(format!(
                        "the disk {shown} is cut into chunks, which cannot be read; put them together first"
                    ));
                }
                Some(listed.file)
            }
        };
        let same = |other: &OvfDisk| {
            let hrefs = [&other.file, &file].map(|file| file.as_ref().map(|file| &file.href));
            hrefs[0].is_some() && hrefs[0] == hrefs[1]
        };
        if resolved.iter().any(same) {
            return Err(format!("the disk {shown} has the file of another one"));
        }
        resolved.push(OvfDisk { file, ..disk });
    }
    if resolved.is_empty() {
        return Err("the machine has no disks".into());
    }
    Ok(Ovf { disks: resolved })
}

/// On one line, and not too long of it.
fn line(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(inside: &str) -> String {
        format!("<?xml version='1.0'?>\n<Envelope xmlns:ovf='x'>{inside}</Envelope>\n")
    }

    #[test]
    fn disks_have_their_files_and_capacities() {
        let text = envelope(
            "<References><File ovf:id='f&amp;1' ovf:href='a.vmdk' ovf:size='1'/>\
             <File ovf:href='./b' ovf:id='f2' ovf:compression='gzip'></File></References>\
             <ovf:DiskSection><Info>File</Info>\
             <Disk ovf:capacity='20' ovf:capacityAllocationUnits='byte * 2^30' ovf:diskId='d1' ovf:fileRef='f2'/>\
             <Disk ovf:capacity='2097152' ovf:diskId='d2' ovf:fileRef='f&amp;1'/>\
             <Disk ovf:capacity='3' ovf:capacityAllocationUnits='MegaBytes' ovf:diskId='d3'/>\
             </ovf:DiskSection><VirtualSystem><Disk/><File/></VirtualSystem>",
        );
        let file = |href: &str, compression: &str| {
            Some(OvfFile {
                href: href.into(),
                compression: compression.into(),
            })
        };
        let disk = |id: &str, capacity, file| OvfDisk {
            id: id.into(),
            capacity,
            file,
        };
        let disks = vec![
            disk("d1", 20 << 30, file("b", "gzip")),
            disk("d2", 2 << 20, file("a.vmdk", "")),
            disk("d3", 3 << 20, None),
        ];
        assert_eq!(Ovf::parse(text.as_bytes()).unwrap(), Ovf { disks });
        let with_bom = format!("\u{feff}{text}");
        assert!(Ovf::parse(with_bom.as_bytes()).is_ok());
        assert_eq!(unit("byte*2^10"), Some(1024));
        assert_eq!(unit("byte * 4096"), Some(4096));
        assert_eq!(unit("byte * 10^3"), Some(1000));
        assert_eq!(unit("byte * 2^64"), None);
        assert_eq!(unit("bit"), None);
    }

    #[test]
    fn what_makes_no_sense_is_an_error_of_one_line() {
        let listed = "<References><File ovf:id='f' ovf:href='a' ovf:chunkSize='9'/></References>";
        let with_disk = |attributes: &str| {
            envelope(&format!(
                "{listed}<DiskSection><Disk {attributes}/></DiskSection>"
            ))
        };
        let bombs = format!(
            "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>{}]>{}",
            "<!ENTITY b '&a;&a;&a;&a;&a;'>",
            envelope("&b;")
        );
        let texts = [
            String::new(),
            "<html></html>".into(),
            envelope(""),
            envelope("<a>"),
            "<Envelope>".into(),
            "<Envelope".into(),
            bombs,
            format!("<Envelope>{}", "<a>".repeat(200)),
            with_disk("diskId='d'"),
            with_disk("capacity='1'"),
            with_disk("diskId='d' capacity='${size}'"),
            with_disk("diskId='d' capacity='99999999999' capacityAllocationUnits='byte*2^60'"),
            with_disk("diskId='d' capacity='1' fileRef='g'"),
            with_disk("diskId='d' capacity='1' fileRef='f'"),
            with_disk("diskId='d' capacity='1' parentRef='e'"),
            with_disk("diskId='d' capacity='&unknown;'"),
            with_disk("diskId='d' capacity='1' fileRef=f"),
        ];
        for text in texts {
            let refused = Ovf::parse(text.as_bytes()).unwrap_err();
            assert!(
                refused.len() < 400 && refused.lines().count() == 1,
                "{refused}"
            );
        }
        assert!(Ovf::parse(b"<Envelope>\xff</Envelope>").is_err());
    }
}
