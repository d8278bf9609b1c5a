//! A byte stream into frames: what is kept of a frame is bounded, whatever length its first word claims.
//!
//! Lengths no frame can have end the connection. A body longer than this side has any use for is cut and
//! the rest of it is thrown away as it comes, so that its call fails to decode and nothing else suffers.

use super::proto::{FRAME_MAX, HEADER, Header};
use super::xdr::Reader;

/// Bytes read and not yet made into frames.
#[derive(Debug)]
pub struct Frames {
    /// The most of a body that is kept.
    keep: usize,
    held: Vec<u8>,
    /// Bytes still to come of a body that was cut.
    skip: usize,
}

/// A first word that no frame can begin with: the stream makes no sense from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no frame is {0} bytes long")]
pub struct BadLength(pub u32);

/// Frames up to this length are read without asking for room first.
pub const SMALL: usize = 4096;

impl Frames {
    /// An empty stream of which at most `keep` bytes a body are kept.
    pub fn new(keep: usize) -> Frames {
        Frames { keep, held: Vec::new(), skip: 0 }
    }

    /// The next whole frame: its head and (what was kept of) its body.
    pub fn take(&mut self) -> Result<Option<(Header, Vec<u8>)>, BadLength> {
        self.drop_skipped();
        let Some(length) = self.length()? else { return Ok(None) };
        let kept = self.kept(length);
        if self.held.len() < kept {
            return Ok(None);
        }
        let head = Header::read(&mut Reader::new(&self.held[4..])).expect("a frame holds a whole head");
        let body = self.held[HEADER..kept].to_vec();
        self.held.drain(..kept);
        self.skip = length - kept;
        self.drop_skipped();
        Ok(Some((head, body)))
    }

    /// How much room the frame under way needs, where that is more than [`SMALL`].
    pub fn claim(&self) -> Option<usize> {
        let length = self.length().ok().flatten()?;
        Some(self.kept(length)).filter(|kept| *kept > SMALL)
    }

    /// Where to read to, with room for what is still to come of the frame under way.
    pub fn room(&mut self) -> &mut Vec<u8> {
        let missing = self.claim().map_or(0, |claim| claim.saturating_sub(self.held.len()));
        self.held.reserve_exact(missing.max(SMALL));
        &mut self.held
    }

    /// Gives back room that nothing fills.
    pub fn settle(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_amid(&self) -> bool {
        self.skip > 0 || !self.held.is_empty()
    }

    fn length(&self) -> Result<Option<usize>, BadLength> {
        let Some(word) = self.held.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*word);
        match usize::try_from(length) {
            Ok(bytes) if (HEADER..=FRAME_MAX).contains(&bytes) => Ok(Some(bytes)),
            _ => Err(BadLength(length)),
        }
    }

    fn kept(&self, length: usize) -> usize {
        length.min(HEADER + self.keep)
    }

    fn drop_skipped(&mut self) {
        let gone = self.skip.min(self.held.len());
        self.held.drain(..gone);
        self.skip -= gone;
    }
}
