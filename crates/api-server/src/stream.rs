//! Between a connection, which is asynchronous, and an image's reader or writer, which blocks: a
//! channel of a few large pieces. Whoever is slow holds the other back; memory stays bounded.

use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Frame, SizeHint};
use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// Pieces between the two sides, at most.
const PIECES_MAX: usize = 4;
/// Bytes in an outgoing piece.
const PIECE: usize = 1 << 20;
/// How long a body that nobody wants is read on, so that its sender sees the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A body, read by a thread that blocks.
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    link: Link,
}

/// The way out of waiting: the runtime to wait on, and the sign to stop.
struct Link {
    runtime: Handle,
    cancel: CancellationToken,
}

impl Link {
    fn wait<T>(&self, future: impl Future<Output = T>) -> io::Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.cancel.cancelled() => Err(io::Error::other("cancelled")),
                value = future => Ok(value),
            }
        })
    }
}

/// Where a body is fed in; becomes a [`BodyReader`] on the thread that reads it.
pub(crate) struct Inlet {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    runtime: Handle,
}

impl Inlet {
    /// Begins to read `body`, a few pieces ahead.
    pub(crate) fn new(body: Body) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        tokio::spawn(feed(body, sender));
        Inlet {
            pieces,
            runtime: Handle::current(),
        }
    }

    /// The reader, which fails once `cancel` is set.
    pub(crate) fn reader(self, cancel: CancellationToken) -> BodyReader {
        BodyReader {
            pieces: self.pieces,
            current: Bytes::new(),
            link: Link {
                runtime: self.runtime,
                cancel,
            },
        }
    }
}

async fn feed(mut body: Body, pieces: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(piece) = next_piece(&mut body).await {
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() {
            // The reader is gone. A client that is still sending would not look for the answer if
            // the connection just closed.
            let drain = async { while let Some(Ok(_)) = next_piece(&mut body).await {} };
            let _ = timeout(DRAIN_TIMEOUT, drain).await;
            return;
        }
        if failed {
            return;
        }
    }
}

async fn next_piece(body: &mut Body) -> Option<io::Result<Bytes>> {
    loop {
        let frame = std::future::poll_fn(|cx| pin!(&mut *body).poll_frame(cx)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(_trailers)) => {}
            Err(e) => {
                let why = format!("the client stopped sending: {e}");
                return Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
        }
    }
}

impl io::Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let piece = match self.pieces.try_recv() {
                Ok(piece) => Some(piece),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
                Err(mpsc::error::TryRecvError::Empty) => self.link.wait(self.pieces.recv())?,
            };
            match piece {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let len = buf.len().min(self.current.len());
        buf[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

/// A body, written by a thread that blocks.
pub(crate) struct BodyWriter {
    pieces: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    /// Bytes that are missing, if it is known how many there will be.
    left: Option<u64>,
    whole: Arc<AtomicBool>,
    link: Link,
}

/// Where a body comes out.
pub(crate) struct Outlet {
    sender: mpsc::Sender<Bytes>,
    pieces: mpsc::Receiver<Bytes>,
    len: Option<u64>,
}

/// What fills an [`Outlet`]'s body; becomes a [`BodyWriter`] on the thread that writes it.
pub(crate) struct Filler {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
    len: Option<u64>,
    whole: Arc<AtomicBool>,
}

impl Outlet {
    /// For a body of `len` bytes, or of as many as there will be.
    pub(crate) fn new(len: Option<u64>) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        Outlet {
            sender,
            pieces,
            len,
        }
    }

    /// Its two ends.
    pub(crate) fn split(self) -> (Filler, ContentBody) {
        let whole = Arc::new(AtomicBool::new(false));
        let filler = Filler {
            sender: self.sender,
            runtime: Handle::current(),
            len: self.len,
            whole: Arc::clone(&whole),
        };
        let body = ContentBody {
            pieces: self.pieces,
            first: None,
            left: self.len,
            whole,
        };
        (filler, body)
    }
}

impl Filler {
    /// The writer, which fails once `cancel` is set.
    pub(crate) fn writer(self, cancel: CancellationToken) -> BodyWriter {
        BodyWriter {
            pieces: self.sender,
            buffer: Vec::with_capacity(PIECE),
            left: self.len,
            whole: self.whole,
            link: Link {
                runtime: self.runtime,
                cancel,
            },
        }
    }
}

impl BodyWriter {
    /// Sends what is left in the buffer.
    ///
    /// # Errors
    /// The client is gone, or there were too few bytes.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.send()?;
        match self.left {
            None | Some(0) => {
                self.whole.store(true, Release);
                Ok(())
            }
            Some(left) => Err(io::Error::other(format!("{left} bytes are missing"))),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)).into();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        match self.pieces.try_send(piece) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(gone()),
            Err(mpsc::error::TrySendError::Full(piece)) => {
                self.link.wait(self.pieces.send(piece))?.map_err(|_| gone())
            }
        }
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(PIECE - self.buffer.len());
        let taken = u64::try_from(len).map_err(io::Error::other)?;
        if let Some(left) = &mut self.left {
            let more = || io::Error::other("more bytes than announced");
            *left = left.checked_sub(taken).ok_or_else(more)?;
        }
        self.buffer.extend_from_slice(&buf[..len]);
        if self.buffer.len() == PIECE {
            self.send()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The response's body: as long as announced, or broken off.
pub(crate) struct ContentBody {
    pieces: mpsc::Receiver<Bytes>,
    first: Option<Bytes>,
    left: Option<u64>,
    /// Set when all of it is in `pieces`.
    whole: Arc<AtomicBool>,
}

impl ContentBody {
    /// Waits for the first bytes. `false` if none will come: then there is still time for an error response.
    pub(crate) async fn begin(&mut self) -> bool {
        self.first = self.pieces.recv().await;
        self.first.is_some()
    }
}

impl hyper::body::Body for ContentBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => std::task::ready!(self.pieces.poll_recv(cx)),
        };
        Poll::Ready(match piece {
            Some(piece) => {
                self.left = self
                    .left
                    .map(|left| left.saturating_sub(piece.len() as u64));
                Some(Ok(Frame::data(piece)))
            }
            None if !self.whole.load(Acquire) => Some(Err(io::Error::other("it broke off"))),
            None => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
