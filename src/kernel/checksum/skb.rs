//! Where the running kernel keeps what the program reads of a packet.
//!
//! Turns the kernel's own description of its types (BTF, `/sys/kernel/btf/vmlinux`) into four offsets within `struct
//! sk_buff`, and the number of one function. These differ from kernel to kernel.

use btf_rs::{Backend, Btf, BtfType, Struct, Type};
use std::path::Path;

/// The kernel's description of its types.
pub const DESCRIPTION: &str = "/sys/kernel/btf/vmlinux";

/// Offsets within `struct sk_buff`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The two bits that tell whether the checksum is finished.
    pub ip_summed: Bits,
    /// Where summing begins, counted from `head`; two bytes.
    pub csum_start: i16,
    /// Where the sum is written, counted from `csum_start`; two bytes.
    pub csum_offset: i16,
    /// The address of the buffer.
    pub head: i16,
    /// The address of the frame within it.
    pub data: i16,
}

/// A field of bits within a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The byte's offset.
    pub byte: i16,
    /// The lowest bit's number.
    pub shift: u32,
}

/// What is read from the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Fields of a packet.
    pub offsets: Offsets,
    /// The number of `bpf_cast_to_kern_ctx`, which gives a program the packet itself.
    pub cast: u32,
}

/// Reads the description at this path.
///
/// # Errors
/// Where there is none, or where it lacks a field or the function: Linux before 6.2, or without `CONFIG_DEBUG_INFO_BTF`.
pub fn read(path: &Path) -> Result<Description, String> {
    // A handful of types are needed. A kernel before 6.16 does not let its description be mapped.
    let mapped = Btf::from_file_with_backend(path, Backend::Mmap).or_else(|_| Btf::from_file(path));
    let btf = mapped.map_err(|error| format!("{}: {error}", path.display()))?;
    let packet = btf.resolve_types_by_name("sk_buff").map_err(|error| error.to_string())?;
    let packet = packet.into_iter().find_map(|found| match found {
        Type::Struct(found) => Some(found),
        _ => None,
    });
    let packet = packet.ok_or("struct sk_buff is not described")?;
    let bit = |name: &str| bit_offset(&btf, &packet, name).ok_or(format!("sk_buff.{name} is not described"));
    let byte = |name: &str| -> Result<i16, String> {
        (bit(name)? / 8).try_into().map_err(|_| format!("sk_buff.{name} lies too far"))
    };
    let summed = bit("ip_summed")?;
    let offsets = Offsets {
        ip_summed: Bits { byte: byte("ip_summed")?, shift: summed % 8 },
        csum_start: byte("csum_start")?,
        csum_offset: byte("csum_offset")?,
        head: byte("head")?,
        data: byte("data")?,
    };
    Ok(Description { offsets, cast: function(&btf, "bpf_cast_to_kern_ctx")? })
}

fn function(btf: &Btf, name: &str) -> Result<u32, String> {
    let ids = btf.resolve_ids_by_name(name).unwrap_or_default();
    let found = ids.into_iter().find(|id| matches!(btf.resolve_type_by_id(*id), Ok(Type::Func(_))));
    found.ok_or(format!("{name} is not there (Linux 6.2 has it)"))
}

/// The offset of a member in bits, also of one inside of an unnamed structure or union.
fn bit_offset(btf: &Btf, within: &Struct, name: &str) -> Option<u32> {
    within.members.iter().find_map(|member| {
        let named = btf.resolve_name(member).unwrap_or_default();
        if named == name {
            return Some(member.bit_offset());
        }
        if !named.is_empty() {
            return None;
        }
        let (Type::Struct(inner) | Type::Union(inner)) =
            btf.resolve_type_by_id(member.get_type_id()?).ok()?
        else {
            return None;
        };
        Some(member.bit_offset() + bit_offset(btf, &inner, name)?)
    })
}
