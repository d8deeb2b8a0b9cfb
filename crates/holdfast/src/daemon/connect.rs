//! The exact lines that reach a volume.

use api_types::{Connect, ConnectVhost, VhostDevice};
use std::path::Path;
use types::VolumeRef;

/// Guests wait so long for a daemon that is gone, seconds; then they see errors. As long as it may take to start.
const RECONNECT_S: u32 = 300;
/// Monitors try so often to reach a vhost-user daemon that is gone, seconds: the least that all of them know.
const RETRY_S: u32 = 1;

/// What the lines depend on.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    /// Whether it may only read.
    pub(crate) read_only: bool,
    /// Whether what was answered outlives the daemon.
    pub(crate) survives: bool,
}

impl Guest {
    fn may_reconnect(self) -> bool {
        self.survives || self.read_only
    }
}

/// For the clients that people use, over the NBD server's unix socket.
///
/// Guests are told to reconnect only if what was answered `survives` the daemon: else they would not learn that
/// writes which they had not flushed are gone, and flush as if they were there.
pub(crate) fn lines(r: &VolumeRef, socket: &Path, guest: Guest) -> Connect {
    let Guest { read_only, .. } = guest;
    let (reconnect, reconnect_xml) = if guest.may_reconnect() {
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
        vhost: None,
    }
}

/// For virtual machine monitors, over a device's own socket. When they may reconnect is as with [`lines`]; they try
/// without an end.
pub(crate) fn vhost_lines(device: &VhostDevice, guest: Guest) -> ConnectVhost {
    let (reconnect, reconnect_xml) = if guest.may_reconnect() {
        (
            format!(",reconnect={RETRY_S}"),
            format!("\n    <reconnect enabled='yes' timeout='{RETRY_S}'/>"),
        )
    } else {
        Default::default()
    };
    let VhostDevice { socket, queues, .. } = device;
    let qemu = format!(
        "-m 4G -object memory-backend-memfd,id=mem0,size=4G,share=on -machine memory-backend=mem0 \
         -chardev socket,id=hf0,path={socket}{reconnect} \
         -device vhost-user-blk-pci,chardev=hf0,num-queues={queues},queue-size=256"
    );
    let libvirt = format!(
        "<memoryBacking>\n  \
           <source type='memfd'/>\n  \
           <access mode='shared'/>\n\
         </memoryBacking>\n\
         <disk type='vhostuser' device='disk' snapshot='no'>\n  \
           <driver name='qemu' type='raw' queues='{queues}' queue_size='256'/>\n  \
           <source type='unix' path='{socket}'>{reconnect_xml}\n  \
           </source>\n  \
           <target dev='vda' bus='virtio'/>\n\
         </disk>"
    );
    ConnectVhost {
        socket: socket.clone(),
        qemu,
        libvirt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_reconnect_only_if_nothing_is_lost_meanwhile() {
        let device = VhostDevice {
            name: "a".to_owned(),
            socket: "/v/a.sock".to_owned(),
            queues: 2,
            error: None,
            guest: None,
            requests: 0,
            errors: 0,
            resumed: 0,
            bytes_read: 0,
            bytes_written: 0,
        };
        let line = |name: &str, survives| {
            let r: VolumeRef = name.parse().unwrap();
            let read_only = r.snapshot.is_some();
            let guest = Guest {
                read_only,
                survives,
            };
            let mut lines = lines(&r, Path::new("/s"), guest);
            lines.vhost = Some(vhost_lines(&device, guest));
            lines
        };
        assert!(line("a", true).qemu.contains("reconnect-delay=300"));
        assert!(line("a", true).libvirt.contains("<reconnect delay='300'/>"));
        assert!(!line("a", false).qemu.contains("reconnect"));
        assert!(!line("a", false).libvirt.contains("reconnect"));
        assert!(line("a@s", false).qemu.contains("reconnect-delay"));
        let vhost = |name: &str, survives| line(name, survives).vhost.unwrap();
        assert!(
            vhost("a", true)
                .qemu
                .contains("path=/v/a.sock,reconnect=1 ")
        );
        assert!(vhost("a", true).qemu.contains("num-queues=2,"));
        assert!(
            vhost("a", true)
                .libvirt
                .contains("<reconnect enabled='yes'")
        );
        assert!(!vhost("a", false).qemu.contains("reconnect"));
        assert!(!vhost("a", false).libvirt.contains("reconnect"));
        assert!(vhost("a@s", false).qemu.contains("reconnect"));
    }
}
