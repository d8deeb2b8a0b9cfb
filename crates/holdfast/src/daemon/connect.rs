//! The exact lines that reach a volume.

use api_types::Connect;
use std::path::Path;
use types::VolumeRef;

/// Guests wait so long for a daemon that is gone, seconds; then they see errors. As long as it may take to start.
const RECONNECT_S: u32 = 300;

/// For the clients that people use, over the NBD server's unix socket.
///
/// Guests are told to reconnect only if what was answered `survives` the daemon: else they would not learn that
/// writes which they had not flushed are gone, and flush as if they were there.
pub(crate) fn lines(r: &VolumeRef, socket: &Path, read_only: bool, survives: bool) -> Connect {
    let (reconnect, reconnect_xml) = if survives || read_only {
        (
            format!(",reconnect-delay={RECONNECT_S}"),
            format!("\n    <reconnect delay='{RECONNECT_S}'/>"),
        )
    } else {
        Default::default()
    };
    let socket = socket.display();
    let uri = format!("nbd+unix:///{r}?socket={socket}");
    let qemu = format!(
        "-blockdev driver=nbd,node-name=hf0,server.type=unix,server.path={socket},export={r},\
         discard=unmap,cache.direct=on{reconnect}{} -device virtio-blk-pci,drive=hf0",
        if read_only { ",read-only=on" } else { "" }
    );
    let libvirt = format!(
        "<disk type='network' device='disk'>\n  \
           <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n  \
           <source protocol='nbd' name='{r}'>\n    \
             <host transport='unix' socket='{socket}'/>{reconnect_xml}\n  \
           </source>\n  \
           <target dev='vda' bus='virtio'/>{}\n\
         </disk>",
        if read_only { "\n  <readonly/>" } else { "" }
    );
    let (rw, name) = if read_only {
        ("randread", "read")
    } else {
        ("randrw", "mixed")
    };
    Connect {
        name: r.to_string(),
        fio: format!(
            "fio --name={name} --ioengine=nbd --uri='{uri}' --rw={rw} --bs=4k --iodepth=16 --time_based --runtime=10"
        ),
        nbdinfo: format!("nbdinfo '{uri}'"),
        qemu,
        libvirt,
        uri,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_reconnect_only_if_nothing_is_lost_meanwhile() {
        let line = |name: &str, survives| {
            let r: VolumeRef = name.parse().unwrap();
            let read_only = r.snapshot.is_some();
            lines(&r, Path::new("/s"), read_only, survives)
        };
        assert!(line("a", true).qemu.contains("reconnect-delay=300"));
        assert!(line("a", true).libvirt.contains("<reconnect delay='300'/>"));
        assert!(!line("a", false).qemu.contains("reconnect"));
        assert!(!line("a", false).libvirt.contains("reconnect"));
        assert!(line("a@s", false).qemu.contains("reconnect-delay"));
    }
}
