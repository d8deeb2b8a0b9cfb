//! A cursor over bytes that are not trusted.

use crate::{Error, STRING_LEN_MAX};

/// What is left to decode of `what`.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Input { rest: bytes, what }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(self.short())?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(self.short())?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// 32 bits of length, then as many bytes of text.
    pub(crate) fn string(&mut self) -> Result<&'a str, Error> {
        let len = self.u32()? as usize;
        let bytes = self.bytes(len)?;
        text(bytes, self.what)
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.short())
        }
    }

    const fn short(&self) -> Error {
        Error::Length(self.what)
    }
}

/// Checks that `bytes` follow the rules for strings.
pub(crate) fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Error> {
    if bytes.len() > STRING_LEN_MAX || bytes.contains(&0) {
        return Err(Error::String(what));
    }
    std::str::from_utf8(bytes).map_err(|_| Error::String(what))
}

/// 32 bits of length, then the text.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
