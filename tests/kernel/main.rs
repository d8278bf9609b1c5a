//! Our batches against the kernel, with nft as the judge: what we send must list as what nft loads from our text.
//!
//! Every test steps into a network namespace of its own thread, needs root, and leaves nothing behind.

mod apply;
mod build;
mod cases;
mod golden;
mod lab;
mod owner;
mod ranges;
mod text;
#[path = "../tool/mod.rs"]
mod tool;
