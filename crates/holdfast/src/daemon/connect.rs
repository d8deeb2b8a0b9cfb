//! The exact lines that reach a volume.

use api_types::Connect;
use std::path::Path;
use types::VolumeRef;

/// For the clients that people use, over the NBD server's unix socket.
///
/// No `reconnect-delay`: a client that reconnects by itself after the daemon was killed would not learn that
/// writes which it had not flushed are gone, and flush as if they were there.
pub(crate) fn lines(r: &VolumeRef, socket: &Path, read_only: bool) -> Connect {
    let socket = socket.display();
    let uri = format!("nbd+unix:///{r}?socket={socket}");
    let qemu = format!(
        "-blockdev driver=nbd,node-name=hf0,server.type=unix,server.path={socket},export={r},\
         discard=unmap,cache.direct=on{} -device virtio-blk-pci,drive=hf0",
        if read_only { ",read-only=on" } else { "" }
    );
    let libvirt = format!(
        "<disk type='network' device='disk'>\n  \
           <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n  \
           <source protocol='nbd' name='{r}'>\n    \
             <host transport='unix' socket='{socket}'/>\n  \
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
