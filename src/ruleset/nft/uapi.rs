//! Numbers of the kernel's nf_tables interface that the libc crate does not name.

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_F_OWNER: u32 = 2;
pub(super) const TABLE_F_PERSIST: u32 = 4;
pub(super) const TABLE_OWNER: u16 = 7;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const CHAIN_FLAGS: u16 = 10;
/// Set on every base chain.
pub(super) const CHAIN_F_BASE: u32 = 1;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const HOOK_DEVICE: u16 = 3;
pub(super) const HOOK_DEVICES: u16 = 4;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_TIMEOUT: u16 = 11;
pub(super) const SET_GC_INTERVAL: u16 = 12;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const SET_OBJECT_TYPE: u16 = 15;
pub(super) const SET_DESC_SIZE: u16 = 1;
pub(super) const SET_EXPRESSION: u16 = 17;
pub(super) const SET_EXPRESSIONS: u16 = 18;

/// `NFT_MSG_GETFLOWTABLE`.
pub(super) const MSG_GET_FLOWTABLES: i32 = 23;
/// The name of its table, on an object or flowtable.
pub(super) const OTHER_TABLE: u16 = 1;

/// `NFT_MSG_DESTROYSETELEM`, of 6.3: what is not there is no fault.
pub(super) const MSG_DESTROY_ELEMENTS: i32 = 30;

pub(super) const LIST_TABLE: u16 = 1;
pub(super) const LIST_SET: u16 = 2;
pub(super) const LIST_ELEMENTS: u16 = 3;
pub(super) const LIST_SET_ID: u16 = 4;
pub(super) const LIST_ITEM: u16 = 1;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_FLAGS: u16 = 3;
pub(super) const ELEM_USERDATA: u16 = 6;
pub(super) const ELEM_EXPRESSION: u16 = 7;
pub(super) const ELEM_PAD: u16 = 8;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

pub(super) const COUNTER_BYTES: u16 = 1;
pub(super) const COUNTER_PACKETS: u16 = 2;

/// `NFTA_*` attributes of the expressions, by their kind.
pub(super) const PAYLOAD_DREG: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LEN: u16 = 4;
pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SREG: u16 = 3;
pub(super) const CT_DREG: u16 = 1;
pub(super) const CT_KEY: u16 = 2;
pub(super) const CT_SREG: u16 = 4;
pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;
pub(super) const BITWISE_OP: u16 = 6;
pub(super) const BITWISE_SREG2: u16 = 8;
pub(super) const CMP_SREG: u16 = 1;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;
pub(super) const RANGE_SREG: u16 = 1;
pub(super) const RANGE_OP: u16 = 2;
pub(super) const RANGE_FROM_DATA: u16 = 3;
pub(super) const RANGE_TO_DATA: u16 = 4;
pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_SREG: u16 = 2;
pub(super) const LOOKUP_DREG: u16 = 3;
pub(super) const LOOKUP_SET_ID: u16 = 4;
pub(super) const LOOKUP_FLAGS: u16 = 5;
pub(super) const EXTHDR_DREG: u16 = 1;
pub(super) const EXTHDR_TYPE: u16 = 2;
pub(super) const EXTHDR_OFFSET: u16 = 3;
pub(super) const EXTHDR_LEN: u16 = 4;
pub(super) const EXTHDR_FLAGS: u16 = 5;
pub(super) const EXTHDR_OP: u16 = 6;
pub(super) const CONNLIMIT_COUNT: u16 = 1;
pub(super) const CONNLIMIT_FLAGS: u16 = 2;
pub(super) const DYNSET_SET_NAME: u16 = 1;
pub(super) const DYNSET_OP: u16 = 3;
pub(super) const DYNSET_SREG_KEY: u16 = 4;
pub(super) const DYNSET_EXPR: u16 = 7;
pub(super) const IMMEDIATE_DREG: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;
pub(super) const REJECT_TYPE: u16 = 1;
pub(super) const REJECT_ICMP_CODE: u16 = 2;

/// The operation of a bitwise expression that combines two registers.
pub(super) const BITWISE_OP_XOR: u32 = 5;
/// A connlimit that holds above its count.
pub(super) const CONNLIMIT_F_INV: u32 = 1;
/// An extension header's being there, instead of its content.
pub(super) const EXTHDR_F_PRESENT: u32 = 1;
pub(super) const EXTHDR_OP_TCPOPT: u32 = 1;

/// Attributes of an error reply.
pub(super) const ERROR_TEXT: u16 = 1;
pub(super) const ERROR_OFFSET: u16 = 2;

pub(super) const GEN_ID: u16 = 1;
pub(super) const GEN_PID: u16 = 2;
pub(super) const GEN_NAME: u16 = 3;

/// Notes that nft leaves for itself on a set.
pub(super) const UDATA_KEY_ORDER: u8 = 0;
pub(super) const UDATA_DATA_ORDER: u8 = 1;
pub(super) const UDATA_KEY_TYPEOF: u8 = 3;
pub(super) const UDATA_DATA_TYPEOF: u8 = 4;
pub(super) const UDATA_TYPEOF_EXPR: u8 = 0;
pub(super) const UDATA_TYPEOF_DATA: u8 = 1;
/// The note that nft leaves on a rule, and the one that we do.
pub(super) const UDATA_COMMENT: u8 = 0;
pub(super) const UDATA_DIGEST: u8 = 0x6e;

/// What a note on byte order says: a key of several parts has none.
pub(super) const NO_ORDER: u32 = 0;
pub(super) const HOST_ORDER: u32 = 1;
pub(super) const NETWORK_ORDER: u32 = 2;
/// nft's numbers for the expressions that a type can be taken from.
pub(super) const TYPEOF_PAYLOAD: u32 = 7;
pub(super) const TYPEOF_META: u32 = 9;
pub(super) const TYPEOF_CT: u32 = 12;
pub(super) const TYPEOF_CONCAT: u32 = 13;

/// Bits of each part in nft's number for the type of a key of several parts.
pub(super) const TYPE_BITS: u32 = 6;

/// The number of nft for a value that is an integer, and the bytes of a conntrack zone.
pub(super) const TYPE_INTEGER: u32 = 4;
pub(super) const ZONE_LENGTH: u32 = 2;
