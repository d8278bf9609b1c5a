//! Traced frames as a pcapng capture, each with the reason for its verdict as a comment. Pure: bytes out.
//!
//! Frames are cut off where the kernel stopped telling: after their headers. Every part ends with a whole block, so a
//! capture that is written part by part can be read however its writer ended.

use super::Fate;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness};
use std::time::Duration;

/// A capture of one interface, in the making.
pub struct Capture(PcapNgWriter<Vec<u8>>);

/// Times are in nanoseconds, the crate's only resolution.
const NANOSECONDS: u8 = 9;

impl Capture {
    /// Begins a capture of an interface.
    pub fn of(interface: &str) -> Capture {
        let by = SectionHeaderOption::UserApplication("nwfilter trace".into());
        let section =
            SectionHeaderBlock { endianness: Endianness::native(), options: vec![by], ..Default::default() };
        let options = vec![
            InterfaceDescriptionOption::IfName(interface.to_owned().into()),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        let linktype = DataLink::ETHERNET;
        PcapNgWriter::with_section_header(Vec::new(), section)
            .and_then(|mut writer| {
                let interface = InterfaceDescriptionBlock { linktype, snaplen: 0, options };
                writer.write_block(&interface.into_block()).map(|_| Capture(writer))
            })
            .expect(MEMORY)
    }

    /// Adds what became of a frame, with its place in the filter's document, at a time since 1970.
    pub fn add(&mut self, fate: &Fate, place: Option<&str>, at: Duration) {
        // From the guest is into the bridge, as it would be captured on the interface.
        let way = if fate.from_guest { 1 } else { 2 };
        let place = place.map_or(String::new(), |place| format!(" ({place})"));
        let comment = fate.parts().join(" ") + &place;
        let frame = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: at,
            original_len: fate.length.try_into().unwrap_or(u32::MAX),
            data: fate.headers.as_slice().into(),
            options: vec![EnhancedPacketOption::Comment(comment.into()), EnhancedPacketOption::Flags(way)],
        };
        self.0.write_block(&frame.into_block()).expect(MEMORY);
    }

    /// The bytes that were not taken yet.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.0.get_mut())
    }
}

const MEMORY: &str = "memory takes what is written";
