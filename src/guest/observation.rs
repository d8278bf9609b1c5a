//! What is captured of a guest's frames, and what was seen. Pure; `learn` owns the sockets.

use crate::document::mac::Mac;
use crate::guest::bpf::WireEnd;
use crate::guest::frame::SightedFrame;
use crate::guest::learning::LearningMode;

/// Where frames of a guest are captured, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    /// The index of the guest's link, which names it in its observations.
    pub guest: u32,
    /// The index of the link whose frames are captured.
    pub link: u32,
    /// Which end of the guest's wire that link is.
    pub side: WireEnd,
    /// The guest's MAC.
    pub mac: Mac,
    /// How addresses are learned, which decides which frames are captured.
    pub mode: LearningMode,
}

/// A captured frame of a guest, or to it, that says something of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The index of the guest's link.
    pub guest: u32,
    /// The frame.
    pub frame: SightedFrame,
}
