//! XML to [`Filter`](super::Filter).
