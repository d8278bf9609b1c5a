//! The program that judges unfinished checksums, as instructions of the kernel's virtual machine.
//!
//! Turns the places of four fields of the kernel's packet structure into a program for the `tcx` hooks. It passes on
//! every frame whose checksum is finished. Of the others it passes on those whose checksum field, the place that the
//! kernel will write to, is the field of the transport protocol itself, or lies behind all that a rule can read.
//! It knows nothing of interfaces and filters.

use super::skb::Offsets;

/// Continue with the next program, and then with the rules.
const NEXT: i32 = -1;
/// Drop the frame.
const DROP: i32 = 2;
/// `CHECKSUM_PARTIAL`: the kernel has to finish the checksum.
const PARTIAL: i32 = 3;
/// `bpf_skb_load_bytes`, which reads frames that lie in several pieces.
const LOAD_BYTES: i32 = 26;

const ETHER_HEADER: i32 = 14;
const IPV4: i32 = 0x0800;
const IPV6: i32 = 0x86dd;
const TAGS: [i32; 2] = [0x8100, 0x88a8];
/// Tags of VLANs that a frame may carry in its bytes.
const MOST_TAGS: usize = 2;
const HOP_BY_HOP: i32 = 0;
const ROUTING: i32 = 43;
const FRAGMENT: i32 = 44;
const DESTINATION: i32 = 60;
/// Extension headers of IPv6 that are walked over.
const MOST_EXTENSIONS: usize = 4;

/// A transport protocol, the place of its checksum, and from where on the kernel may write besides.
struct Transport {
    protocol: i32,
    field: i32,
    /// Behind the header that rules read: the checksum of a packet inside of a tunnel.
    payload: Option<i32>,
}

const TRANSPORTS: &[Transport] = &[
    Transport { protocol: 6, field: 16, payload: None },
    Transport { protocol: 17, field: 6, payload: Some(8) },
    Transport { protocol: 136, field: 6, payload: None },
    Transport { protocol: 33, field: 6, payload: None },
    Transport { protocol: 132, field: 8, payload: None },
    Transport { protocol: 1, field: 2, payload: None },
    Transport { protocol: 58, field: 2, payload: None },
    // GRE, IPv4 and IPv6 in IP: a packet inside.
    Transport { protocol: 47, field: 4, payload: Some(8) },
    Transport { protocol: 4, field: 36, payload: Some(20) },
    Transport { protocol: 41, field: 46, payload: Some(40) },
];

/// One instruction, as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Source register in the upper half, destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Where a jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Pass,
    Drop,
    Network,
    Ipv4,
    Ipv6,
    Transport,
    Extension(usize),
    ExtensionFragment(usize),
    Protocol(usize),
}

#[derive(Clone, Copy)]
enum Register {
    Result = 0,
    Argument1 = 1,
    Argument2 = 2,
    Argument3 = 3,
    Argument4 = 4,
    /// The context.
    Frame = 6,
    /// The transport protocol, once it is known.
    Protocol = 7,
    /// Where the kernel will write the checksum, counted from the Ethernet header.
    Place = 8,
    /// Where the header being read begins, counted likewise.
    Header = 9,
    Stack = 10,
}
use Register::*;

/// Width of a load.
#[derive(Clone, Copy)]
enum Width {
    Byte = 0x10,
    Half = 0x08,
    Double = 0x18,
}

/// The instructions so far, and the jumps that wait for their targets.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

/// Where loaded bytes are put, below the end of the stack.
const BUFFER: i16 = -24;

/// The program for a kernel with these places of fields.
///
/// `cast` is the kernel's number of `bpf_cast_to_kern_ctx`.
pub fn program(offsets: &Offsets, cast: u32) -> Vec<Instruction> {
    let mut code = Assembler::default();
    unfinished(&mut code, offsets, cast);
    ethernet(&mut code);
    ipv4(&mut code);
    ipv6(&mut code);
    transport(&mut code);
    code.end(Label::Drop, DROP);
    code.end(Label::Pass, NEXT);
    code.finish()
}

/// Passes frames on whose checksum is finished; of others learns the place that the kernel will write to.
fn unfinished(code: &mut Assembler, offsets: &Offsets, cast: u32) {
    code.copy(Frame, Argument1);
    code.call_kernel(cast);
    code.load(Width::Byte, Argument1, Result, offsets.ip_summed.byte);
    code.and(Argument1, 3 << offsets.ip_summed.shift);
    code.unless_equal(Argument1, PARTIAL << offsets.ip_summed.shift, Label::Pass);
    code.load(Width::Half, Place, Result, offsets.csum_start);
    code.load(Width::Half, Argument1, Result, offsets.csum_offset);
    code.add_register(Place, Argument1);
    code.load(Width::Double, Argument1, Result, offsets.head);
    code.add_register(Place, Argument1);
    code.load(Width::Double, Argument1, Result, offsets.data);
    code.subtract_register(Place, Argument1);
}

/// Finds the network header behind the tags of VLANs.
fn ethernet(code: &mut Assembler) {
    code.set(Header, ETHER_HEADER);
    for _ in 0..=MOST_TAGS {
        code.read_at_header(-2, 2);
        code.load_network_half(Argument1, BUFFER);
        code.if_equal(Argument1, IPV4, Label::Ipv4);
        code.if_equal(Argument1, IPV6, Label::Ipv6);
        code.add(Header, 4);
        code.if_equal(Argument1, TAGS[0], Label::Network);
        code.unless_equal(Argument1, TAGS[1], Label::Drop);
        code.label(Label::Network);
    }
    code.jump(Label::Drop);
}

fn ipv4(code: &mut Assembler) {
    code.label(Label::Ipv4);
    code.read_at_header(0, 20);
    code.load(Width::Byte, Argument1, Stack, BUFFER);
    code.copy(Argument2, Argument1);
    code.and(Argument2, 0xf0);
    code.unless_equal(Argument2, 0x40, Label::Drop);
    code.and(Argument1, 0x0f);
    code.if_less(Argument1, 5, Label::Drop);
    code.shift_left(Argument1, 2);
    code.add_register(Header, Argument1);
    // A later fragment has no transport header.
    code.load_network_half(Argument1, BUFFER + 6);
    code.and(Argument1, 0x1fff);
    code.unless_equal(Argument1, 0, Label::Drop);
    code.load(Width::Byte, Protocol, Stack, BUFFER + 9);
    code.jump(Label::Transport);
}

fn ipv6(code: &mut Assembler) {
    code.label(Label::Ipv6);
    code.read_at_header(0, 8);
    code.load(Width::Byte, Protocol, Stack, BUFFER + 6);
    code.add(Header, 40);
    for index in 0..MOST_EXTENSIONS {
        code.if_equal(Protocol, FRAGMENT, Label::ExtensionFragment(index));
        code.if_equal(Protocol, HOP_BY_HOP, Label::Extension(index));
        code.if_equal(Protocol, ROUTING, Label::Extension(index));
        code.unless_equal(Protocol, DESTINATION, Label::Transport);
        code.label(Label::Extension(index));
        code.read_at_header(0, 8);
        code.load(Width::Byte, Protocol, Stack, BUFFER);
        code.load(Width::Byte, Argument1, Stack, BUFFER + 1);
        code.add(Argument1, 1);
        code.shift_left(Argument1, 3);
        code.add_register(Header, Argument1);
        code.jump(Label::Extension(MOST_EXTENSIONS + index));
        code.label(Label::ExtensionFragment(index));
        code.read_at_header(0, 8);
        code.load(Width::Byte, Protocol, Stack, BUFFER);
        code.load_network_half(Argument1, BUFFER + 2);
        code.and(Argument1, 0xfff8);
        code.unless_equal(Argument1, 0, Label::Drop);
        code.add(Header, 8);
        code.label(Label::Extension(MOST_EXTENSIONS + index));
    }
}

fn transport(code: &mut Assembler) {
    code.label(Label::Transport);
    code.subtract_register(Place, Header);
    for (index, transport) in TRANSPORTS.iter().enumerate() {
        code.unless_equal(Protocol, transport.protocol, Label::Protocol(index));
        code.if_equal(Place, transport.field, Label::Pass);
        if let Some(payload) = transport.payload {
            code.if_at_least(Place, payload, Label::Pass);
        }
        code.jump(Label::Drop);
        code.label(Label::Protocol(index));
    }
}

impl Assembler {
    fn push(&mut self, code: u8, destination: Register, source: u8, offset: i16, immediate: i32) {
        let registers = source << 4 | destination as u8;
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from as u8, 0, 0);
    }

    fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, to, 0, 0, value);
    }

    fn add_register(&mut self, to: Register, from: Register) {
        self.push(0x0f, to, from as u8, 0, 0);
    }

    fn subtract_register(&mut self, to: Register, from: Register) {
        self.push(0x1f, to, from as u8, 0, 0);
    }

    fn and(&mut self, to: Register, mask: i32) {
        self.push(0x57, to, 0, 0, mask);
    }

    fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(0x67, to, 0, 0, bits);
    }

    fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.push(0x61 | width as u8, to, from as u8, offset, 0);
    }

    /// Two bytes of the stack that lie in network byte order.
    fn load_network_half(&mut self, to: Register, offset: i16) {
        self.load(Width::Half, to, Stack, offset);
        self.push(0xdc, to, 0, 0, 16);
    }

    fn call_kernel(&mut self, function: u32) {
        self.push(0x85, Result, 2, 0, function.cast_signed());
    }

    /// Reads bytes of the frame, counted from the header, to the buffer; a frame that is too short is dropped.
    fn read_at_header(&mut self, offset: i32, length: i32) {
        self.copy(Argument1, Frame);
        self.copy(Argument2, Header);
        self.add(Argument2, offset);
        self.copy(Argument3, Stack);
        self.add(Argument3, BUFFER.into());
        self.set(Argument4, length);
        self.push(0x85, Result, 0, 0, LOAD_BYTES);
        self.unless_equal(Result, 0, Label::Drop);
    }

    fn jump(&mut self, to: Label) {
        self.jump_if(0x05, Result, 0, to);
    }

    fn if_equal(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x15, register, value, to);
    }

    fn unless_equal(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x55, register, value, to);
    }

    fn if_less(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0xa5, register, value, to);
    }

    /// Signed, since a place before the header is negative.
    fn if_at_least(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x75, register, value, to);
    }

    fn jump_if(&mut self, code: u8, register: Register, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(code, register, 0, 0, value);
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    fn end(&mut self, label: Label, verdict: i32) {
        self.label(label);
        self.set(Result, verdict);
        self.push(0x95, Result, 0, 0, 0);
    }

    /// Resolves each jump to the next place of its label.
    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let target = self.labels.iter().find(|(other, place)| other == label && place > at);
            let (_, place) = target.expect("every jump leads forward to a label");
            let distance = place - at - 1;
            self.code[*at].offset = distance.try_into().expect("the program is shorter than a jump");
        }
        self.code
    }
}
