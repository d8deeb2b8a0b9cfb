//! The NBD wire protocol: parsing and building, no I/O.
//!
//! The fixed newstyle handshake, structured replies, metadata contexts and extended headers of the
//! NBD project's `doc/proto.md` (and its `extension-ext-header` branch). Section names in the docs
//! below are that document's. Everything on the wire is big-endian.
//!
//! | module | what |
//! | --- | --- |
//! | [`handshake`] | greeting, options, option replies |
//! | [`option`] | the payloads of INFO, GO and the metadata options |
//! | [`meta`] | metadata contexts and the queries that select them |
//! | [`request`] | what a client asks in the transmission phase |
//! | [`reply`] | what a server answers |
//!
//! **Invariant:** decoders treat their bytes as hostile. They answer an [`Error`], and never panic,
//! loop without end, or allocate (strings and lists are borrowed from the input).

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod error;
pub mod handshake;
mod input;
pub mod meta;
pub mod option;
pub mod reply;
pub mod request;

pub use error::{Error, ErrorCode};

/// Strings (export names, context names, messages) are at most this long, bytes ("Values", "strings").
pub const STRING_LEN_MAX: usize = 4096;

/// Payloads up to this are not too large for anybody, bytes ("Size constraints").
pub const PAYLOAD_LEN_MAX: u32 = 32 << 20;

/// Defines a set of bits of the wire with named members.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident: $int:ty { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: $name = $name($value);)*

            /// Whether every bit of `other` is set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether no bit outside `allowed` is set.
            #[must_use]
            pub const fn within(self, allowed: Self) -> bool {
                self.0 & !allowed.0 == 0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                $name(self.0 | other.0)
            }
        }
    };
}
pub(crate) use flags;
