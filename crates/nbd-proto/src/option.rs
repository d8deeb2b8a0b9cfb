//! The payloads of options, and of the replies that describe an export.

use crate::{
    Error,
    handshake::TransmissionFlags,
    input::{Input, put_string, text},
};

/// What can be told about an export (`NBD_INFO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum InfoType {
    /// Size and transmission flags; always sent.
    Export = 0,
    /// The canonical name.
    Name = 1,
    /// Text for people.
    Description = 2,
    /// Size constraints.
    BlockSize = 3,
}

/// The payload of INFO and GO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportQuery<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    infos: &'a [u8],
}

impl<'a> ExportQuery<'a> {
    /// From the wire.
    ///
    /// # Errors
    /// Lengths disagree, or the name is no string.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let mut input = Input::new(payload, "export query");
        let name = input.string()?;
        let count = usize::from(input.u16()?);
        let infos = input.bytes(count * 2)?;
        input.end()?;
        Ok(ExportQuery { name, infos })
    }

    /// The kinds of information that are asked for, as they are on the wire.
    pub fn infos(&self) -> impl Iterator<Item = u16> + 'a {
        let (pairs, _) = self.infos.as_chunks::<2>();
        pairs.iter().map(|pair| u16::from_be_bytes(*pair))
    }

    /// Whether `info` is asked for.
    #[must_use]
    pub fn wants(&self, info: InfoType) -> bool {
        self.infos().any(|i| i == info as u16)
    }

    /// To the wire, as a client sends it.
    #[must_use]
    pub fn encode(name: &str, infos: &[InfoType]) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, name);
        out.extend_from_slice(&(infos.len() as u16).to_be_bytes());
        for info in infos {
            out.extend_from_slice(&(*info as u16).to_be_bytes());
        }
        out
    }
}

/// The payload of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaQuery<'a> {
    /// The export that the contexts are of.
    pub export: &'a str,
    /// How many queries there are.
    pub count: u32,
    queries: &'a [u8],
}

impl<'a> MetaQuery<'a> {
    /// From the wire; every query is checked.
    ///
    /// # Errors
    /// Lengths disagree, or something is no string.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let mut input = Input::new(payload, "metadata query");
        let export = input.string()?;
        let count = input.u32()?;
        let queries = input.rest();
        // Each query takes at least its length field, so the loop is bounded by the payload.
        for _ in 0..count {
            input.string()?;
        }
        input.end()?;
        Ok(MetaQuery {
            export,
            count,
            queries,
        })
    }

    /// The queries in their order.
    pub fn queries(&self) -> impl Iterator<Item = &'a str> + 'a {
        let mut input = Input::new(self.queries, "metadata query");
        std::iter::from_fn(move || {
            if input.is_empty() {
                return None;
            }
            // `decode` found them all well.
            input.string().ok()
        })
    }

    /// To the wire, as a client sends it.
    #[must_use]
    pub fn encode(export: &str, queries: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, export);
        out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            put_string(&mut out, query);
        }
        out
    }
}

/// The payload of EXPORT_NAME: the whole of it is the name.
///
/// # Errors
/// It is no string.
pub fn decode_export_name(payload: &[u8]) -> Result<&str, Error> {
    text(payload, "export name")
}

/// The payload of an INFO reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info<'a> {
    /// Size in bytes and what the export can do.
    Export(u64, TransmissionFlags),
    /// The canonical name.
    Name(&'a str),
    /// Text for people.
    Description(&'a str),
    /// Size constraints.
    BlockSize(BlockSizes),
    /// Something that is not known here.
    Other(u16),
}

/// Size constraints, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this.
    pub minimum: u32,
    /// Best if they are multiples of this.
    pub preferred: u32,
    /// Payloads are not longer.
    pub maximum_payload: u32,
}

impl<'a> Info<'a> {
    /// From the wire, as a client reads it.
    ///
    /// # Errors
    /// Lengths disagree, or something is no string.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        const WHAT: &str = "export information";
        let mut input = Input::new(payload, WHAT);
        let info = match input.u16()? {
            0 => Info::Export(input.u64()?, TransmissionFlags(input.u16()?)),
            1 => return Ok(Info::Name(text(input.rest(), WHAT)?)),
            2 => return Ok(Info::Description(text(input.rest(), WHAT)?)),
            3 => Info::BlockSize(BlockSizes {
                minimum: input.u32()?,
                preferred: input.u32()?,
                maximum_payload: input.u32()?,
            }),
            other => return Ok(Info::Other(other)),
        };
        input.end()?;
        Ok(info)
    }

    /// To the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |info: u16, parts: &[&[u8]]| {
            out.extend_from_slice(&info.to_be_bytes());
            for part in parts {
                out.extend_from_slice(part);
            }
        };
        match self {
            Info::Export(size, flags) => {
                put(0, &[&size.to_be_bytes(), &flags.0.to_be_bytes()]);
            }
            Info::Name(name) => put(1, &[name.as_bytes()]),
            Info::Description(text) => put(2, &[text.as_bytes()]),
            Info::BlockSize(sizes) => put(
                3,
                &[
                    &sizes.minimum.to_be_bytes(),
                    &sizes.preferred.to_be_bytes(),
                    &sizes.maximum_payload.to_be_bytes(),
                ],
            ),
            Info::Other(info) => put(*info, &[]),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(query) = ExportQuery::decode(&bytes) {
                let _ = query.wants(InfoType::Name);
            }
            if let Ok(query) = MetaQuery::decode(&bytes) {
                prop_assert_eq!(query.queries().count(), query.count as usize);
            }
            let _ = (Info::decode(&bytes), decode_export_name(&bytes));
        }

        #[test]
        fn a_cut_query_is_refused(queries: Vec<String>, cut in 1usize..50) {
            let queries: Vec<String> = queries.iter().map(|q| q.replace('\0', "")).collect();
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            let wire = MetaQuery::encode("volume", &queries);
            let query = MetaQuery::decode(&wire).unwrap();
            prop_assert_eq!(query.queries().collect::<Vec<_>>(), queries);
            prop_assert!(MetaQuery::decode(&wire[..wire.len().saturating_sub(cut)]).is_err());
            let mut longer = wire;
            longer.push(0);
            prop_assert!(MetaQuery::decode(&longer).is_err());
        }
    }

    #[test]
    fn infos_come_back() {
        let sizes = BlockSizes {
            minimum: 1,
            preferred: 4096,
            maximum_payload: 1 << 25,
        };
        for info in [
            Info::Export(1 << 40, TransmissionFlags::HAS_FLAGS),
            Info::Name("a"),
            Info::Description(""),
            Info::BlockSize(sizes),
            Info::Other(77),
        ] {
            assert_eq!(Info::decode(&info.encode()), Ok(info));
        }
        let wire = ExportQuery::encode("v@s", &[InfoType::BlockSize]);
        let query = ExportQuery::decode(&wire).unwrap();
        assert_eq!(query.name, "v@s");
        assert!(query.wants(InfoType::BlockSize) && !query.wants(InfoType::Name));
    }

    #[test]
    fn a_million_queries_in_few_bytes_are_refused() {
        let mut wire = MetaQuery::encode("v", &[]);
        wire.splice(5..9, u32::MAX.to_be_bytes());
        assert!(MetaQuery::decode(&wire).is_err());
    }

    #[test]
    fn strings_have_rules() {
        assert!(decode_export_name(&[b'a'; 4096]).is_ok());
        assert!(decode_export_name(&[b'a'; 4097]).is_err());
        assert!(decode_export_name(b"a\0b").is_err());
        assert!(decode_export_name(&[0xff]).is_err());
    }
}
