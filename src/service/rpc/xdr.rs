//! XDR (RFC 4506), the ten primitives libvirt's protocol is made of: foreign bytes to values and back.
//!
//! A [`Reader`] never panics, never reads past its end and never reserves more than the bytes it was
//! given can fill: every length and count is checked against its maximum and against what is left first.
//! It is as lenient as libvirt's own decoder where that costs nothing (padding bytes, booleans other
//! than 0 and 1) and stricter in one thing: a string that is no document must be UTF-8, and none has a NUL.

/// Why bytes could not be read. One reason only: clients learn no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed XDR")]
pub struct Malformed;

/// Reads values from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// Appends values to a byte vector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// How many bytes have not been read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `N` bytes as they are (`N` a multiple of four: a UUID, a header field).
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// An unsigned 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// A signed 32-bit number.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// An unsigned 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// A signed 64-bit number.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A double-precision number.
    pub fn f64(&mut self) -> Result<f64, Malformed> {
        self.fixed().map(f64::from_be_bytes)
    }

    /// A truth value; anything but 0 is true.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        self.u32().map(|word| word != 0)
    }

    /// A string of at most `max` bytes.
    pub fn string(&mut self, max: usize) -> Result<&'a str, Malformed> {
        let before = self.rest;
        let text = std::str::from_utf8(self.characters(max)?);
        text.map_err(|_| {
            self.rest = before;
            Malformed
        })
    }

    /// The bytes of a string in whatever encoding: a document says for itself which one it has.
    pub fn characters(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let mut ahead = self.clone();
        let length = ahead.length(max)?;
        let padded = length.next_multiple_of(4);
        let (field, rest) = ahead.rest.split_at_checked(padded).ok_or(Malformed)?;
        let characters = &field[..length];
        if characters.contains(&0) {
            return Err(Malformed);
        }
        self.rest = rest;
        Ok(characters)
    }

    /// A value that may be absent.
    pub fn option<T>(
        &mut self,
        item: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.bool()? { item(self).map(Some) } else { Ok(None) }
    }

    /// A list of at most `max` items.
    pub fn array<T>(
        &mut self,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.length(max)?;
        // Every item takes four bytes at least, so a lying count ends here and reserves nothing.
        if count > self.rest.len() / 4 {
            return Err(Malformed);
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn length(&mut self, max: usize) -> Result<usize, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > max { Err(Malformed) } else { Ok(length) }
    }
}

impl Writer {
    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What another encoder wrote.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(encoded);
        self
    }

    /// Bytes as they are (`N` a multiple of four).
    pub fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) -> &mut Self {
        const { assert!(N.is_multiple_of(4), "XDR units are four bytes") };
        self.raw(bytes)
    }

    /// An unsigned 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A signed 32-bit number.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// An unsigned 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A signed 64-bit number.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A double-precision number.
    pub fn f64(&mut self, value: f64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// A string, padded to a multiple of four bytes.
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.bytes.reserve(text.len() + 8);
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A value that may be absent.
    pub fn option<T>(&mut self, value: Option<T>, item: impl FnOnce(&mut Self, T) -> &mut Self) -> &mut Self {
        self.bool(value.is_some());
        match value {
            Some(value) => item(self, value),
            None => self,
        }
    }

    /// A list.
    pub fn array<T>(
        &mut self,
        items: &[T],
        mut item: impl for<'a> FnMut(&'a mut Self, &T) -> &'a mut Self,
    ) -> &mut Self {
        self.length(items.len());
        items.iter().fold(self, |to, each| item(to, each))
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).expect("callers keep to maxima far below 4 GiB"));
    }
}
