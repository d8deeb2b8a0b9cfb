//! The descriptor of a machine and its disks (DMTF DSP0243, "Open Virtualization Format"): what programs need to make one of it.

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};
use std::io;

const ENVELOPE: &str = "http://schemas.dmtf.org/ovf/envelope/1";
/// What sections are made of, by CIM.
const SETTING_DATA: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_";
const STREAM_OPTIMIZED: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// Kinds of things that a machine has (CIM_ResourceAllocationSettingData, ResourceType).
const PROCESSOR: u64 = 3;
const MEMORY: u64 = 4;
const SCSI_CONTROLLER: u64 = 6;
const DISK: u64 = 17;
/// The number of the controller, by which disks say that they are on it.
const CONTROLLER: u64 = 3;
/// Places on a SCSI controller of 16 addresses; one is its own.
pub(super) const DISKS_MAX: usize = 15;
const OWN_ADDRESS: u64 = 7;

/// A disk of the machine.
pub(super) struct Disk {
    /// The member with its data.
    pub(super) member: String,
    /// Bytes of the member.
    pub(super) member_len: u64,
    /// Bytes of the disk.
    pub(super) capacity: u64,
}

type Xml = Writer<Vec<u8>>;

/// A machine that is called `name`.
pub(super) fn descriptor(name: &str, disks: &[Disk]) -> Vec<u8> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    let written = envelope(&mut xml, name, disks);
    written.expect("memory takes what is written");
    let mut text = xml.into_inner();
    text.push(b'\n');
    text
}

fn envelope(xml: &mut Xml, name: &str, disks: &[Disk]) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let [rasd, vssd] = ["ResourceAllocation", "VirtualSystem"];
    let [rasd, vssd] = [rasd, vssd].map(|kind| format!("{SETTING_DATA}{kind}SettingData"));
    let namespaces = [
        ("xmlns", ENVELOPE),
        ("xmlns:ovf", ENVELOPE),
        ("xmlns:rasd", &rasd),
        ("xmlns:vssd", &vssd),
    ];
    let envelope = xml.create_element("Envelope").with_attributes(namespaces);
    envelope.write_inner_content(|xml| {
        xml.create_element("References")
            .write_inner_content(|xml| {
                numbered(disks).try_for_each(|(n, disk)| file(xml, n, disk))
            })?;
        xml.create_element("DiskSection")
            .write_inner_content(|xml| {
                text(xml, "Info", "Virtual disks")?;
                numbered(disks).try_for_each(|(n, it)| disk(xml, n, it))
            })?;
        xml.create_element("VirtualSystem")
            .with_attribute(("ovf:id", name))
            .write_inner_content(|xml| system(xml, name, disks))?;
        Ok(())
    })?;
    Ok(())
}

fn numbered(disks: &[Disk]) -> impl Iterator<Item = (u64, &Disk)> {
    (1..).zip(disks)
}

fn file(xml: &mut Xml, number: u64, disk: &Disk) -> io::Result<()> {
    xml.create_element("File")
        .with_attribute(("ovf:id", &*format!("file{number}")))
        .with_attribute(("ovf:href", &*disk.member))
        .with_attribute(("ovf:size", &*disk.member_len.to_string()))
        .write_empty()
        .map(drop)
}

fn disk(xml: &mut Xml, number: u64, disk: &Disk) -> io::Result<()> {
    xml.create_element("Disk")
        .with_attribute(("ovf:capacity", &*disk.capacity.to_string()))
        .with_attribute(("ovf:diskId", &*format!("disk{number}")))
        .with_attribute(("ovf:fileRef", &*format!("file{number}")))
        .with_attribute(("ovf:format", STREAM_OPTIMIZED))
        .write_empty()
        .map(drop)
}

fn system(xml: &mut Xml, name: &str, disks: &[Disk]) -> io::Result<()> {
    text(xml, "Info", "A virtual machine")?;
    text(xml, "Name", name)?;
    // Other: what is on the disks is not known.
    xml.create_element("OperatingSystemSection")
        .with_attribute(("ovf:id", "1"))
        .write_inner_content(|xml| text(xml, "Info", "The kind of guest operating system"))?;
    xml.create_element("VirtualHardwareSection")
        .write_inner_content(|xml| {
            text(xml, "Info", "Virtual hardware")?;
            xml.create_element("System").write_inner_content(|xml| {
                text(xml, "vssd:ElementName", "Virtual hardware family")?;
                text(xml, "vssd:InstanceID", "0")?;
                text(xml, "vssd:VirtualSystemIdentifier", name)?;
                text(xml, "vssd:VirtualSystemType", "vmx-07")
            })?;
            hardware(xml, disks)
        })?;
    Ok(())
}

fn hardware(xml: &mut Xml, disks: &[Disk]) -> io::Result<()> {
    let number = |n: u64| n.to_string();
    item(
        xml,
        &[
            ("AllocationUnits", "hertz * 10^6"),
            ("ElementName", "1 virtual processor"),
            ("InstanceID", "1"),
            ("ResourceType", &number(PROCESSOR)),
            ("VirtualQuantity", "1"),
        ],
    )?;
    item(
        xml,
        &[
            ("AllocationUnits", "byte * 2^20"),
            ("ElementName", "1024 MB of memory"),
            ("InstanceID", "2"),
            ("ResourceType", &number(MEMORY)),
            ("VirtualQuantity", "1024"),
        ],
    )?;
    item(
        xml,
        &[
            ("Address", "0"),
            ("ElementName", "SCSI controller 0"),
            ("InstanceID", &number(CONTROLLER)),
            ("ResourceSubType", "lsilogic"),
            ("ResourceType", &number(SCSI_CONTROLLER)),
        ],
    )?;
    let addresses = (0..).filter(|address| *address != OWN_ADDRESS);
    numbered(disks)
        .zip(addresses)
        .try_for_each(|((n, _), address)| {
            item(
                xml,
                &[
                    ("AddressOnParent", &number(address)),
                    ("ElementName", &format!("Hard disk {n}")),
                    ("HostResource", &format!("ovf:/disk/disk{n}")),
                    ("InstanceID", &number(CONTROLLER + n)),
                    ("Parent", &number(CONTROLLER)),
                    ("ResourceType", &number(DISK)),
                ],
            )
        })
}

/// Something that the machine has; the schema wants its properties in the order of their names.
fn item(xml: &mut Xml, properties: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element("Item").write_inner_content(|xml| {
        let mut properties = properties.iter();
        properties.try_for_each(|(name, value)| text(xml, &format!("rasd:{name}"), value))
    })?;
    Ok(())
}

fn text(xml: &mut Xml, name: &str, text: &str) -> io::Result<()> {
    xml.create_element(name)
        .write_text_content(BytesText::new(text))
        .map(drop)
}
