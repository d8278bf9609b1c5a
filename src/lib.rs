//! nwfilter: libvirt network filters, enforced with nftables over netlink.

pub mod rpc;
